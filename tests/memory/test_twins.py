"""The chunk form equals the equations, forward and backward, for every rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nestlearn.memory import MemoryParameters, MemoryRule, Streams, chunk, naive
from tests.helpers import relative_error
from tests.memory.rules import COVERING, Maker, errors, leaves, outcome, replace_leaves, short

RULES = [MemoryRule(**row) for row in COVERING]


@pytest.mark.parametrize("length", [1, 11])
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_chunk_equals_naive_for_every_pair_of_options(rule: MemoryRule, length: int) -> None:
    make = Maker(rule)
    parameters, streams = make.parameters(), make.streams(length)
    expected, by_naive = outcome(naive, parameters, streams, rule)
    got, by_chunk = outcome(chunk, parameters, streams, rule)
    assert all(torch.isfinite(t).all() for t in (*expected.values(), *by_naive.values()))
    assert any(g.abs().sum() > 0 for g in by_naive.values())
    found = errors(expected, got) | errors(by_naive, by_chunk)
    assert max(found.values()) < 1e-9, found


CHUNKS = [1, 8, 16, 64]


def compare_precisions(rule: MemoryRule, length: int) -> None:
    """Both float32 and bfloat16 against the equations in float32, on numbers that bfloat16 has."""
    make = Maker(rule, batch=1, heads=2, width=4, hidden=4, dtype=torch.float32, bfloat16=True)
    parameters, streams = make.parameters(), make.streams(length)
    # Retentions around 0.95: products of small ones over a chunk are sums of large logarithms in float32.
    bias = parameters.gate_bias.data[rule.gate_names.index("retention")]
    bias.copy_((bias + 3.0).bfloat16())
    expected, by_naive = outcome(naive, parameters, streams, rule)
    for dtype, forward, backward in ((torch.float32, 1e-5, 1e-5), (torch.bfloat16, 0.006, 0.008)):
        cast = {
            name: leaf.detach().to(dtype).requires_grad_()
            for name, leaf in leaves(parameters, streams).items()
        }
        p, s = replace_leaves(parameters, cast)
        got, by_chunk = outcome(chunk, p, s, rule)
        assert got["reads"].dtype == dtype
        assert got["weights[0]"].dtype == torch.float32
        found = errors(expected, got)
        assert max(found.values()) < forward, (dtype, found)
        found = errors(by_naive, by_chunk)
        assert max(found.values()) < backward, (dtype, found)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 100])
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_lengths_around_the_chunks_in_both_precisions(chunk_size: int, length: int) -> None:
    compare_precisions(MemoryRule(chunk_size=chunk_size), length)


OTHERS: list[dict[str, Any]] = [
    {"kind": "matrix"},
    {"kind": "matrix", "gates": "channel"},
    {"objective": "l2", "rate_max": 0.1},
    {"momentum": True, "rate_max": 0.1},
    {"projection_chunk_size": 32},
]


@pytest.mark.parametrize(("chunk_size", "length"), [(1, 63), (8, 100), (16, 65), (64, 100)])
@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_other_rules_in_both_precisions(changes: dict[str, Any], chunk_size: int, length: int) -> None:
    compare_precisions(MemoryRule(**changes, chunk_size=chunk_size), length)


@pytest.mark.parametrize(("chunk_size", "length"), [(1, 1000), (8, 2000), (16, 1000), (64, 2000)])
def test_long_sequences_of_a_memory_alone(chunk_size: int, length: int) -> None:
    compare_precisions(MemoryRule(adaptive=("key",), chunk_size=chunk_size, kind="matrix"), length)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1000, 2000])
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_long_sequences_in_both_precisions(chunk_size: int, length: int) -> None:
    compare_precisions(MemoryRule(chunk_size=chunk_size), length)


@pytest.mark.slow
@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_long_sequences_of_other_rules(changes: dict[str, Any]) -> None:
    compare_precisions(MemoryRule(**changes), 1000)


@pytest.mark.parametrize("erase", [True, False])
@pytest.mark.parametrize("twin", [naive, chunk])
def test_delta_write_is_a_product_of_matrices(twin: Any, erase: bool) -> None:
    """Eq. 88 with its matrices written out."""
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 5, 4, generator=g, dtype=torch.float64)
    keys, queries = torch.nn.functional.normalize(
        torch.randn(2, 3, 9, 4, generator=g, dtype=torch.float64), dim=-1
    )
    gradients = torch.randn(3, 9, 5, generator=g, dtype=torch.float64)
    rate, retention = torch.rand(2, 3, 9, generator=g, dtype=torch.float64)
    w, reads = weight, []
    for t in range(9):
        k, eta = keys[:, t, :, None], rate[:, t, None, None]
        keep = retention[:, t, None, None] * torch.eye(4, dtype=torch.float64)
        w = w @ (keep - eta * erase * k @ k.mT) - eta * gradients[:, t, :, None] @ k.mT
        reads.append((w @ queries[:, t, :, None])[..., 0])
    end, got = twin.delta_write(weight, keys, gradients, rate, retention.log(), queries, erase=erase)
    assert relative_error(w, end) < 1e-13
    assert relative_error(torch.stack(reads, dim=1), got) < 1e-13
    alone, none = twin.delta_write(weight, keys, gradients, rate, retention.log(), erase=erase)
    assert none is None
    assert torch.equal(alone, end)


@pytest.mark.parametrize("kind", ["matrix", "mlp"])
@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("rest", ["initial", "zero"])
@pytest.mark.parametrize("twin", [naive, chunk])
def test_no_write_never_changes_a_memory(twin: Any, rest: Any, momentum: bool, kind: Any) -> None:
    rule = MemoryRule(kind=kind, chunk_size=4, rest=rest, momentum=momentum)
    make = Maker(rule)
    parameters = make.parameters()
    ends = {"rate": -1e9, "retention": 1e9, "momentum": 0.0}
    closed = parameters._replace(
        gate_weight=torch.zeros_like(parameters.gate_weight),
        gate_bias=torch.stack([torch.full((2, 1), ends[name]).double() for name in rule.gate_names]),
    )
    _, state = twin.self_modifying(make.streams(13), closed, None, rule)
    for start, end in zip(parameters.weights, state.weights, strict=True):
        expected = start.transpose(0, 1).expand_as(end)
        assert torch.equal(end, torch.zeros_like(end) if rest == "initial" else expected)
    assert all(not s.any() for s in state.momentum)


@pytest.mark.parametrize(
    "rule", [MemoryRule(), MemoryRule(kind="matrix", objective="l2", rest="zero")], ids=short
)
def test_inputs_and_states_are_left_as_they_were(rule: MemoryRule) -> None:
    make = Maker(rule)
    parameters, streams = make.parameters(), make.streams(5)
    _, state = chunk.self_modifying(streams, parameters, None, rule)
    tensors = [*leaves(parameters, streams).values(), *state.weights, *state.snapshot, state.position]
    bits = [t.detach().clone() for t in tensors]
    chunk.self_modifying(streams, parameters, state, rule)
    assert all(torch.equal(a, b) for a, b in zip(tensors, bits, strict=True))


def test_autocast_does_not_reach_the_memories() -> None:
    rule = MemoryRule(chunk_size=4)
    make = Maker(rule, dtype=torch.float32)
    parameters, streams = make.parameters(), make.streams(9)
    plain, _ = chunk.self_modifying(streams, parameters, None, rule)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = chunk.self_modifying(streams, parameters, None, rule)
    assert torch.equal(plain, cast)


def test_streams_in_bfloat16_with_parameters_in_float32() -> None:
    """Parameters in float32 with streams in bfloat16, as autocast makes them."""
    rule = MemoryRule(chunk_size=4)
    make = Maker(rule, dtype=torch.float32, bfloat16=True)
    parameters, streams = make.parameters(), make.streams(9)
    half = Streams(*(s.detach().bfloat16() for s in streams))
    expected, _ = naive.self_modifying(streams, parameters, None, rule)
    for twin in (naive, chunk):
        got, state = twin.self_modifying(half, parameters, None, rule)
        assert got.dtype == torch.bfloat16
        assert state.weights[0].dtype == torch.float32
        assert relative_error(expected, got.float()) < 0.006
    assert isinstance(parameters, MemoryParameters)
