"""The optimizer's state: plain data, and resuming is exact at every offset inside a period."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.levels import Level
from nestlearn.optim import Nested
from tests.helpers import copy_tree, difference, random_tokens, tiny_model
from tests.optim.nets import TOKENS, batches, by_layer, net, snapshot, train, two_levels, values

STEPS = 14
# A change of context in the middle: the loss that is told to the optimizer doubles.
LOSSES = [1.0 + 0.01 * (i % 3) for i in range(9)] + [2.0 + 0.01 * i for i in range(STEPS - 9)]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sgd": {"optimizer": "sgd"},
    "consolidating": {"consolidate": True},
    "consolidating, own refresh": {"consolidate": True, "refresh": 2 * TOKENS},
    "nested": {},
}


def system(kind: str, seed: int = 0) -> tuple[torch.nn.Module, Nested]:
    model = net(seed)
    variant = "nested" if kind == "nested" else "sequential"
    levels = two_levels(2 * TOKENS, 6 * TOKENS, **KINDS[kind])
    return model, Nested(levels, model, assign=by_layer, variant=variant)


def saved(tree: Any) -> Any:
    """Through a file, as plain data."""
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        assert all(isinstance(key, str | int) for key in tree)
        for value in tree.values():
            yield from leaves(value)
    elif type(tree) in (list, tuple):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_plain_data(kind: str) -> None:
    model, optimizer = system(kind)
    train(model, optimizer, batches(STEPS - 1), surprises=LOSSES)
    state = optimizer.state_dict()
    for leaf in leaves(state):
        assert leaf is None or type(leaf) in (Tensor, bool, int, float, str), type(leaf)
    assert difference(state, saved(state)) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", range(STEPS))
def test_resuming_at_any_offset_is_exact(kind: str, offset: int) -> None:
    data = batches(STEPS)
    whole, reference = system(kind)
    train(whole, reference, data, surprises=LOSSES)
    if KINDS[kind].get("consolidate"):
        assert reference.surprises == [9 * TOKENS]  # the switch was noticed

    first, optimizer = system(kind)
    train(first, optimizer, data[:offset], surprises=LOSSES)
    weights, state = saved(dict(first.state_dict())), saved(optimizer.state_dict())
    second, resumed = system(kind, seed=1)
    second.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert difference(state, resumed.state_dict()) is None
    train(second, resumed, data[offset:], surprises=LOSSES[offset:])
    assert difference(snapshot(whole, reference), snapshot(second, resumed)) is None


@pytest.mark.parametrize("consolidate", [False, True])
def test_resuming_hope_is_exact(consolidate: bool) -> None:
    def build(seed: int) -> tuple[Any, Nested]:
        model = tiny_model(seed, cms_periods=(36, 72)).train()
        levels = [Level("fast", 36, consolidate=consolidate), Level("slow", 72, consolidate=consolidate)]
        return model, Nested(levels, model, tokens_per_step=18)

    def steps(model: Any, optimizer: Nested, start: int, end: int) -> None:
        for step in range(start, end):
            tokens = random_tokens(2, 9, seed=step)
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step(surprise=loss)
            if step == 4:
                optimizer.commit()

    whole, reference = build(0)
    steps(whole, reference, 0, 9)
    for cut in (3, 5, 7):
        first, optimizer = build(0)
        steps(first, optimizer, 0, cut)
        second, resumed = build(1)
        second.load_state_dict(saved(dict(first.state_dict())))
        resumed.load_state_dict(saved(optimizer.state_dict()))
        steps(second, resumed, cut, 9)
        assert difference(snapshot(whole, reference), snapshot(second, resumed)) is None


def test_two_runs_are_equal() -> None:
    runs = []
    for _ in range(2):
        model, optimizer = system("consolidating")
        train(model, optimizer, batches(STEPS), surprises=LOSSES)
        runs.append(snapshot(model, optimizer))
    assert difference(*runs) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_state_is_not_shared(kind: str) -> None:
    """Training the one that loaded does not touch what was saved before it."""
    model, optimizer = system(kind)
    train(model, optimizer, batches(5), surprises=LOSSES)
    state = copy_tree(optimizer.state_dict())
    kept = copy_tree(state)
    _, other = system(kind)
    other.load_state_dict(state)
    assert difference(kept, other.state_dict()) is None
    before = values(model)
    optimizer.state_dict()
    assert difference(before, values(model)) is None


def foreign_states() -> dict[str, Any]:
    """Name -> a function from a good state to one that must be refused."""

    def without(key: str) -> Any:
        return lambda state: {k: v for k, v in state.items() if k != key}

    return {
        "empty": lambda _: {},
        "of torch": lambda _: torch.optim.AdamW(net().parameters()).state_dict(),
        "other levels": lambda s: {**s, "levels": {"fast": s["levels"]["fast"]}},
        "no clock": without("clock"),
        "negative clock": lambda s: {**s, "clock": {"tokens": -1}},
        "no memories": lambda s: {**s, "memories": {}},
        "fewer sites": lambda s: {
            **s,
            "memories": {n: {**m, "sites": m["sites"][:-1]} for n, m in s["memories"].items()},
        },
        "fewer pending gradients": lambda s: {
            **s,
            "pending": {n: {**p, "gradients": p["gradients"][:1]} for n, p in s["pending"].items()},
        },
        "pending of an unknown level": lambda s: {**s, "pending": {"medium": {"tokens": 8, "gradients": []}}},
        "fewer parameters": lambda s: {
            **s,
            "levels": {
                n: {**v, "param_groups": [{**v["param_groups"][0], "params": [0]}]}
                for n, v in s["levels"].items()
            },
        },
    }


@pytest.mark.parametrize("name", foreign_states())
def test_a_foreign_state_is_refused(name: str) -> None:
    model, optimizer = system("consolidating")
    train(model, optimizer, batches(5), surprises=LOSSES)
    bad = foreign_states()[name](copy_tree(optimizer.state_dict()))
    with pytest.raises(ValueError, match=r"\w+"):
        system("consolidating")[1].load_state_dict(bad)


def test_a_refused_state_changes_nothing() -> None:
    model, optimizer = system("consolidating")
    train(model, optimizer, batches(5), surprises=LOSSES)
    bad = foreign_states()["fewer sites"](copy_tree(optimizer.state_dict()))
    _, other = system("consolidating")
    before = copy_tree(other.state_dict())
    with pytest.raises(ValueError, match="key memories"):
        other.load_state_dict(bad)
    assert difference(before, other.state_dict()) is None


def test_a_state_of_another_variant_is_refused() -> None:
    _, plain = system("plain")
    _, nested = system("nested")
    with pytest.raises(ValueError, match=r"variant|initial"):
        nested.load_state_dict(copy_tree(plain.state_dict()))


def test_it_prints() -> None:
    assert "lr: 0.01" in repr(system("plain")[1])
