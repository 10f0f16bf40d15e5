"""Gradients against finite differences: every brick, and both kinds of memory through several chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from nestlearn.memory import MemoryRule, bricks, chunk, naive
from nestlearn.memory.decay import HeadDecay
from nestlearn.memory.functional import (
    activate,
    activation_curvature,
    activation_derivative,
    hidden_features,
    hidden_features_backward,
    inner_norm,
    inner_norm_backward,
)
from tests.helpers import relative_error
from tests.memory.rules import Maker, leaves, replace_leaves, short

KINDS = ["silu", "gelu", "relu"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


def away_from_the_kink(*shape: int, seed: int = 0) -> Tensor:
    """No number so small that a finite difference would cross zero, where ReLU has no slope."""
    x = randn(*shape, seed=seed).detach()
    return (x + 0.1 * x.sign()).requires_grad_()


def test_unit_columns() -> None:
    x = randn(2, 3, 5, 4)
    assert relative_error(torch.nn.functional.normalize(x, dim=-2), bricks.unit_columns(x)) < 1e-6
    assert gradcheck(bricks.unit_columns, x)
    zero = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    bricks.unit_columns(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_features(kind: Any) -> None:
    x = away_from_the_kink(2, 5, 4)
    expected = hidden_features(x, MemoryRule(activation=kind), -2)
    assert relative_error(expected, bricks.features(x, kind)) < 1e-14
    assert gradcheck(lambda x: bricks.features(x, kind), x)


@pytest.mark.parametrize("kind", KINDS)
def test_features_with_slope(kind: Any) -> None:
    x = away_from_the_kink(2, 5, 4)
    phi, scale, slope = bricks.features_with_slope(x, kind)
    s = activate(x, kind)
    assert relative_error(bricks.features(x, kind), phi) < 1e-14
    assert relative_error((1 + s.square().sum(-2, keepdim=True)).rsqrt(), scale) < 1e-14
    assert relative_error(torch.autograd.grad(s.sum(), x)[0], slope) < 1e-14
    assert gradcheck(lambda x: bricks.features_with_slope(x, kind), x)


def test_features_backward_by_all_its_inputs() -> None:
    phi, scale, slope, g = (
        randn(2, 5, 4),
        randn(2, 1, 4, seed=1),
        randn(2, 5, 4, seed=2),
        randn(2, 5, 4, seed=3),
    )
    assert gradcheck(bricks.features_backward, (phi, scale, slope, g))


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_through_the_features_is_their_gradient(kind: Any) -> None:
    x, gradient = away_from_the_kink(2, 5, 4), randn(2, 5, 4, seed=1)
    phi, scale, slope = bricks.features_with_slope(x, kind)
    (expected,) = torch.autograd.grad(bricks.features(x, kind), x, gradient)
    assert relative_error(expected, bricks.features_backward(phi, scale, slope, gradient)) < 1e-13

    def whole(x: Tensor, gradient: Tensor) -> Tensor:
        return bricks.features_backward(*bricks.features_with_slope(x, kind), gradient)

    assert gradcheck(whole, (x, gradient))


def test_solve() -> None:
    upper, right = randn(2, 6, 6), randn(2, 3, 6, seed=1)
    eye = torch.eye(6, dtype=torch.float64)
    expected = right @ torch.linalg.inv(eye + upper.triu(1))
    assert relative_error(expected, bricks.solve(upper, right)) < 1e-12
    assert gradcheck(bricks.solve, (upper, right))


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("gates", ["for each", "for all memories"])
def test_delta(gates: str, known: bool) -> None:
    """One chunk token by token, for stacked weights whose gates are their own or broadcast."""
    shape = (2, 3) if gates == "for each" else (2, 1)
    weight, keys, step = randn(2, 3, 2, 4), randn(2, 3, 4, 5, seed=1), randn(2, 3, 2, 5, seed=2)
    rate, retention = randn(*shape, 1, 5, seed=3), randn(*shape, 1, 5, seed=4)

    def run(
        weight: Tensor, keys: Tensor, step: Tensor, rate: Tensor, retention: Tensor
    ) -> tuple[Tensor, Tensor]:
        decay = HeadDecay(torch.sigmoid(rate), F.logsigmoid(retention))
        outputs = weight @ keys if known else None
        return bricks.delta(weight, keys, step, decay.inclusive, decay.gamma, outputs)

    inputs = (weight, keys, step, rate, retention)
    _, after = run(*inputs)
    gates_of = torch.sigmoid(rate), F.logsigmoid(retention)
    expected, _ = naive.delta_write(
        weight, keys.mT, -step.mT, *(g[..., 0, :].expand(2, 3, 5) for g in gates_of), erase=True
    )
    assert relative_error(expected, after) < 1e-12
    assert gradcheck(run, inputs)


def test_influences_that_are_negligible_are_dropped() -> None:
    upper = torch.zeros(2, 2, dtype=torch.float64)
    upper[0, 1] = 1e-30
    assert torch.equal(
        bricks.solve(upper, torch.eye(2, dtype=torch.float64)), torch.eye(2, dtype=torch.float64)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_slope_and_curvature_of_an_activation(kind: Any) -> None:
    x = away_from_the_kink(200)
    (slope,) = torch.autograd.grad(activate(x, kind).sum(), x, create_graph=True)
    assert relative_error(slope, activation_derivative(x, kind)) < 1e-13
    curvature = torch.zeros_like(x) if kind == "relu" else torch.autograd.grad(slope.sum(), x)[0]
    assert relative_error(curvature, activation_curvature(x, kind)) < 1e-12


@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("features", ["bounded", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_features_backward_is_autograds(kind: Any, features: Any, dim: int) -> None:
    rule = MemoryRule(activation=kind, features=features)
    x, gradient = away_from_the_kink(3, 6, 5), randn(3, 6, 5, seed=1)
    phi = hidden_features(x, rule, dim)
    if features == "bounded":
        assert (phi.norm(dim=dim) < 1).all()
    (expected,) = torch.autograd.grad(phi, x, gradient)
    assert relative_error(expected, hidden_features_backward(x, gradient, rule, dim)) < 1e-13


@pytest.mark.parametrize("dim", [-1, -2])
def test_inner_norm_backward_is_autograds(dim: int) -> None:
    x, gradient = randn(3, 6, 5), randn(3, 6, 5, seed=1)
    shape = (6, 1) if dim == -2 else (5,)
    scale, shift = randn(*shape, seed=2), randn(*shape, seed=3)
    y = inner_norm(x, scale, shift, dim)
    if dim == -1:
        expected = torch.nn.functional.layer_norm(x, (5,), scale, shift, eps=1e-6)
        assert relative_error(expected, y) < 1e-13
    (by_x,) = torch.autograd.grad(y, x, gradient)
    assert relative_error(by_x, inner_norm_backward(x, scale, gradient, dim)) < 1e-12


RULES = [
    MemoryRule(kind=kind, chunk_size=2, **changes)  # type: ignore[arg-type]
    for kind in ("matrix", "mlp")
    for changes in (
        {},
        {"objective": "l2"},
        {"momentum": True},
        {"rest": "zero", "inner_norm": True, "main_target": "generated"},
    )
] + [
    MemoryRule(kind="matrix", chunk_size=2, gates="channel"),
    MemoryRule(chunk_size=2, projection_chunk_size=4, features="plain", causal_reads=False),
]


@pytest.mark.parametrize("rule", RULES, ids=short)
def test_gradients_through_two_chunks(rule: MemoryRule) -> None:
    make = Maker(rule, batch=1, heads=2, width=3, hidden=4)
    parameters, streams = make.parameters(), make.streams(4 if rule.projection_chunk_size is None else 6)
    named = leaves(parameters, streams)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        p, s = replace_leaves(parameters, dict(zip(named, tensors, strict=True)))
        y, state = chunk.self_modifying(s, p, None, rule)
        return y, *state.weights, *state.momentum

    assert gradcheck(run, tuple(named.values()), fast_mode=True)


@pytest.mark.parametrize("twin", ["naive", "chunk"])
@pytest.mark.parametrize(("cut", "reached"), [(None, range(8)), (2, range(4, 8)), (1, range(6, 8))])
def test_the_graph_is_cut_after_so_many_chunks(cut: int | None, reached: range, twin: str) -> None:
    rule = MemoryRule(chunk_size=2, backprop_chunks=cut)
    make = Maker(rule)
    parameters, streams = make.parameters(), make.streams(8)
    y, _ = {"naive": naive, "chunk": chunk}[twin].self_modifying(streams, parameters, None, rule)
    for gradient in torch.autograd.grad(y[:, :, 7].sum(), streams, allow_unused=True, retain_graph=True)[:2]:
        seen = gradient.abs().sum((0, 1, 3)) > 0
        assert seen.nonzero().flatten().tolist() == list(reached)
    whole = MemoryRule(chunk_size=2)
    assert torch.equal(
        y, {"naive": naive, "chunk": chunk}[twin].self_modifying(streams, parameters, None, whole)[0]
    )


@pytest.mark.parametrize("group", [1, 2, 100])
@pytest.mark.parametrize("kind", ["matrix", "mlp"])
def test_checkpoints_change_nothing_and_compute_again(kind: Any, group: int) -> None:
    results, saved = [], []
    for checkpoint_chunks in (0, group):
        rule = MemoryRule(kind=kind, chunk_size=2, checkpoint_chunks=checkpoint_chunks, momentum=True)
        make, count = Maker(rule), 0
        parameters, streams = make.parameters(), make.streams(11)

        def keep(t: Tensor) -> Tensor:
            nonlocal count
            count += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y, state = chunk.self_modifying(streams, parameters, None, rule)
        saved.append(count)
        loss = y.square().sum() + sum(w.square().sum() for w in (*state.weights, *state.momentum))
        results.append([y, *torch.autograd.grad(loss, list(leaves(parameters, streams).values()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert saved[1] < saved[0] / 2
