"""A retrofitted model computes the same at first, learns by levels, and leaves its base alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import nestlearn as nl
from nestlearn.retrofitting import Parts, retrofit_of
from tests.helpers import copy_tree, difference
from tests.retrofitting.small import (
    ARCHITECTURES,
    by_adamw,
    plain,
    pretrained,
    same,
    tokens,
    train,
    two_levels,
    weights,
)

WAYS: dict[str, dict[str, Any]] = {
    "units": {},
    "usage": {"assign": "usage", "calibration": [tokens(seed=9)]},
    "layers": {"how": "layers"},
    "random layers": {"how": "layers", "assign": "random"},
    "rest": {"rest": "slow"},
}
every = pytest.mark.parametrize("name", ARCHITECTURES)
ways = pytest.mark.parametrize("way", WAYS)


@every
@ways
def test_the_function_is_the_same_before_and_after(name: str, way: str) -> None:
    base, x = pretrained(name), tokens()
    before, kept = base(x).logits, weights(base)
    model = nl.retrofit(base, two_levels(), **WAYS[way])
    assert type(model) is type(base)
    assert torch.equal(model(x).logits, before)
    train(model, nl.NestedUnits(model), 2)
    assert not torch.equal(model(x).logits, before)
    assert same(weights(base), kept)
    undone = nl.undo_retrofit(model)
    assert undone is base
    assert torch.equal(undone(x).logits, before)


@every
def test_it_generates_and_is_saved_as_before(name: str, tmp_path: Any) -> None:
    base, x = pretrained(name), tokens(1, 5)
    model = nl.retrofit(base, two_levels())
    settings = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(x)}
    assert torch.equal(model.generate(x, **settings), base.generate(x, **settings))
    train(model, nl.NestedUnits(model), 2)
    model.save_pretrained(tmp_path)
    loaded = type(base).from_pretrained(tmp_path).eval()
    assert same(weights(loaded), weights(model))
    assert torch.equal(loaded(x).logits, model(x).logits)


@every
def test_a_level_changes_only_its_own_units_and_only_when_it_is_due(name: str) -> None:
    model = nl.retrofit(pretrained(name), two_levels())
    optimizer = nl.NestedUnits(model)
    start = weights(model)
    train(model, optimizer, 1)
    fresh = Parts(model, retrofit_of(model).division)
    for level, moved in (("fast", True), ("slow", False)):
        for part_name, part in fresh.by_level[level].items():
            before = part.of(start[part_name])
            now = part.of(part.parameter.detach())
            assert torch.equal(before, now) != moved, (level, part_name)
    train(model, optimizer, 1, first=1)
    slow = fresh.by_level["slow"]
    assert not any(torch.equal(p.of(start[n]), p.of(p.parameter.detach())) for n, p in slow.items())
    owned = {part_name for parts in fresh.by_level.values() for part_name in parts}
    assert all(torch.equal(value, start[key]) for key, value in weights(model).items() if key not in owned)


def units_of(base: Any) -> list[str]:
    """Names of the parameters that have hidden units, found by their size."""
    return [name for name, p in base.named_parameters() if 48 in p.shape]


def test_one_level_is_adamw_on_the_feed_forward_blocks() -> None:
    base = pretrained()
    model = nl.retrofit(base, [nl.Level("all", 64, lr=1e-2, max_grad_norm=None)])
    train(model, nl.NestedUnits(model), 4)
    assert same(weights(model), by_adamw(base, units_of(base)))


@pytest.mark.parametrize("name", ["llama", "gemma", "phi3"])
def test_levels_of_one_period_are_one_level(name: str) -> None:
    """AdamW goes element by element, so it does not matter how they are divided."""
    settings = {"lr": 1e-2, "max_grad_norm": None}
    one = nl.retrofit(pretrained(name), [nl.Level("all", 64, **settings)])
    two = nl.retrofit(pretrained(name), [nl.Level("a", 64, **settings), nl.Level("b", 64, **settings)])
    for model in (one, two):
        train(model, nl.NestedUnits(model), 3)
    first, second = weights(one), weights(two)
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=1e-4, atol=1e-5)


def test_a_bias_behind_the_units_moves_only_with_its_whole_block() -> None:
    name = "model.layers.0.mlp.down_proj.bias"
    for how, moves in (("units", False), ("layers", True)):
        base = pretrained("llama, biases")
        model = nl.retrofit(base, two_levels(), how)
        train(model, nl.NestedUnits(model), 2)
        assert torch.equal(weights(model)[name], weights(base)[name]) != moves


def test_short_numbers_are_updated_in_long_ones() -> None:
    """Updates far below the spacing of bfloat16 add up."""
    model = nl.retrofit(pretrained(dtype=torch.bfloat16), [nl.Level("all", 64, lr=3e-6)])
    optimizer = nl.NestedUnits(model)
    assert {p.own.dtype for p in optimizer.parts.parts()} == {torch.float32}
    start, own = weights(model), [p.own.detach().clone() for p in optimizer.parts.parts()]
    train(model, optimizer, 1)
    name = "model.layers.0.mlp.up_proj.weight"
    stuck = (weights(model)[name] == start[name]).float().mean()
    assert stuck > 0.9
    assert all((a != p.own).float().mean() > 0.9 for a, p in zip(own, optimizer.parts.parts(), strict=True))
    train(model, optimizer, 60, first=1)
    assert (weights(model)[name] == start[name]).float().mean() < stuck - 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rest", [None, "slow"])
@pytest.mark.parametrize("how", ["units", "layers"])
def test_it_goes_on_bit_for_bit(how: str, rest: str | None, dtype: torch.dtype) -> None:
    def made() -> tuple[Any, Any]:
        levels = two_levels(consolidate=True, refresh=64)
        model = nl.retrofit(pretrained("llama, tied", dtype), levels, how, rest=rest)
        return model, nl.NestedUnits(model)

    model, optimizer = made()
    train(model, optimizer, 2)
    optimizer.commit()
    train(model, optimizer, 3, first=2)
    state = copy_tree(optimizer.state_dict())
    expected = train(model, optimizer, 3, first=5)
    other, resumed = made()
    resumed.load_state_dict(state)
    assert train(other, resumed, 3, first=5) == expected
    assert same(weights(other), weights(model))
    assert difference(optimizer.state_dict(), resumed.state_dict()) is None


def test_a_state_of_other_levels_changes_nothing() -> None:
    model = nl.retrofit(pretrained(), two_levels())
    other = nl.retrofit(pretrained(), two_levels(), how="layers")
    optimizer, kept = nl.NestedUnits(model), weights(model)
    with pytest.raises(ValueError, match="the state has no part of"):
        optimizer.load_state_dict(nl.NestedUnits(other).state_dict())
    assert same(weights(model), kept)


def test_two_on_one_base_do_not_touch_each_other() -> None:
    base, x = pretrained(), tokens()
    first, second = (nl.retrofit(base, two_levels()) for _ in range(2))
    before = base(x).logits
    train(first, nl.NestedUnits(first), 2)
    assert torch.equal(second(x).logits, before)
    assert torch.equal(base(x).logits, before)
    assert all(p.requires_grad and p.grad is None for p in base.parameters())
    shared = dict(base.named_parameters())
    frozen = {name: p for name, p in first.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(p.data_ptr() == shared[name].data_ptr() for name, p in frozen.items())


def test_the_nested_variant_puts_back_what_started_anew() -> None:
    model = nl.retrofit(pretrained(), two_levels())
    optimizer = nl.NestedUnits(model, variant="nested", reset_rate=0.5)
    train(model, optimizer, 2)
    for part in optimizer.parts.parts():
        torch.testing.assert_close(part.of(part.parameter.detach()), part.own.detach())


def test_an_unknown_model_with_named_blocks() -> None:
    base, x = plain(), tokens()
    with pytest.raises(ValueError, match=r"looked for.*gate_proj.*blocks="):
        nl.retrofit(base, two_levels())
    model = nl.retrofit(base, two_levels(), blocks=["first", "second"])
    assert torch.equal(model(x), base(x))
    optimizer, start = nl.NestedUnits(model), weights(model)
    F.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
    optimizer.step(tokens=128)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, start[name])}
    assert moved == {
        "first.0.weight",
        "first.0.bias",
        "first.2.weight",
        "second.a.weight",
        "second.b.weight",
        "second.c.weight",
    }


def test_torchs_own_transformer() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    base, x = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = base(x)
        model = nl.retrofit(base, two_levels(), assign="usage", calibration=[x])
        assert torch.equal(model(x), expected)
    optimizer, start = nl.NestedUnits(model), weights(model)
    model(x).square().mean().backward()
    optimizer.step(tokens=128)
    moved = {name.split(".")[-2] for name, value in weights(model).items() if not value.equal(start[name])}
    assert moved == {"linear1", "linear2"}


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "rest": ({"rest": "other"}, "rest must name a level, one of fast, slow; got 'other'"),
    "how": ({"how": "heads"}, "how must be one of units, layers; got 'heads'"),
    "assign": ({"assign": "best"}, "assign must be one of depth, random, usage; got 'best'"),
    "depth": ({"assign": "depth"}, "how='layers'"),
    "shares": ({"shares": [1.0]}, "shares must be one positive number"),
    "share": ({"shares": [1.0, 0.0]}, "shares must be one positive number"),
    "block": ({"blocks": ["nothing"]}, "there is no module 'nothing'"),
    "no block": ({"blocks": ["lm_head"]}, "is no feed-forward block"),
    "attention": ({"blocks": ["model.layers.0.self_attn"]}, "is no feed-forward block"),
    "empty": ({"assign": "usage", "calibration": []}, "calibration is empty"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_makes_no_sense_is_refused(case: str) -> None:
    settings, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        nl.retrofit(pretrained(), two_levels(), **settings)


def test_more_levels_than_blocks_or_units_are_refused() -> None:
    many = [nl.Level(str(i), 64 * (i + 1)) for i in range(49)]
    with pytest.raises(ValueError, match="3 feed-forward blocks for 49 levels"):
        nl.retrofit(pretrained(), many, "layers")
    with pytest.raises(ValueError, match="48 units for 49 levels"):
        nl.retrofit(pretrained(), many)


def test_retrofitting_twice_and_undoing_nothing_are_refused() -> None:
    base = pretrained()
    model = nl.retrofit(base, two_levels())
    with pytest.raises(ValueError, match="undo_retrofit"):
        nl.retrofit(model, two_levels())
    for function in (nl.undo_retrofit, nl.NestedUnits):
        with pytest.raises(ValueError, match="has no levels"):
            function(base)
