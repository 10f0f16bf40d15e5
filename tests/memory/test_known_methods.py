"""Points of the rules' space that are known methods, each against a sequential implementation of its own.

Nothing of :mod:`nestlearn.memory` computes the expected values: gradients of inner losses are autograd's.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.memory import MemoryParameters, MemoryRule, Streams, chunk, naive
from tests.helpers import relative_error
from tests.memory.rules import Maker, short

T = 10
TWINS = pytest.mark.parametrize("twin", [naive, chunk], ids=["naive", "chunk"])


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


def column(x: Tensor, t: int) -> Tensor:
    return x[:, :, t, :, None]


def baseline(kind: Any, **changes: Any) -> MemoryRule:
    """A memory with static projections that starts from zero."""
    return MemoryRule(**{"kind": kind, "adaptive": (), "rest": "zero", "rate": "gated", **changes})


def setting(rule: MemoryRule, empty: bool) -> tuple[MemoryParameters, Streams]:
    make = Maker(rule)
    p = make.parameters()
    p = p._replace(write_scale=torch.ones_like(p.write_scale))
    if empty:
        p = p._replace(weights=tuple(torch.zeros_like(w) for w in p.weights))
    return p, make.streams(T)


def gate(x: Streams, p: MemoryParameters, i: int) -> Tensor:
    """``[B, H, T]``."""
    return torch.sigmoid(torch.einsum("bhte,he->bht", x.key, p.gate_weight[i]) + p.gate_bias[i])


@TWINS
@pytest.mark.parametrize("retention", ["gated", "none"])
def test_the_gated_delta_rule_and_deltanet(twin: Any, retention: Any) -> None:
    rule = baseline("matrix", retention=retention, chunk_size=3)
    p, x = setting(rule, empty=True)
    got, _ = twin.self_modifying(x, p, None, rule)
    eta = gate(x, p, 0)
    alpha = gate(x, p, 1) if retention == "gated" else torch.ones_like(eta)
    k, q, state, reads = unit(x.key), unit(x.query), torch.zeros(2, 2, 5, 5, dtype=torch.float64), []
    for t in range(T):
        forgotten = state @ column(k, t)  # what the key read before is taken out, the value put in
        state = alpha[:, :, t, None, None] * state
        state = state + eta[:, :, t, None, None] * (column(x.value, t) - forgotten) @ column(k, t).mT
        reads.append((state @ column(q, t))[..., 0])
    assert relative_error(torch.stack(reads, 2), got) < 1e-12


@TWINS
@pytest.mark.parametrize("retention", ["gated", "none"])
def test_negative_eigenvalues_for_state_tracking(twin: Any, retention: Any) -> None:
    """A rate of two turns a vector around its key; below full retention it stays ``eta <= 1 + alpha``."""
    rule = baseline("matrix", retention=retention, rate="bound", rate_max=2.0, chunk_size=3)
    p, x = setting(rule, empty=False)
    _, end = twin.self_modifying(x, p, None, rule)
    alpha = gate(x, p, 1) if retention == "gated" else torch.ones(2, 2, T, dtype=torch.float64)
    eta, k, state = (1 + alpha) * gate(x, p, 0), unit(x.key), p.weights[0][0].expand(2, 2, 5, 5)
    for t in range(T):
        a, e, kt = alpha[:, :, t, None, None], eta[:, :, t, None, None], column(k, t)
        transition = a * torch.eye(5, dtype=torch.float64) - e * kt @ kt.mT
        assert torch.linalg.eigvalsh(transition).abs().max() < 1.0 + 1e-12
        state = state @ transition + e * column(x.value, t) @ kt.mT
    assert relative_error(state, end.weights[0][:, :, 0]) < 1e-12


@TWINS
@pytest.mark.parametrize("retention", ["none", "fixed"])
def test_linear_attention_and_retention(twin: Any, retention: Any) -> None:
    rule = baseline("matrix", erase="none", rate="one", retention=retention, chunk_size=4)
    p, x = setting(rule, empty=True)
    got, _ = twin.self_modifying(x, p, None, rule)
    gamma = torch.tensor([1 - 2**-5, 1 - 2**-6]).double() if retention == "fixed" else torch.ones(2).double()
    age = torch.arange(T)[:, None] - torch.arange(T)
    decay = (gamma[:, None, None] ** age.clamp(min=0)).tril()
    scores = unit(x.query) @ unit(x.key).mT
    assert relative_error((scores * decay) @ x.value, got) < 1e-12


@TWINS
def test_a_delta_rule_with_a_gate_per_channel(twin: Any) -> None:
    """The retention of Gated Linear Attention and of Kimi Delta Attention's fine gates."""
    rule = baseline("matrix", gates="channel", chunk_size=4)
    p, x = setting(rule, empty=True)
    got, _ = twin.self_modifying(x, p, None, rule)
    eta, alpha = (torch.sigmoid(x.key * p.gate_weight[i][:, None] + p.gate_bias[i][:, None]) for i in (0, 1))
    k, q, state, reads = unit(x.key), unit(x.query), torch.zeros(2, 2, 5, 5, dtype=torch.float64), []
    for t in range(T):
        forgotten = state @ column(k, t)
        state = state @ torch.diag_embed(alpha[:, :, t])
        state = state + (column(x.value, t) - forgotten) @ column(eta * k, t).mT
        reads.append((state @ column(q, t))[..., 0])
    assert relative_error(torch.stack(reads, 2), got) < 1e-12


