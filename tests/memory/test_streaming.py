"""Pieces of any sizes equal one pass, also for samples of different ages in one batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.memory import MemoryRule, MemoryState, Streams, chunk, initial_state, naive
from tests.helpers import relative_error, state_tensors
from tests.memory.rules import COVERING, Maker, leaves, short

RULES = [
    MemoryRule(chunk_size=4),
    MemoryRule(kind="matrix", chunk_size=4),
    MemoryRule(chunk_size=4, projection_chunk_size=2),
    MemoryRule(chunk_size=2, projection_chunk_size=4, causal_reads=False),
    MemoryRule(kind="matrix", chunk_size=4, gates="channel"),
    MemoryRule(chunk_size=4, momentum=True, rest="zero"),
    MemoryRule(kind="matrix", chunk_size=4, objective="l2", momentum=True, adaptive=("query",)),
    MemoryRule(kind="matrix", chunk_size=4, projection_chunk_size=3 * 4, adaptive=()),
    MemoryRule(chunk_size=4, checkpoint_chunks=2, inner_norm=True, main_target="generated"),
]


def cut(streams: Streams, sizes: list[int]) -> list[Streams]:
    return [Streams(*piece) for piece in zip(*(s.split(sizes, dim=2) for s in streams), strict=True)]


def stream(twin: Any, pieces: list[Streams], parameters: Any, rule: MemoryRule) -> tuple[Tensor, MemoryState]:
    state, parts = None, []
    for piece in pieces:
        y, state = twin.self_modifying(piece, parameters, state, rule)
        parts.append(y)
    assert state is not None
    return torch.cat(parts, dim=2), state


@pytest.mark.parametrize("sizes", [[1] * 15, [7, 8], [13, 2], [4, 4, 7], [2, 1, 6, 6]], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_pieces_of_any_sizes_equal_one_pass(rule: MemoryRule, sizes: list[int]) -> None:
    make = Maker(rule)
    parameters, streams = make.parameters(), make.streams(15)
    whole, end = chunk.self_modifying(streams, parameters, None, rule)
    y, state = stream(chunk, cut(streams, sizes), parameters, rule)
    assert relative_error(whole, y) < 1e-11
    for a, b in zip(state_tensors(end), state_tensors(state), strict=True):
        assert relative_error(a, b) < 1e-11


@pytest.mark.parametrize("row", COVERING[::3], ids=lambda row: short(MemoryRule(**row)))
def test_other_rules_in_pieces_equal_one_pass(row: dict[str, Any]) -> None:
    rule = MemoryRule(**row)
    make = Maker(rule)
    parameters, streams = make.parameters(), make.streams(19)
    with torch.no_grad():
        whole, end = chunk.self_modifying(streams, parameters, None, rule)
        y, state = stream(chunk, cut(streams, [3, 1, 9, 6]), parameters, rule)
    assert relative_error(whole, y) < 1e-10
    for a, b in zip(state_tensors(end), state_tensors(state), strict=True):
        assert relative_error(a, b) < 1e-10


@pytest.mark.parametrize("rule", RULES, ids=short)
def test_gradients_in_pieces_equal_those_of_one_pass(rule: MemoryRule) -> None:
    make = Maker(rule)
    parameters, streams = make.parameters(), make.streams(11)
    inputs = list(leaves(parameters, streams).values())
    whole, _ = chunk.self_modifying(streams, parameters, None, rule)
    y, _ = stream(chunk, cut(streams, [3, 1, 7]), parameters, rule)
    both = (torch.autograd.grad(out.square().sum(), inputs) for out in (whole, y))
    for a, b in zip(*both, strict=True):
        assert relative_error(a, b) < 1e-10


@pytest.mark.parametrize("twin", [naive, chunk])
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_samples_of_different_ages_in_one_batch_equal_each_alone(rule: MemoryRule, twin: Any) -> None:
    make = Maker(rule, batch=1)
    parameters, ages, states, following = make.parameters(), (3, 0, 7, 4), [], []
    with torch.no_grad():
        for age in ages:
            state = None
            if age:
                _, state = chunk.self_modifying(make.streams(age), parameters, None, rule)
            following.append(make.streams(9))
            states.append(initial_state(parameters, following[-1], rule) if state is None else state)
        alone = [
            twin.self_modifying(x, parameters, state, rule)
            for x, state in zip(following, states, strict=True)
        ]
        groups = zip(*(state[:3] for state in states), strict=True)
        joined = MemoryState(
            *(tuple(torch.cat(part) for part in zip(*group, strict=True)) for group in groups),
            torch.cat([state.position for state in states]),
        )
        batch = Streams(*(torch.cat(part) for part in zip(*following, strict=True)))
        y, end = twin.self_modifying(batch, parameters, joined, rule)
    assert len({int(position) for position in end.position}) > 1
    for row, (expected, after) in enumerate(alone):
        assert relative_error(expected[0], y[row]) < 1e-11
        for a, b in zip(state_tensors(after), state_tensors(end), strict=True):
            assert relative_error(a[0], b[row]) < 1e-11


def test_gradients_of_a_batch_of_different_ages_are_those_of_each_alone() -> None:
    rule = MemoryRule(chunk_size=4, projection_chunk_size=2, momentum=True)
    make = Maker(rule, batch=1)
    parameters, first = make.parameters(), [make.streams(age) for age in (3, 1)]
    second = [make.streams(6) for _ in first]
    inputs = [*(s for x in first for s in (x.key, x.value)), *(s for x in second for s in x)]
    inputs += list(leaves(parameters, first[0]).values())[:5]
    states = [chunk.self_modifying(x, parameters, None, rule)[1] for x in first]
    reads = [
        chunk.self_modifying(x, parameters, state, rule)[0] for x, state in zip(second, states, strict=True)
    ]
    joined = MemoryState(
        *(
            tuple(torch.cat(part) for part in zip(*group, strict=True))
            for group in zip(*(state[:3] for state in states), strict=True)
        ),
        torch.cat([state.position for state in states]),
    )
    batch = Streams(*(torch.cat(part) for part in zip(*second, strict=True)))
    y, _ = chunk.self_modifying(batch, parameters, joined, rule)
    assert relative_error(torch.cat(reads), y) < 1e-11
    expected = torch.autograd.grad(torch.cat(reads).square().sum(), inputs, retain_graph=True)
    for a, b in zip(expected, torch.autograd.grad(y.square().sum(), inputs), strict=True):
        assert relative_error(a, b) < 1e-10


@pytest.mark.parametrize(
    "rule", [MemoryRule(chunk_size=4), MemoryRule(chunk_size=2, projection_chunk_size=6)], ids=short
)
def test_the_position_counts_tokens_since_the_larger_boundary(rule: MemoryRule) -> None:
    make, state, seen = Maker(rule), None, 0
    parameters = make.parameters()
    for length in (1, 2, 3, 1, 4):
        _, state = chunk.self_modifying(make.streams(length), parameters, state, rule)
        seen += length
        assert state.position.tolist() == [seen % max(rule.chunk_sizes)] * 2
        assert state.position.dtype == torch.int64


def test_snapshots_are_taken_at_each_memorys_own_boundary() -> None:
    rule = MemoryRule(chunk_size=4, projection_chunk_size=2, rest="zero")
    make, state, running = Maker(rule), None, {}
    parameters = make.parameters()
    running[0] = initial_state(parameters, make.streams(1), rule).weights[0]
    for seen in range(1, 10):
        _, state = chunk.self_modifying(make.streams(1), parameters, state, rule)
        running[seen] = state.weights[0]
        snapshot = state.snapshot[0]
        assert torch.equal(snapshot[:, :, :-1], running[seen // 2 * 2][:, :, :-1])
        assert torch.equal(snapshot[:, :, -1], running[seen // 4 * 4][:, :, -1])
