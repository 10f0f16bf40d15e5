"""A configuration checks itself and names the value that is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from nestlearn.memory import MemoryRule
from nestlearn.models.hope import HopeConfig, HopeForCausalLM
from nestlearn.models.hope.mixers import BASELINES
from tests.helpers import tiny_config, tiny_model

NAN = float("nan")
INF = float("inf")


def test_the_example_of_the_design_is_accepted() -> None:
    config = HopeConfig(
        vocab_size=4096,
        hidden_size=256,
        num_hidden_layers=4,
        num_heads=4,
        mixer="self_modifying",
        memory="mlp",
        objective="l2",
        chunk_size=16,
        projection_chunk_size=16,
        erase=True,
        momentum=False,
        adaptive_query=False,
        cms_variant="sequential",
        cms_periods=(2048, 16384, 131072),
    )
    with torch.device("meta"):
        model = HopeForCausalLM(config)
    assert [len(layer.cms.blocks) for layer in model.model.layers] == [3] * 4
    for other in ("attention", "gated_delta"):
        assert HopeConfig(mixer=other).mixer == other


def test_the_defaults_are_valid_and_hope() -> None:
    config = HopeConfig()
    assert (config.mixer, config.memory, config.objective, config.cms_variant) == (
        "self_modifying",
        "mlp",
        "dot",
        "sequential",
    )
    assert config.memory_rule() == MemoryRule()
    assert sum(config.cms_sizes()) == config.intermediate_size


OUT_OF_RANGE = [
    *(
        (name, bad)
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_heads")
        for bad in (0, -3)
    ),
    ("num_heads", 3),  # 16 is not a multiple
    ("hidden_size", 17),
    ("intermediate_size", 0),
    ("intermediate_size", -8),
    ("intermediate_size", 1),  # two levels
    ("mixer", "mamba"),
    ("memory", "cube"),
    ("memory_expansion", 0),
    ("objective", "l3"),
    ("chunk_size", 0),
    ("chunk_size", -1),
    ("projection_chunk_size", 6),
    ("projection_chunk_size", 0),
    ("backprop_chunks", 0),
    ("checkpoint_chunks", -1),
    ("activation", "tanh"),
    ("features", "random"),
    ("erase_layers", "output"),
    ("main_target", "key"),
    ("retention", "kept"),
    ("gates", "token"),
    ("gates", "channel"),  # of an MLP memory
    ("rest", "middle"),
    ("window", 0),
    ("persistent_tokens", -1),
    *(("rate_max", bad) for bad in (0.0, -1.0, 2.01, NAN, INF)),
    ("conv_size", -1),
    ("cms_variant", "parallel"),
    ("cms_periods", ()),
    ("cms_periods", (0, 4)),
    ("cms_periods", (-4, 4)),
    ("cms_periods", (4, 4)),
    ("cms_periods", (8, 4)),
    ("cms_periods", (4, 6)),
    *(("rope_theta", bad) for bad in (0.0, -1.0, NAN, INF)),
    *(("rms_norm_eps", bad) for bad in (-1.0, NAN, INF)),
    *(("initializer_range", bad) for bad in (-1.0, NAN, INF)),
]


@pytest.mark.parametrize(("field", "bad"), OUT_OF_RANGE, ids=str)
def test_a_value_out_of_range_is_refused_by_name(field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(field)) as caught:
        tiny_config(**{field: bad})
    message = str(caught.value)
    assert str(bad) in message or repr(bad) in message or (bad == () and "empty" in message)


@pytest.mark.parametrize("mixer", ["gated_delta", "attention"])
@pytest.mark.parametrize(
    ("field", "bad"),
    [("memory", "cube"), ("objective", "l3"), ("main_target", "key"), ("chunk_size", 0), ("rate_max", 3.0)],
    ids=str,
)
def test_a_misspelled_choice_is_refused_even_where_it_is_not_read(mixer: str, field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(str(bad))):
        tiny_config(mixer=mixer, **{field: bad})


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("vocab_size", 50.5),
        ("vocab_size", "50"),
        ("hidden_size", 16.0),
        ("num_hidden_layers", 1.5),
        ("num_heads", "2"),
        ("chunk_size", 4.5),
        ("conv_size", 1.5),
        ("rate_max", "1"),
        ("cms_periods", (16.0, 64.0)),
        ("cms_periods", 16),
        ("cms_periods", ("16", "64")),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_refused(field: str, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError, StrictDataclassError)):
        tiny_config(**{field: bad})


def test_one_mixer_for_all_layers_or_one_for_each() -> None:
    assert tiny_config(num_hidden_layers=2, mixer="delta").mixers == ("delta", "delta")
    mixed = tiny_config(num_hidden_layers=2, mixer=["self_modifying", "attention"])
    assert mixed.mixer == mixed.mixers == ("self_modifying", "attention")
    assert HopeConfig(**mixed.to_dict()).mixers == mixed.mixers
    model = tiny_model(num_hidden_layers=2, mixer=["self_modifying", "attention"])
    assert [type(layer.mixer).__name__ for layer in model.model.layers] == [
        "SelfModifyingTitans",
        "Attention",
    ]
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"mixer names 2 layers, num_hidden_layers is {count}"):
            tiny_config(num_hidden_layers=count, mixer=["delta", "attention"])
    with pytest.raises(ValueError, match=r"mixer must be one of .*got 'mamba'"):
        tiny_config(num_hidden_layers=2, mixer=["delta", "mamba"])
    with pytest.raises(ValueError, match="'attention' has no memories"):
        tiny_config(mixer="attention").memory_rule()
    assert mixed.memory_rule() == mixed.memory_rule("self_modifying")
    assert mixed.memory_rule("titans").momentum  # any mixer's, whether a layer has it or not


@pytest.mark.parametrize("mixer", BASELINES)
@pytest.mark.parametrize("chunk_size", [1, 8])
def test_a_baselines_rule_reads_only_what_concerns_it(mixer: str, chunk_size: int) -> None:
    shared: dict[str, Any] = {"mixer": mixer, "chunk_size": chunk_size}
    rule = tiny_config(**shared).memory_rule()
    assert rule.adaptive == ()
    assert rule.rest == "zero"
    assert rule.chunk_size == chunk_size
    assert rule.rate_max == (1 / chunk_size if rule.objective == "l2" else 1.0)
    marked = {"memory": "mlp", "momentum": True, "erase": False, "inner_norm": True, "features": "plain"}
    assert tiny_config(**shared, **marked).memory_rule() == rule
    assert tiny_config(**shared, rate_max=0.5).memory_rule().rate_max == 0.5
    assert not tiny_config(**shared, causal_reads=False).memory_rule().causal_reads


def test_attention_needs_an_even_head_width() -> None:
    with pytest.raises(ValueError, match="even head width, got 3"):
        tiny_config(mixer="attention", hidden_size=6)
    assert tiny_config(mixer="gated_delta", hidden_size=6).hidden_size == 6


def test_the_dot_product_objective_has_a_wider_range() -> None:
    assert tiny_config(objective="dot", rate_max=2.0).memory_rule().rate_max == 2.0
    with pytest.raises(ValueError, match=re.escape("2.1")):
        tiny_config(objective="dot", rate_max=2.1)


@pytest.mark.parametrize("periods", [(7,), (2, 4), (16, 64, 256, 1024)])
@pytest.mark.parametrize("size", [4, 17, 100])
def test_blocks_share_the_intermediate_size(periods: tuple[int, ...], size: int) -> None:
    config = tiny_config(cms_periods=periods, intermediate_size=size)
    sizes = config.cms_sizes()
    assert len(sizes) == len(periods)
    assert sum(sizes) == size
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)


def test_periods_may_come_as_a_list_and_are_a_tuple() -> None:
    assert tiny_config(cms_periods=[16, 64]).cms_periods == (16, 64)


def test_transformers_reads_the_usual_names() -> None:
    assert tiny_config().num_attention_heads == 2
    assert tiny_config().is_encoder_decoder is False


def test_a_configuration_survives_a_dictionary() -> None:
    config = tiny_config(memory="matrix", cms_periods=(8, 32), rate_max=0.5)
    again = HopeConfig(**config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.cms_periods == (8, 32)


def test_equal_intermediate_size_gives_equal_feed_forward_parameters() -> None:
    """More levels divide the same units: only the norms are added."""

    def matrices(periods: tuple[int, ...]) -> int:
        blocks = tiny_model(cms_periods=periods).model.layers[0].cms.blocks
        return sum(p.numel() for p in blocks.parameters() if p.dim() == 2)

    assert matrices((16,)) == matrices((16, 64)) == matrices((16, 64, 256))
