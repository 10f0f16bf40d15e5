"""Named configurations: each trains, and the paper's is the paper's."""

from __future__ import annotations

import math

import pytest
import torch

from nestlearn.memory import MemoryRule
from nestlearn.models.hope import HopeConfig, HopeForCausalLM
from nestlearn.models.hope.presets import PRESETS
from tests.helpers import random_tokens

TINY = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2, "intermediate_size": 24}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_a_step_with_a_gradient_for_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = HopeForCausalLM(HopeConfig.preset(name, **TINY, chunk_size=4)).train()
    tokens = random_tokens(2, 22)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model(tokens, labels=tokens).loss
    before.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert 1e-10 < parameter.grad.norm() < math.inf, parameter_name
    optimizer.step()
    with torch.no_grad():
        assert model(tokens, labels=tokens).loss < before


def test_the_paper_is_its_equations() -> None:
    assert HopeConfig.preset("paper").memory_rule() == MemoryRule(
        kind="mlp",
        activation="gelu",
        features="plain",
        inner_norm=False,
        main_residual=True,  # Eq. 89
        objective="l2",  # Eq. 93
        erase="input",  # Eq. 88, where it type-checks
        chunk_size=16,
        projection_chunk_size=None,
        causal_reads=False,  # Eq. 90
        unit_targets=False,  # Eq. 84
        main_target="generated",
        adaptive=("key", "rate", "retention", "value"),  # Eq. 83; the query is static
        momentum=False,
        rate="gated",
        rate_max=0.1,
        retention="gated",
        gates="head",
        rest="zero",
    )
    assert HopeConfig.preset("paper").memory_expansion == 4


def test_what_table_6_takes_away_is_in_its_full_model() -> None:
    full = HopeConfig.preset("table6").to_dict()
    ablations = [name for name in PRESETS if name.startswith("table6_without_")]
    assert len(ablations) == 7
    for name in ablations:
        changed = {key for key, value in HopeConfig.preset(name).to_dict().items() if value != full[key]}
        assert len(changed) == 1, (name, changed)
    rule = HopeConfig.preset("table6").memory_rule()
    assert rule.momentum
    assert rule.erase != "none"
    assert rule.retention == "gated"
    assert set(rule.adaptive) == {"key", "value", "query", "rate", "retention"}
    assert HopeConfig.preset("table6_without_dgd").memory_rule().erase == "none"
    assert HopeConfig.preset("table6_without_weight_decay").memory_rule().retention == "none"


def test_changes_win_and_the_default_is_the_default() -> None:
    assert HopeConfig.preset("default").to_dict() == HopeConfig().to_dict()
    assert HopeConfig.preset("paper", objective="dot", chunk_size=64).memory_rule().objective == "dot"


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"default, frozen, paper, table6.*got 'hope'"):
        HopeConfig.preset("hope")