ACTIVATIONS = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
}


def model(rule: MemoryRule, weights: tuple[Tensor, ...], norm: Any, z: Tensor, residual: bool) -> Tensor:
    """``M(z)`` by its definition, with rows ``[..., e]`` of one sample, head and memory."""
    if rule.kind == "matrix":
        out = F.linear(z, weights[0])
    else:
        s = ACTIVATIONS[rule.activation](F.linear(z, weights[1]))
        phi = s / torch.sqrt(1 + s.pow(2).sum(-1, keepdim=True)) if rule.features == "bounded" else s
        out = F.linear(phi, weights[0])
    if norm is not None:
        out = F.layer_norm(out, out.shape[-1:], norm[0], norm[1], eps=1e-6)
    return z + out if residual else out


def inner_gradient(
    rule: MemoryRule, weights: tuple[Tensor, ...], norm: Any, k: Tensor, target: Tensor, residual: bool
) -> tuple[Tensor, ...]:
    """Autograd's gradient of the inner loss by the weights."""
    leaves = tuple(w.detach().requires_grad_() for w in weights)
    norm = None if norm is None else tuple(n.detach() for n in norm)
    y = model(rule, leaves, norm, k.detach(), residual)
    loss = (
        0.5 * (y - target.detach()).pow(2).sum() if rule.objective == "l2" else -(y * target.detach()).sum()
    )
    return torch.autograd.grad(loss, leaves)


METHODS = {
    "TTT-Linear": baseline(
        "matrix",
        objective="l2",
        erase="none",
        retention="none",
        inner_norm=True,
        main_residual=True,
        chunk_size=4,
    ),
    "TTT-MLP": baseline(
        "mlp",
        objective="l2",
        erase="none",
        retention="none",
        inner_norm=True,
        main_residual=True,
        features="plain",
        activation="gelu",
        chunk_size=4,
    ),
    "Titans LMM": baseline("mlp", objective="l2", erase="none", momentum=True, chunk_size=4, rate_max=0.5),
    "linear Titans LMM": baseline(
        "matrix", objective="l2", erase="none", momentum=True, chunk_size=1, rate_max=0.5
    ),
}


@TWINS
@pytest.mark.parametrize("method", METHODS)
def test_test_time_training_and_titans_step_along_autograds_gradient(twin: Any, method: str) -> None:
    """Mini-batch gradient descent in the forward pass: gradients at the chunk's start, reads everywhere."""
    rule = METHODS[method]
    p, x = setting(rule, empty=False)
    got, end = twin.self_modifying(x, p, None, rule)
    gates = {name: gate(x, p, i) for i, name in enumerate(rule.gate_names)}
    for b, h in itertools.product(range(2), range(2)):
        norm = None if p.norm is None else (p.norm[0][0, h], p.norm[1][0, h])
        weights = tuple(w[0, h] for w in p.weights)
        speed = tuple(torch.zeros_like(w) for w in weights)
        for t in range(T):
            if t % rule.chunk_size == 0:
                snapshot = weights
            eta = rule.rate_max * gates["rate"][b, h, t]
            alpha = gates["retention"][b, h, t] if rule.retention == "gated" else 1.0
            beta = 0.9 * gates["momentum"][b, h, t] if rule.momentum else 0.0
            k, v, q = unit(x.key)[b, h, t], x.value[b, h, t], unit(x.query)[b, h, t]
            gradient = inner_gradient(rule, snapshot, norm, k, v, rule.main_residual)
            speed = tuple(beta * s - eta * g for s, g in zip(speed, gradient, strict=True))
            weights = tuple(alpha * w + s for w, s in zip(weights, speed, strict=True))
            assert relative_error(model(rule, weights, norm, q, rule.main_residual), got[b, h, t]) < 1e-11
        for expected, w in zip(weights, end.weights, strict=True):
            assert relative_error(expected, w[b, h, 0]) < 1e-11


