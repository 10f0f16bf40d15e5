"""With some settings an optimizer is one that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nestlearn.optim import (
    DeepMomentum,
    DeltaMomentum,
    FeatureMomentum,
    Momentum,
    Muon,
    PreconditionedMomentum,
)
from tests.helpers import copy_tree, difference, relative_error
from tests.optim.optimizers import COUPLED, DECOUPLED, run, weights

STEPS = 10
Make = Callable[[Any], torch.optim.Optimizer]

MATRICES = ((4, 6), (7, 3), (4, 6), (8, 8), (3, 40))


def after(make: Make, steps: int = STEPS, **changes: Any) -> list[nn.Parameter]:
    parameters = weights(**changes)
    run(make(parameters), parameters, 0, steps)
    return parameters


def check_equal(expected: Make, got: Make, **changes: Any) -> None:
    """Bit for bit, and that something has happened."""
    values = copy_tree(after(expected, **changes))
    assert difference(values, copy_tree(after(got, **changes))) is None
    assert difference(values, copy_tree(weights(**changes))) is not None


def check_close(expected: Make, got: Make, bound: float, **changes: Any) -> None:
    """In the change, so that where it started counts for nothing."""
    start = weights(**changes)
    for before, a, b in zip(start, after(expected, **changes), after(got, **changes), strict=True):
        assert relative_error(a - before, b - before) < bound


SGD: dict[str, dict[str, Any]] = {
    "plain": {"momentum": 0.0},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.7, "nesterov": True},
    "weight decay": {"momentum": 0.9, "weight_decay": 0.1},
    "maximize": {"momentum": 0.9, "maximize": True},
    "all": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SGD)
def test_momentum_is_sgd_bit_for_bit(case: str, dtype: torch.dtype) -> None:
    settings = {"lr": 0.01, **SGD[case]}
    check_equal(lambda p: torch.optim.SGD(p, **settings), lambda p: Momentum(p, **settings), dtype=dtype)


@pytest.mark.parametrize("common", [{}, COUPLED, DECOUPLED], ids=["none", "coupled", "decoupled"])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_one_feature_and_no_erase_are_momentum_bit_for_bit(momentum: float, common: dict[str, Any]) -> None:
    settings = {"lr": 0.01, "momentum": momentum, "decoupled": True, **common}
    check_equal(
        lambda p: Momentum(p, **settings), lambda p: FeatureMomentum(p, coefficients=(1.0,), **settings)
    )
    for side in ("left", "right", "smaller", "whole"):
        check_equal(
            lambda p: Momentum(p, **settings),
            lambda p, s=side: DeltaMomentum(p, erase=0.0, side=s, **settings),  # type: ignore[misc]
        )


def test_an_erase_or_a_second_feature_is_no_longer_momentum() -> None:
    plain = after(lambda p: Momentum(p, 0.01), shapes=MATRICES)
    for other in (lambda p: FeatureMomentum(p, 0.01), lambda p: DeltaMomentum(p, 0.01)):
        changed = after(other, shapes=MATRICES)
        assert all(relative_error(a, b) > 1e-4 for a, b in zip(plain, changed, strict=True))


ADAM: dict[str, dict[str, Any]] = {
    "defaults": {},
    "other decays": {"betas": (0.8, 0.95), "eps": 1e-3},
    "no momentum": {"betas": (0.0, 0.9)},
    "weight decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True, "weight_decay": 0.01},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", ADAM)
def test_adam_and_adamw(case: str, dtype: torch.dtype) -> None:
    settings = {"lr": 0.01, **ADAM[case]}
    bound = 3e-6 if dtype == torch.float32 else 1e-12
    for decoupled, known in ((False, torch.optim.Adam), (True, torch.optim.AdamW)):
        check_close(
            lambda p, k=known: k(p, **{"weight_decay": 0.0, **settings}),  # type: ignore[misc]
            lambda p, d=decoupled: PreconditionedMomentum(p, decoupled=d, **settings),  # type: ignore[misc]
            bound,
            dtype=dtype,
        )


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"maximize": True}], ids=str)
def test_adagrad(settings: dict[str, Any]) -> None:
    check_close(
        lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-10, **settings),
        lambda p: PreconditionedMomentum(
            p, 0.1, (0.0, 0.9), 1e-10, "adagrad", **{"decoupled": False, **settings}
        ),
        3e-6,
    )


@pytest.mark.parametrize(
    "settings", [{}, {"nesterov": False}, {"momentum": 0.5, "weight_decay": 0.1}], ids=str
)
def test_muon(settings: dict[str, Any]) -> None:
    """Both multiply in bfloat16; equal shapes here go through one product, which rounds in another order."""
    for single, bound in ((False, 1e-5), (None, 1e-2)):
        check_close(
            lambda p: torch.optim.Muon(
                p, lr=0.02, adjust_lr_fn="match_rms_adamw", **{"weight_decay": 0.0, **settings}
            ),
            lambda p, s=single: Muon(p, lr=0.02, foreach=s, **settings),  # type: ignore[misc]
            bound,
            shapes=MATRICES,
        )


def test_muon_in_float64_is_orthogonal_in_direction() -> None:
    """The update and the average share their singular vectors: ``O m^T`` is symmetric."""
    (parameter,) = weights(torch.float64, shapes=((5, 8),))
    start = parameter.detach().clone()
    optimizer = Muon([parameter], lr=1.0, nesterov=False)
    run(optimizer, [parameter], 0, 1)
    product = (start - parameter.detach()) @ optimizer.state[parameter]["momentum"].mT
    torch.testing.assert_close(product, product.mT)
    assert torch.linalg.eigvalsh(product).min() > 0


def test_muon_brings_vectors_to_the_same_size() -> None:
    shapes = ((), (5,), (1, 7), (7, 1))
    start = weights(shapes=shapes)
    for before, value in zip(start, after(lambda p: Muon(p, lr=0.5), steps=1, shapes=shapes), strict=True):
        assert (value - before).square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("objective", ["predict", "reconstruct"])
def test_a_network_that_does_not_learn_is_a_moving_average(objective: str) -> None:
    decays = (0.5, 0.9)
    settings: dict[str, Any] = {"objective": objective, "inner_lr": 0.0}
    got = after(lambda p: DeepMomentum(p, 0.1, (0.9,), **settings), dtype=torch.float64)
    # m = b m + (1 - b) g is heavy ball at (1 - b) times the rate.
    expected = after(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), dtype=torch.float64)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)
    both = after(lambda p: DeepMomentum(p, 0.1, decays, **settings), dtype=torch.float64)
    means = [
        after(lambda p, d=d: DeepMomentum(p, 0.1, (d,), **settings), dtype=torch.float64)  # type: ignore[misc]
        for d in decays
    ]
    for value, *single in zip(both, *means, strict=True):
        torch.testing.assert_close(value.detach(), (single[0] + single[1]).detach() / 2)


def test_a_network_that_learns_is_not() -> None:
    start = weights()
    learned = after(lambda p: DeepMomentum(p, 0.1, (0.9,), inner_lr=0.1))
    average = after(lambda p: DeepMomentum(p, 0.1, (0.9,), inner_lr=0.0))
    for before, a, b in zip(start, average, learned, strict=True):
        assert relative_error(a - before, b - before) > 1e-4


@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_kronecker_is_shampoo_written_out(eps: float) -> None:
    """``L^-1/4 m R^-1/4`` at a root mean square of 0.2, the roots by their definition."""
    beta, decay, rate = 0.9, 0.8, 0.1
    parameter = weights(torch.float64, shapes=((4, 6),))[0]
    optimizer = PreconditionedMomentum([parameter], rate, (beta, decay), eps, "kronecker", period=1)
    weight = parameter.detach().clone()
    m, left, right = (torch.zeros(s, dtype=torch.float64) for s in ((4, 6), (4, 4), (6, 6)))
    for step in range(5):
        run(optimizer, [parameter], step, step + 1)
        g = parameter.grad
        assert g is not None
        m = beta * m + (1 - beta) * g
        left = decay * left + (1 - decay) * g @ g.mT
        right = decay * right + (1 - decay) * g.mT @ g
        roots = []
        for factor in (left, right):
            shifted = factor + eps * torch.linalg.eigvalsh(factor)[-1] * torch.eye(len(factor)).double()
            root = optimizer.state[parameter]["left_root" if len(factor) == 4 else "right_root"]
            fourth = torch.linalg.matrix_power(root, 4) @ shifted
            torch.testing.assert_close(fourth, torch.eye(len(factor)).double(), atol=1e-6, rtol=0)
            roots.append(root)
        read = roots[0] @ m @ roots[1]
        weight = weight - rate * 0.2 * read / read.square().mean().sqrt()
        torch.testing.assert_close(weight, parameter.detach())
