"""The chunk form equals the equations, forward and backward."""

from __future__ import annotations

import itertools

import pytest
import torch

from nestlearn.memory import MemoryParameters, MemoryRule, MemoryState, Streams, chunk, naive
from tests.helpers import relative_error

B, H, E, HIDDEN = 2, 2, 6, 8


def make(rule: MemoryRule, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def randn(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=g, dtype=dtype)).requires_grad_()

    m = len(rule.names)
    weights = (
        (randn(m, H, E, E, scale=0.4),)
        if rule.kind == "matrix"
        else (randn(m, H, E, HIDDEN, scale=0.4), randn(m, H, HIDDEN, E, scale=0.5))
    )
    parameters = MemoryParameters(
        weights,
        randn(2, H, E, scale=0.5),
        randn(2, H),
        torch.rand(m, H, generator=g, dtype=dtype).requires_grad_(),
    )
    return parameters, lambda length: Streams(*(randn(B, H, length, E) for _ in range(3)))


def leaves(parameters, streams):
    return [*parameters.weights, *parameters[1:], *streams]


RULES = [
    MemoryRule(kind=kind, objective=objective, erase=erase, causal_reads=causal, chunk_size=4, **more)
    for kind, objective, erase, causal in itertools.product(
        ("matrix", "mlp"), ("l2", "dot"), (True, False), (True, False)
    )
    for more in (
        {},
        {"adaptive_query": True, "main_target": "generated", "unit_targets": False},
        {"adaptive": False},
    )
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("length", [1, 4, 11])
def test_chunk_equals_naive_forward_and_backward(rule, length):
    parameters, streams_of = make(rule)
    streams = streams_of(length)
    results = []
    for twin in (naive, chunk):
        y, state = twin.self_modifying(streams, parameters, None, rule)
        used = [y, *state.weights]
        grads = torch.autograd.grad(
            sum((o * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in used),
            leaves(parameters, streams),
            allow_unused=True,
        )
        results.append((used, grads))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        assert relative_error(a, b) < 1e-12
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert (a is None) == (b is None)
        assert a is None or relative_error(a, b) < 1e-11


@pytest.mark.parametrize("erase", [True, False])
def test_delta_write_twins(erase):
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 5, 4, generator=g, dtype=torch.float64)
    keys, queries = torch.nn.functional.normalize(
        torch.randn(2, 3, 9, 4, generator=g, dtype=torch.float64), dim=-1
    )
    gradients = torch.randn(3, 9, 5, generator=g, dtype=torch.float64)
    rate, retention = torch.rand(2, 3, 9, generator=g, dtype=torch.float64)
    expected = naive.delta_write(weight, keys, gradients, rate, retention.log(), queries, erase=erase)
    got = chunk.delta_write(weight, keys, gradients, rate, retention.log(), queries, erase=erase)
    for a, b in zip(expected, got, strict=True):
        assert relative_error(a, b) < 1e-13


@pytest.mark.parametrize("kind", ["matrix", "mlp"])
def test_gradcheck_through_two_chunks(kind):
    rule = MemoryRule(kind=kind, chunk_size=2)
    parameters, streams_of = make(rule)
    streams = streams_of(4)
    count = len(parameters.weights)

    def run(*tensors):
        p = MemoryParameters(tuple(tensors[:count]), *tensors[count : count + 3])
        y, state = chunk.self_modifying(Streams(*tensors[count + 3 :]), p, None, rule)
        return y, *state.weights

    assert torch.autograd.gradcheck(run, leaves(parameters, streams), fast_mode=True)


@pytest.mark.parametrize("kind", ["matrix", "mlp"])
@pytest.mark.parametrize("twin", [naive, chunk])
def test_no_write_never_changes_a_memory(kind, twin):
    rule = MemoryRule(kind=kind, chunk_size=4)
    parameters, streams_of = make(rule)
    closed = parameters._replace(
        gate_weight=torch.zeros_like(parameters.gate_weight),
        gate_bias=torch.stack([torch.full((H,), -1e9), torch.full((H,), 1e9)]).double(),
    )
    _, state = twin.self_modifying(streams_of(13), closed, None, rule)
    for start, end in zip(parameters.weights, state.weights, strict=True):
        assert torch.equal(end, start.transpose(0, 1).expand_as(end))


@pytest.mark.parametrize("twin", [naive, chunk])
def test_matrix_dot_static_is_the_gated_delta_rule(twin):
    rule = MemoryRule(kind="matrix", objective="dot", adaptive=False, chunk_size=3)
    p, streams_of = make(rule)
    p = p._replace(write_scale=torch.ones_like(p.write_scale), weights=(torch.zeros_like(p.weights[0]),))
    x = streams_of(7)
    got, _ = twin.self_modifying(x, p, None, rule)

    unit = lambda z: z / (z.square().sum(-1, keepdim=True) + 1e-6).sqrt()  # noqa: E731
    k, q = unit(x.key), unit(x.query)
    eta = torch.sigmoid((x.key * p.gate_weight[0][:, None]).sum(-1) + p.gate_bias[0][:, None])
    alpha = torch.sigmoid((x.key * p.gate_weight[1][:, None]).sum(-1) + p.gate_bias[1][:, None])
    state, out = torch.zeros(B, H, E, E, dtype=torch.float64), []
    for t in range(7):
        kt, vt = k[:, :, t], x.value[:, :, t]
        state = alpha[:, :, t, None, None] * state
        state = (
            state
            + eta[:, :, t, None, None]
            * (vt[..., None] - (state @ kt[..., None]) / alpha[:, :, t, None, None])
            * kt[..., None, :]
        )
        out.append((state @ q[:, :, t, :, None])[..., 0])
    assert relative_error(torch.stack(out, 2), got) < 1e-12


@pytest.mark.parametrize("rule", RULES[::5], ids=str)
@pytest.mark.parametrize("sizes", [[1] * 15, [7, 8], [13, 2], [4, 4, 7]])
def test_streaming_equals_one_pass(rule, sizes):
    parameters, streams_of = make(rule)
    streams = streams_of(15)
    whole, end = chunk.self_modifying(streams, parameters, None, rule)
    state, parts = None, []
    for piece in zip(*(s.split(sizes, dim=2) for s in streams), strict=True):
        y, state = chunk.self_modifying(Streams(*piece), parameters, state, rule)
        parts.append(y)
    assert relative_error(whole, torch.cat(parts, 2)) < 1e-12
    for a, b in zip(end.weights, state.weights, strict=True):
        assert relative_error(a, b) < 1e-12


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"kind": "cube"}, "cube"),
        ({"objective": "l3"}, "l3"),
        ({"chunk_size": 0}, "0"),
        ({"rate_max": float("nan")}, "nan"),
        ({"rate_max": 1.5, "objective": "l2"}, "1.5"),
        ({"rate_max": 2.5, "objective": "dot"}, "2.5"),
        ({"adaptive": False, "adaptive_query": True}, "adaptive_query"),
    ],
)
def test_bad_rule_names_the_value(bad, words):
    with pytest.raises(ValueError, match=words):
        MemoryRule(**bad)


def test_foreign_state_is_refused():
    rule = MemoryRule(chunk_size=4)
    parameters, streams_of = make(rule)
    x = streams_of(3)
    _, state = chunk.self_modifying(x, parameters, None, rule)
    with pytest.raises(ValueError, match="memory state is"):
        chunk.self_modifying(
            x, parameters, MemoryState(tuple(w[:1] for w in state.weights), state.pending), rule
        )
    long = MemoryState(state.weights, streams_of(4))
    with pytest.raises(ValueError, match="pending"):
        chunk.self_modifying(x, parameters, long, rule)
