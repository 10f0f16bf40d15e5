"""``torch.compile`` and ``torch.export``: the same numbers, in one graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from nestlearn.models.hope import HopeCache
from nestlearn.models.hope.decoding import DecodeStep, export_decode_step, states_of
from tests.helpers import random_tokens, relative_error, tiny_model
from tests.models.variants import Changes, over

#: A function of autograd of our own, as dynamo looks at it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

#: Each kind of state, and what branches on values elsewhere.
STATES: list[Changes] = [
    {"mixer": "gated_delta"},
    {"mixer": "attention"},
    {"mixer": "attention", "window": 5},
]
MORE: list[Changes] = [
    {},
    {"projection_chunk_size": 8, "momentum": True, "objective": "l2", "rate_max": 0.03},
    {"memory": "matrix", "rest": "zero", "adaptive_query": True},
    {"mixer": "ttt_mlp"},
    {"mixer": "titans_mac", "persistent_tokens": 2},
    {"mixer": "titans_mag", "window": 5},
    {"mixer": "titans_mal", "window": 5},
    {"mixer": ("self_modifying", "attention"), "num_hidden_layers": 2},
]


def check_exported(changes: Changes, program: Any, model: Any) -> None:
    """Thirty steps of a program, over the boundaries of chunks, beside one pass of the model."""
    run, states, tokens = program.module(), DecodeStep(model).initial_states(2), random_tokens(2, 30)
    logits = []
    for token in tokens.split(1, dim=1):
        one, states = run(token, states)
        logits.append(one)
    assert relative_error(model(tokens).logits, torch.stack(logits, dim=1)) < 1e-5, changes


@over(STATES)
@torch.no_grad()
def test_an_exported_step_decodes_like_the_model(changes: Changes) -> None:
    model = tiny_model(**changes)
    check_exported(changes, export_decode_step(model, batch_size=2), model)


@pytest.mark.slow
@over(MORE)
@torch.no_grad()
def test_an_exported_step_of_any_mixer(changes: Changes) -> None:
    model = tiny_model(**changes)
    check_exported(changes, export_decode_step(model, batch_size=2), model)


@torch.no_grad()
def test_an_exported_step_is_saved_and_goes_on_from_a_session(tmp_path: Path) -> None:
    model, tokens = tiny_model(mixer="gated_delta", num_hidden_layers=2), random_tokens(1, 20)
    torch.export.save(export_decode_step(model), tmp_path / "step.pt2")
    run = torch.export.load(tmp_path / "step.pt2").module()
    cache = model(tokens[:, :19], use_cache=True).past_key_values
    logits, states = run(tokens[:, 19:], states_of(cache))
    assert relative_error(model(tokens).logits[:, -1], logits) < 1e-5
    model(tokens[:, 19:], past_key_values=cache)
    for expected, got in zip(states_of(cache), states, strict=True):
        assert relative_error(expected, got) < 1e-5
    with pytest.raises(ValueError, match="has seen no token"):
        states_of(HopeCache())


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        export_decode_step(tiny_model(), batch_size=0)


@pytest.mark.slow
@over([*STATES, {}, {"mixer": "titans_mag", "window": 5}])
@torch.no_grad()
def test_a_forward_pass_is_one_graph(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 24)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert relative_error(model(tokens).logits, compiled(tokens, use_cache=False).logits) < 1e-5


@pytest.mark.slow
def test_gradients_of_a_compiled_model() -> None:
    model, tokens = tiny_model(mixer="gated_delta"), random_tokens(2, 24)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(tokens, labels=tokens, use_cache=False).loss.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(tokens, labels=tokens, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        assert relative_error(parameter.grad, got[name]) < 1e-4, name


@pytest.mark.slow
@torch.no_grad()
def test_one_graph_decodes_every_step() -> None:
    model, tokens = tiny_model(mixer="gated_delta"), random_tokens(1, 14)
    torch.compiler.reset()
    step = DecodeStep(model)
    counter = CompileCounter()
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    states, logits = step.initial_states(), []
    for token in tokens.split(1, dim=1):
        one, states = compiled(token, states)
        logits.append(one)
    assert relative_error(model(tokens).logits, torch.stack(logits, dim=1)) < 1e-5
    assert counter.frame_count == 1