def written_losses() -> list[MemoryRule]:
    shared = {"erase": "none", "retention": "none", "adaptive": ("key", "value", "query"), "chunk_size": 2}
    rules = [
        MemoryRule(
            kind="mlp",
            activation=activation,
            features=features,
            inner_norm=norm,
            objective=objective,
            **shared,
        )
        for activation, features, norm, objective in itertools.product(
            ACTIVATIONS, ("bounded", "plain"), (False, True), ("dot", "l2")
        )
    ]
    rules += [
        MemoryRule(kind="matrix", inner_norm=norm, objective=objective, **shared)
        for norm, objective in itertools.product((False, True), ("dot", "l2"))
    ]
    rules += [
        MemoryRule(
            kind=kind,
            objective=objective,
            inner_norm=True,
            main_residual=residual,
            main_target=target,
            unit_targets=False,
            rest=rest,
            **shared,
        )
        for kind, objective, residual, target, rest in (
            ("mlp", "l2", True, "generated", "initial"),
            ("mlp", "l2", False, "generated", "zero"),
            ("mlp", "dot", True, "value", "zero"),
            ("matrix", "l2", True, "generated", "initial"),
        )
    ]
    return rules


@TWINS
@pytest.mark.parametrize("rule", written_losses(), ids=short)
def test_closed_form_inner_gradients_are_autograds(rule: MemoryRule, twin: Any) -> None:
    """Two tokens of one chunk move every memory by the gradients of its own written inner loss."""
    make = Maker(rule, batch=1, heads=1)
    p, x = make.parameters(), make.streams(2)
    with torch.no_grad():
        _, state = twin.self_modifying(x, p, None, rule)
    names = rule.names
    memory = {name: tuple(w[i, 0] for w in p.weights) for i, name in enumerate(names)}
    norms = {
        name: None if p.norm is None else (p.norm[0][i, 0], p.norm[1][i, 0]) for i, name in enumerate(names)
    }

    def read(name: str, z: Tensor) -> Tensor:
        return model(rule, memory[name], norms[name], z, True)

    moved = {name: [torch.zeros_like(w) for w in memory[name]] for name in names}
    for t in range(2):
        k, v = unit(read("key", x.key[0, 0, t])), read("value", x.value[0, 0, t])
        eta = torch.sigmoid(x.key[0, 0, t] @ p.gate_weight[0, 0] + p.gate_bias[0, 0])
        for i, name in enumerate(names):
            residual = rule.main_residual if name == "main" else True
            target = read(name, v)
            if name == "main":
                target = target if rule.main_target == "generated" else v
            elif rule.unit_targets:
                target = unit(target)
            gradient = inner_gradient(rule, memory[name], norms[name], k, target, residual)
            step = (eta * p.write_scale[i, 0]).detach()
            moved[name] = [total - step * g for total, g in zip(moved[name], gradient, strict=True)]
    for i, name in enumerate(names):
        for expected, start, end in zip(moved[name], memory[name], state.weights, strict=True):
            change = end[0, 0, i] if rule.rest == "initial" else end[0, 0, i] - start
            assert relative_error(expected, change) < 1e-10, name


@TWINS
@pytest.mark.parametrize("features", ["bounded", "plain"])
@pytest.mark.parametrize("erase", ["layers", "input", "none"])
def test_the_erase_of_an_mlp_memory(twin: Any, erase: Any, features: Any) -> None:
    """Eq. 88 for both layers: with "layers" each has the erase, with its own input no longer than one."""
    rule = baseline("mlp", erase=erase, features=features, chunk_size=1)
    make = Maker(rule, batch=1, heads=1)
    p, x = make.parameters(), make.streams(1)
    _, state = twin.self_modifying(x, p, None, rule)
    (eta,), (alpha,) = gate(x, p, 0)[0, 0], gate(x, p, 1)[0, 0]
    outer, inner, k, v = p.weights[0][0, 0], p.weights[1][0, 0], unit(x.key)[0, 0, 0], x.value[0, 0, 0]
    s = F.silu(inner @ k)
    phi = s / torch.sqrt(1 + s @ s) if features == "bounded" else s
    by_outer, by_inner = inner_gradient(rule, (outer, inner), None, k, v, False)
    scale = p.write_scale[0, 0]
    if features == "plain" and erase == "layers":  # the input of the write has length one, not the read's
        phi = s / torch.sqrt(s @ s + 1e-6)
        by_outer = torch.outer(-v, phi)
    eye_out, eye_in = torch.eye(7, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    keep_out = alpha * eye_out - eta * (erase == "layers") * torch.outer(phi, phi)
    keep_in = alpha * eye_in - eta * (erase != "none") * torch.outer(k, k)
    assert relative_error(outer @ keep_out - eta * scale * by_outer, state.weights[0][0, 0, 0]) < 1e-12
    assert relative_error(inner @ keep_in - eta * scale * by_inner, state.weights[1][0, 0, 0]) < 1e-12
