"""Which units go to which level, and what their key memories hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nestlearn as nl
from nestlearn.optim.sites import LinearSite
from nestlearn.retrofitting import (
    Division,
    NestedUnits,
    divide,
    find_blocks,
    measure_usage,
    own_samples,
    retrofit_of,
)
from tests.helpers import copy_tree, difference, relative_error
from tests.retrofitting.small import ARCHITECTURES, UNITS, pretrained, tokens, two_levels

LEVELS = ["fast", "middle", "slow"]


def blocks(name: str = "llama") -> Any:
    return find_blocks(pretrained(name))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_blocks_of_every_architecture(name: str) -> None:
    found = blocks(name)
    assert len(found) == 3
    units = 4 * 32 if name == "gpt2" else UNITS
    assert {block.units for block in found} == {units}
    model = pretrained(name)
    for block in found:
        for projection in block.projections:
            for slot in projection.slots:
                parameter = model.get_parameter(slot.name)
                assert slot.axis is None or parameter.shape[slot.axis] == slot.repeats * units
        assert [projection.writes for projection in block.projections].count(False) == 1


@pytest.mark.parametrize("policy", ["random", "usage"])
@pytest.mark.parametrize("shares", [None, [1, 2, 5]], ids=str)
def test_every_unit_is_in_one_level(policy: str, shares: list[float] | None) -> None:
    found = blocks()
    usage = {block.name: torch.rand(block.units) for block in found}
    division = divide(found, LEVELS, policy=policy, shares=shares, usage=usage)
    for block in found:
        parts = division.units[block.name]
        assert list(parts) == LEVELS
        assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(UNITS))
        assert [len(p) for p in parts.values()] == ([16, 16, 16] if shares is None else [6, 12, 30])
        assert all(torch.equal(p, p.sort().values) for p in parts.values())
        if policy == "usage":
            highest = [usage[block.name][p].max() for p in parts.values()]
            lowest = [usage[block.name][p].min() for p in parts.values()]
            assert highest[0] <= lowest[1] <= highest[1] <= lowest[2]


def test_random_units_follow_the_seed() -> None:
    first, again, other = (divide(blocks(), LEVELS, seed=seed) for seed in (0, 0, 1))
    assert difference(first.to_tree(), again.to_tree()) is None
    assert difference(first.to_tree(), other.to_tree()) is not None


@pytest.mark.parametrize(
    ("policy", "owners"), [("depth", ["fast", "middle", "slow"]), ("usage", ["slow", "fast", "middle"])]
)
def test_whole_blocks(policy: str, owners: list[str]) -> None:
    found = blocks()
    usage = {b.name: torch.full((UNITS,), v) for b, v in zip(found, (3.0, 1.0, 2.0), strict=True)}
    division = divide(found, LEVELS, "layers", policy, usage=usage)
    assert [list(division.units[block.name]) for block in found] == [[owner] for owner in owners]


def test_one_unit_each_at_least() -> None:
    division = divide(blocks(), LEVELS, shares=[1e-6, 1.0, 1e-6])
    assert [len(p) for p in next(iter(division.units.values())).values()] == [1, UNITS - 2, 1]


def test_a_division_through_a_file() -> None:
    found = blocks()
    for division in (divide(found, LEVELS), divide(found, LEVELS, "layers", "depth")):
        again = Division.from_tree(found, copy_tree(division.to_tree()))
        assert difference(again.to_tree(), division.to_tree()) is None
        units = {k: {n: v.tolist() for n, v in d.items()} for k, d in again.units.items()}
        assert units == {k: {n: v.tolist() for n, v in d.items()} for k, d in division.units.items()}


def test_a_division_of_another_model_or_with_a_unit_twice_is_refused() -> None:
    found = blocks()
    tree = divide(found, LEVELS).to_tree()
    with pytest.raises(ValueError, match="the model has others"):
        Division.from_tree(found[:2], tree)
    tree[found[0].name]["fast"] = tree[found[0].name]["slow"]
    with pytest.raises(ValueError, match="each unit once"):
        Division.from_tree(found, tree)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_usage_is_what_units_write(name: str) -> None:
    model, x = pretrained(name), [tokens(seed=1), tokens(2, 8, seed=2)]
    (block, *_) = found = find_blocks(model)
    seen: list[torch.Tensor] = []
    reader = model.get_submodule(block.reader.name)
    handle = reader.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().flatten(0, 1)))
    usage = measure_usage(model, found, x)
    handle.remove()
    weight = reader.weight.detach() if name == "llama" else reader.weight.detach().T
    expected = torch.cat(seen).abs().mean(0) * weight.norm(dim=0)
    torch.testing.assert_close(usage[block.name], expected)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_own_samples_follow_the_seed_and_leave_the_random_state() -> None:
    model = pretrained()
    state = torch.random.get_rng_state()
    first, again, other = (own_samples(model, 50, 8, batch_size=4, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [b.shape for b in first] == [(4, 8), (4, 8)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    with pytest.raises(ValueError, match="no generate method"):
        own_samples(torch.nn.Linear(2, 2), 10)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            own_samples(model, 10, temperature=wrong)


def test_the_rare_is_drawn_more_often_when_it_is_warm() -> None:
    model = pretrained()
    cold, even, warm = (
        torch.cat(own_samples(model, 4000, 8, batch_size=500, temperature=t)) for t in (1e-3, 1.0, 2.0)
    )
    assert len(cold.unique(dim=0)) == 1
    with torch.no_grad():
        said = model(input_ids=even).logits.log_softmax(-1)[:, :-1]
        likelihood = [
            float(model(input_ids=x).logits.log_softmax(-1)[:, :-1].gather(-1, x[:, 1:, None]).mean())
            for x in (even, warm)
        ]
        entropy = float(-(said.exp() * said).sum(-1).mean())
    assert likelihood[0] == pytest.approx(-entropy, rel=0.02)  # as often as the model says
    assert likelihood[1] < likelihood[0] - 0.01


@pytest.mark.parametrize("name", ["llama, biases", "gpt2", "phi3"])
def test_key_memories_of_parts_are_parts_of_key_memories(name: str) -> None:
    """Each level's moments are what ordinary ones have at its units."""
    model = nl.retrofit(pretrained(name), two_levels(consolidate=True))
    optimizer = NestedUnits(model)
    division = retrofit_of(model).division
    whole = {}
    for block in division.blocks:
        for projection in block.projections:
            site = LinearSite(model.get_submodule(projection.name))
            site.hook(lambda: True)[0]  # type: ignore[index]
            whole[projection.name] = site
    x = tokens()
    model(x, labels=x).loss.backward()
    checked = 0
    for memory in optimizer.memories.values():
        for part in memory.sites:
            names = {id(model.get_submodule(n)): n for n in whole}
            full = whole[names[id(part.module)]].fresh
            for side, moment in part.fresh.items():
                expected, index = full[side], part.index
                if moment.shape != expected.shape:
                    assert index is not None
                    expected = expected[index][:, index]
                assert relative_error(moment, expected) < 0.01  # factors in bfloat16
                assert bool((torch.linalg.eigvalsh(moment) > -1e-6 * moment.trace()).all())
                checked += 1
    assert checked == 2 * 2 * sum(len(block.projections) for block in division.blocks)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_the_filter_of_whole_blocks_is_that_of_linear_layers(name: str) -> None:
    """With one level the update is filtered as Nested does it for ordinary linear layers."""
    settings: dict[str, Any] = {"lr": 1e-2, "consolidate": True, "max_grad_norm": None}
    model = nl.retrofit(pretrained(name), [nl.Level("all", 64, **settings)])
    optimizer = NestedUnits(model)
    x = tokens()
    loss = model(x, labels=x).loss
    loss.backward()
    optimizer.step(tokens=64, surprise=loss)
    optimizer.commit()
    (memory,) = optimizer.memories.values()
    for site in memory.sites:
        update, *bias = updates = [torch.randn_like(parameter) for parameter in site.parameters]
        out, into = site.factors["output"], site.factors["input"]
        turned = torch.cat([update.T if name == "gpt2" else update, *(b[:, None] for b in bias)], dim=1)
        expected = out @ turned @ into if out.dim() == 2 else out[:, None] * turned @ into
        filtered, *shift = site.filter(updates)
        found = torch.cat([filtered.T if name == "gpt2" else filtered, *(b[:, None] for b in shift)], dim=1)
        assert relative_error(found, expected) < 0.02
        assert not torch.allclose(filtered, update)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_in_the_eigenbasis_the_filter_is_the_same(name: str) -> None:
    """Of parts of projections in both layouts, of biases, and of a tied embedding."""
    sites = {}
    for eigenbasis in (False, True):
        shared: dict[str, Any] = {"lr": 0.0, "consolidate": True, "eigenbasis": eigenbasis}
        levels = [nl.Level("fast", 32, **shared), nl.Level("slow", 64, **shared)]
        model = nl.retrofit(pretrained(name), levels, rest="fast", seed=0)
        optimizer, x = NestedUnits(model), tokens()
        for _ in range(2):
            loss = model(x, labels=x).loss
            loss.backward()
            optimizer.step(tokens=64, surprise=loss)
        optimizer.commit()
        sites[eigenbasis] = [site for memory in optimizer.memories.values() for site in memory.sites]
    kinds = {type(site).__name__ for site in sites[True]}
    assert kinds == {"PartSite", "TokenSite"}
    torch.manual_seed(0)
    based = 0
    for dense, rotated in zip(sites[False], sites[True], strict=True):
        updates = [torch.randn_like(p) for p in dense.parameters]
        turned = rotated.rotate(updates)
        # An embedding without a tied head has no side with a basis.
        assert bool(rotated.bases) is (relative_error(turned[0], updates[0]) > 0.1)
        based += bool(rotated.bases)
        for got, wanted in zip(rotated.filter(turned), dense.filter(updates), strict=True):
            assert relative_error(got, wanted) < 0.03  # factors in bfloat16, twice
    assert based >= len(sites[True]) - 1
