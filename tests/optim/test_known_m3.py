"""M3 against Algorithm 1 and its averaged form, both written out line by line."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestlearn.optim import M3
from nestlearn.optim.bricks.orthogonal import newton_schulz
from tests.helpers import relative_error
from tests.optim.optimizers import NO_SLOW, random, run, set_gradients, weights

RATE, EPS = 0.1, 1e-8


def newton_schulz_by_the_book(m: Tensor, steps: int = 5) -> Tensor:
    if m.shape[0] > m.shape[1]:
        return newton_schulz_by_the_book(m.mT, steps).mT
    x = m / max(m.norm().item(), 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x - 4.7750 * (a @ x) + 2.0315 * (a @ a @ x)
    return x


def algorithm_1(weight: Tensor, gradients: list[Tensor], period: int, betas: list[float]) -> list[Tensor]:
    """SPEC 2.8: b1 of M1, b2 of V, b3 of M2, alpha of O2."""
    b1, b2, b3, alpha = betas
    m1, m2, v = (torch.zeros_like(weight) for _ in range(3))
    trace, k = [], 0
    while k * period < len(gradients):
        for g in gradients[max(k - 1, 0) * period : k * period]:
            m2 = m2 + b3 * g
        o2 = newton_schulz_by_the_book(m2)
        for g in gradients[k * period : (k + 1) * period]:
            m1 = m1 + b1 * g
            v = v + b2 * g**2
            o1 = newton_schulz_by_the_book(m1)
            weight = weight - RATE * (o1 + alpha * o2) / (v.sqrt() + EPS)
            trace.append(weight)
        k += 1
    return trace


def averaged(
    weight: Tensor, gradients: list[Tensor], period: int, betas: list[float], nesterov: bool = True
) -> list[Tensor]:
    """SPEC 6.18: the same with moving averages, corrected for their start and at a size of 0.2."""
    b1, b2, b3, alpha = betas
    m1, m2, v = (torch.zeros_like(weight) for _ in range(3))
    trace = []
    for t, g in enumerate(gradients):
        if t and t % period == 0:
            window = torch.stack(gradients[t - period : t]).mean(0)
            m2 = b3 * m2 + (1 - b3) * window
        m1 = b1 * m1 + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        ahead = b1 * m1 + (1 - b1) * g if nesterov else m1
        o = newton_schulz_by_the_book(ahead) + alpha * newton_schulz_by_the_book(m2)
        d = o / ((v / (1 - b2 ** (t + 1))).sqrt() + EPS)
        d = d * 0.2 * d.numel() ** 0.5 / d.norm()
        weight = weight - RATE * d
        trace.append(weight)
    return trace


@pytest.mark.parametrize("shape", [(4, 6), (7, 3), (5, 5)], ids=str)
@pytest.mark.parametrize("period", [1, 3, 5])
@pytest.mark.parametrize("mode", ["paper", "ema", "ema, plain"])
def test_m3_is_written_out(mode: str, period: int, shape: tuple[int, int]) -> None:
    betas = [0.9, 0.7, 0.6, 0.3]
    parameter = nn.Parameter(random(shape, 0, torch.float64))
    gradients = [random(shape, 50 + t, torch.float64) * (1 + t % 4) for t in range(4 * period + 2)]
    plain = mode == "ema, plain"
    written = algorithm_1 if mode == "paper" else partial(averaged, nesterov=not plain)
    expected = written(parameter.detach().clone(), gradients, period, betas)
    settings: dict[str, Any] = {
        "eps": EPS,
        "mode": mode.split(",", maxsplit=1)[0],
        "nesterov": not plain,
        "denominator": True,
    }
    optimizer = M3([parameter], RATE, (0.9, 0.7), (period,), (0.6,), (0.3,), **settings)
    for gradient, weight in zip(gradients, expected, strict=True):
        parameter.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), weight)


def test_two_slow_memories_are_the_sum_of_their_reads() -> None:
    """With no other memory to read, each weight adds what its memory alone would have read."""
    shape = (4, 6)
    settings: dict[str, Any] = {"mode": "paper", "denominator": False, "lr": 1.0}

    def moved(periods: tuple[int, ...], slow: tuple[float, ...], weights: tuple[float, ...]) -> Tensor:
        parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        optimizer = M3([parameter], periods=periods, slow_betas=slow, weights=weights, **settings)
        run(optimizer, [parameter], 0, 9)
        return parameter.detach()

    none = moved((), (), ())
    first, second = moved((2,), (0.9,), (0.5,)), moved((4,), (0.5,), (0.25,))
    both = moved((2, 4), (0.9, 0.5), (0.5, 0.25))
    torch.testing.assert_close(both, first + second - none)
    assert relative_error(none, first) > 1e-2
    assert relative_error(first, both) > 1e-2


def test_a_slow_memory_is_read_at_boundaries_only() -> None:
    (parameter,) = weights(torch.float64, shapes=((4, 6),))
    optimizer = M3([parameter], periods=(3,))
    reads = []
    for step in range(7):
        run(optimizer, [parameter], step, step + 1)
        reads.append(optimizer.state[parameter]["read_0"].clone())
    assert not reads[0].any()
    changes = [not torch.equal(a, b) for a, b in pairwise(reads)]
    assert changes == [False, False, True, False, False, True]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.95, 0.5])
def test_without_slow_memory_and_denominator_it_is_muon(momentum: float, nesterov: bool) -> None:
    shapes = ((4, 6), (7, 3), (3, 40))
    expected, got = weights(shapes=shapes), weights(shapes=shapes)
    muon = torch.optim.Muon(
        expected,
        lr=0.02,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
    )
    settings: dict[str, Any] = {"denominator": False, "nesterov": nesterov, "weight_decay": 0.1, **NO_SLOW}
    m3 = M3(got, 0.02, (momentum, 0.95), **settings)
    run(muon, expected, 0, 10)
    run(m3, got, 0, 10)
    for start, a, b in zip(weights(shapes=shapes), expected, got, strict=True):
        assert relative_error(a - start, b - start) < 1e-5


@pytest.mark.parametrize("named", [False, True], ids=["by shape", "by name"])
def test_everything_else_is_adamw(named: bool) -> None:
    shapes = ((8, 4),) if named else ((), (5,), (1, 6))
    expected, got = weights(shapes=shapes), weights(shapes=shapes)
    settings: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    adamw = torch.optim.AdamW(expected, betas=(0.8, 0.9), **settings)
    given: Any = [(f"model.embed_tokens.{i}", p) for i, p in enumerate(got)] if named else got
    run(adamw, expected, 0, 10)
    run(M3(given, adamw_betas=(0.8, 0.9), **settings), got, 0, 10)
    for start, a, b in zip(weights(shapes=shapes), expected, got, strict=True):
        assert relative_error(a - start, b - start) < 3e-6


def test_the_names_decide_who_is_whose() -> None:
    names = [
        "tok_embeddings.weight",
        "h.0.multihead.weight",
        "h.0.norm.weight",
        "lm_head.weight",
        "conv.weight",
    ]
    shapes = [(8, 4), (4, 4), (4,), (8, 4), (4, 2, 3)]
    parameters = weights(shapes=shapes)
    optimizer = M3(list(zip(names, parameters, strict=True)))
    assert optimizer.param_groups[0]["orthogonal"] == [False, True, False, False, True]
    run(optimizer, parameters, 0, 1)
    slow = ["slow_0" in optimizer.state[parameter] for parameter in parameters]
    assert slow == [False, True, False, False, True]
    assert "group 0 by M3: 2 parameters, 40 elements" in repr(optimizer)
    assert "group 0 by AdamW: 3 parameters, 68 elements" in repr(optimizer)


def test_a_loaded_state_keeps_the_division() -> None:
    """Names are only needed once."""
    named, plain = weights(shapes=((8, 4),)), weights(shapes=((8, 4),))
    first, second = M3([("head", named[0])]), M3(plain)
    run(first, named, 0, 2)
    second.load_state_dict(first.state_dict())
    run(first, named, 2, 4)
    with torch.no_grad():
        plain[0].copy_(weights(shapes=((8, 4),))[0])
    set_gradients(plain, 2)
    second.step()
    assert "slow_0" not in second.state[plain[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_newton_schulz_brings_singular_values_near_one(dtype: torch.dtype) -> None:
    m = random((256, 1024), 0, dtype)
    for matrix in (m, m.mT, 1e-4 * m, torch.stack([m, 2 * m])):
        values = torch.linalg.svdvals(newton_schulz(matrix).double())
        assert values.min() > 0.65
        assert values.max() < 1.2


def test_newton_schulz_keeps_singular_vectors_and_zero() -> None:
    m = random((6, 9), 3, torch.float64)
    u, _, v = torch.linalg.svd(m, full_matrices=False)
    inside = u.mT @ newton_schulz(m) @ v.mT
    torch.testing.assert_close(inside, inside.diagonal().diag())
    assert not newton_schulz(torch.zeros(3, 4)).any()
    torch.testing.assert_close(newton_schulz(m), newton_schulz_by_the_book(m))
