"""Memories stay bounded at the ends of the gates' ranges, whatever the keys, in a state of constant size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.memory import MemoryParameters, MemoryRule, MemoryState, Streams, chunk
from tests.helpers import relative_error, state_tensors
from tests.memory.rules import Maker

HEADS, WIDTH, PIECE, PIECES = 2, 12, 768, 4
ENDS = 30.0  # a sigmoid of this is 0 or 1 in float32


def parameters_with(rule: MemoryRule, logits: dict[str, float], scale: float = 1.0) -> MemoryParameters:
    """Meta-learned states of a new layer's size, gates that do not depend on the tokens."""
    make = Maker(rule, batch=1, heads=HEADS, width=WIDTH, hidden=WIDTH, dtype=torch.float32)
    p = make.parameters(scale=0.1)
    bias = torch.tensor([logits[name] for name in rule.gate_names])[:, None, None].expand_as(p.gate_bias)
    return p._replace(
        gate_weight=torch.zeros_like(p.gate_weight),
        gate_bias=bias,
        write_scale=torch.full_like(p.write_scale, scale),
    )


def keys(kind: str, g: torch.Generator) -> Tensor:
    """Random, all in one direction, or turning half around in every chunk of 16."""
    if kind == "turning":
        angle = torch.arange(PIECE) % 16 * math.pi / 16
        plane = torch.zeros(1, HEADS, PIECE, WIDTH)
        plane[..., 0], plane[..., 1] = angle.cos(), angle.sin()
        return plane
    noise = 2 * torch.randn(1, HEADS, PIECE, WIDTH, generator=g)
    return noise if kind == "random" else 2.0 + 0.3 * noise


def largest_weights(rule: MemoryRule, p: MemoryParameters, kind: str) -> list[float]:
    """Largest absolute weight after each piece."""
    g, state, largest = torch.Generator().manual_seed(0), None, []
    for _ in range(PIECES):
        key = keys(kind, g)
        value = 2 * torch.randn(1, HEADS, PIECE, WIDTH, generator=g)
        reads, state = chunk.self_modifying(Streams(key, value, key), p, state, rule)
        assert torch.isfinite(reads).all()
        largest.append(max(w.abs().max().item() for w in state.weights))
    return largest


@pytest.mark.parametrize("kind", ["random", "one direction", "turning"])
@pytest.mark.parametrize(("rate", "retention"), [(ENDS, ENDS), (ENDS, -ENDS), (ENDS, 4.0), (0.0, ENDS)])
@pytest.mark.parametrize("rest", ["initial", "zero"])
@pytest.mark.parametrize("memory", ["matrix", "mlp"])
@torch.no_grad()
def test_the_default_rule_is_bounded_at_the_ends_of_the_gates(
    memory: Any, rest: Any, rate: float, retention: float, kind: str
) -> None:
    rule = MemoryRule(kind=memory, rest=rest)
    logits = {"rate": rate, "retention": retention}
    largest = largest_weights(rule, parameters_with(rule, logits), kind)
    # A growing mode is past 1e30 by the second piece; what is written here has norms around ten.
    assert max(largest) < 200, largest
    if (
        retention != -ENDS
    ):  # there the eigenvalue along a key is alpha - eta = -1: a random walk, which is slow
        assert largest[-1] < 3 * max(largest[:2]), largest


@pytest.mark.parametrize("kind", ["random", "one direction", "turning"])
@torch.no_grad()
def test_channel_gates_are_bounded(kind: str) -> None:
    rule = MemoryRule(kind="matrix", gates="channel")
    largest = largest_weights(rule, parameters_with(rule, {"rate": 2.0, "retention": 4.0}, 0.1), kind)
    assert max(largest) < 200, largest


@pytest.mark.parametrize("kind", ["random", "one direction", "turning"])
@torch.no_grad()
def test_l2_without_the_erase_is_bounded_if_a_chunk_takes_one_step_in_all(kind: str) -> None:
    """As test-time training takes it: the gradient erases, and ``chunk_size * rate_max`` is at most one."""
    rule = MemoryRule(
        kind="matrix", objective="l2", erase="none", retention="none", adaptive=(), rate_max=1 / 16
    )
    largest = largest_weights(rule, parameters_with(rule, {"rate": ENDS}), kind)
    assert max(largest) < 200, largest


@torch.no_grad()
def test_this_test_can_fail() -> None:
    """With l2 and the erase ``W k`` is taken away twice: what is left grows with every chunk."""
    rule = MemoryRule(kind="matrix", objective="l2")
    g, state = torch.Generator().manual_seed(0), None
    p = parameters_with(rule, {"rate": ENDS, "retention": ENDS})
    for _ in range(2):
        key = keys("turning", g)
        value = torch.randn(1, HEADS, PIECE, WIDTH, generator=g)
        _, state = chunk.self_modifying(Streams(key, value, key), p, state, rule)
    assert not max(w.abs().max().item() for w in state.weights) < 200


def later_state(rule: MemoryRule) -> tuple[MemoryParameters, MemoryState, Maker]:
    make = Maker(rule)
    p = make.parameters()
    return p, chunk.self_modifying(make.streams(9), p, None, rule)[1], make


def forgetting(p: MemoryParameters) -> MemoryParameters:
    bias = torch.full_like(p.gate_bias, -1e9)
    return p._replace(gate_weight=torch.zeros_like(p.gate_weight), gate_bias=bias)


@pytest.mark.parametrize("memory", ["matrix", "mlp"])
@torch.no_grad()
def test_a_memory_that_keeps_nothing_rests_at_its_initial_state(memory: Any) -> None:
    rule = MemoryRule(kind=memory, chunk_size=4)
    p, state, make = later_state(rule)
    assert all(w.any() for w in state.weights)
    _, rested = chunk.self_modifying(make.streams(8), forgetting(p), state, rule)
    assert all(not w.any() for w in (*rested.weights, *rested.snapshot))
    x = make.streams(6)
    after, _ = chunk.self_modifying(x, p, rested._replace(position=torch.zeros(2, dtype=torch.long)), rule)
    fresh, _ = chunk.self_modifying(x, p, None, rule)
    assert relative_error(fresh, after) < 1e-14


@pytest.mark.parametrize("memory", ["matrix", "mlp"])
@torch.no_grad()
def test_with_rest_at_zero_even_what_was_learned_before_fades(memory: Any) -> None:
    rule = MemoryRule(kind=memory, chunk_size=4, rest="zero")
    p, state, make = later_state(rule)
    _, rested = chunk.self_modifying(make.streams(8), forgetting(p), state, rule)
    assert all(w.any() for w in p.weights)
    assert all(not w.any() for w in (*rested.weights, *rested.snapshot))


@pytest.mark.parametrize(
    "rule",
    [
        MemoryRule(chunk_size=4),
        MemoryRule(kind="matrix", chunk_size=4, projection_chunk_size=8, momentum=True, rest="zero"),
    ],
    ids=["default", "momentum"],
)
@torch.no_grad()
def test_the_state_has_one_size(rule: MemoryRule) -> None:
    make, state, shapes = Maker(rule), None, set()
    p = make.parameters()
    for length in (1, 2, 4, 50, 300):
        _, state = chunk.self_modifying(make.streams(length), p, state, rule)
        shapes.add(tuple((tuple(t.shape), t.dtype) for t in state_tensors(state)))
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state_tensors(state)
        }
        assert sum(storages.values()) <= 2 * sum(t.nbytes for t in state_tensors(state))
    assert len(shapes) == 1
