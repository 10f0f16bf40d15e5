"""The end of an unrolled inner loop, differentiated by its beginning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from nestlearn.optim import unroll
from tests.optim.inner_loops import CLASS_RULES, F64, RULES, STEPS, Parameters, any_optimizer, loss, start
from tests.optim.optimizers import random

every = pytest.mark.parametrize("name", RULES)


def check_derivative(function: Callable[[Tensor], Tensor], at: Tensor, bound: float = 1e-5) -> None:
    """Against central differences, in a random direction, and that there is one."""
    at = at.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at), at)
    # In the unit of the place, so that what must be positive stays so.
    direction = random(at.shape, 77, F64) * at.detach().abs() if at.dim() else torch.ones((), dtype=F64)
    h = 1e-5
    with torch.no_grad():
        by_differences = (function(at + h * direction) - function(at - h * direction)).item() / (2 * h)
    got = (gradient * direction).sum().item()
    assert got != 0
    assert got == pytest.approx(by_differences, rel=bound, abs=bound * gradient.norm().item())


@every
def test_the_derivative_by_the_initial_parameters(name: str) -> None:
    optimizer = any_optimizer(name)

    def end(value: Tensor) -> Tensor:
        result = unroll(optimizer, loss, {**start(), "matrix": value}, STEPS)
        return loss(result.parameters, STEPS)

    check_derivative(end, random((3, 4), 0, F64))


@every
def test_the_derivative_by_the_learning_rate(name: str) -> None:
    optimizer = any_optimizer(name)

    def end(value: Tensor) -> Tensor:
        return loss(unroll(optimizer, loss, start(), STEPS, lr=value).parameters, STEPS)

    check_derivative(end, torch.tensor(0.05, dtype=F64))


NUMBERS = {
    "Momentum()": ["momentum", "weight_decay"],
    "Momentum(nesterov)": ["momentum"],
    "Momentum(orthogonal)": ["weight_decay"],
    "FeatureMomentum()": ["momentum"],
    "DeltaMomentum(some)": ["momentum", "erase", "weight_decay"],
    "DeepMomentum()": ["inner_lr", "retention"],
    "Muon()": ["momentum", "weight_decay"],
    "PreconditionedMomentum()": ["weight_decay"],
    "DeltaGradientDescent()": ["weight_decay"],
}


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, own in NUMBERS.items() for n in own])
def test_the_derivative_by_another_number(name: str, number: str) -> None:
    optimizer = any_optimizer(name)
    at = float(optimizer.defaults[number]) or 0.1

    def end(value: Tensor) -> Tensor:
        settings: dict[str, Any] = {number: value}
        return loss(unroll(optimizer, loss, start(), STEPS, **settings).parameters, STEPS)

    check_derivative(end, torch.tensor(at, dtype=F64))


@pytest.mark.parametrize("which", [0, 1])
def test_the_derivative_by_adams_decays(which: int) -> None:
    optimizer = any_optimizer("PreconditionedMomentum()")

    def end(value: Tensor) -> Tensor:
        betas = (value, 0.99) if which == 0 else (0.9, value)
        return loss(unroll(optimizer, loss, start(), STEPS, betas=betas).parameters, STEPS)

    check_derivative(end, torch.tensor((0.9, 0.99)[which], dtype=F64))


MEMORIES = [
    ("Momentum()", "momentum"),
    ("DeltaMomentum()", "momentum"),
    ("Muon()", "momentum"),
    ("PreconditionedMomentum()", "squares"),
    ("M3()", "slow_0"),
    ("DeepMomentum()", "inner"),
    ("DeepMomentum()", "skip"),
    ("DeepMomentum(reconstruct)", "outer"),
]


@pytest.mark.parametrize(("name", "memory"), MEMORIES)
def test_the_derivative_by_an_initial_memory(name: str, memory: str) -> None:
    optimizer = any_optimizer(name)
    states = unroll(optimizer, loss, start(), 2).detach().states

    def end(value: Tensor) -> Tensor:
        own = {**states, "matrix": {**states["matrix"], memory: value}}
        return loss(unroll(optimizer, loss, start(), STEPS, states=own).parameters, STEPS)

    check_derivative(end, states["matrix"][memory], 1e-4)


def test_first_order_takes_the_inner_gradients_as_constants() -> None:
    """With plain gradient descent the end then depends on the beginning by addition alone."""
    begin = start()
    got = unroll(any_optimizer("Momentum(none)"), loss, begin, STEPS, first_order=True)
    last = {key: value.detach().requires_grad_() for key, value in got.parameters.items()}
    expected = torch.autograd.grad(loss(last, STEPS), list(last.values()))
    found = torch.autograd.grad(loss(got.parameters, STEPS), list(begin.values()))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", CLASS_RULES)
def test_a_parameter_that_the_loss_does_not_use_has_finite_derivatives(name: str) -> None:
    unused = nn.Parameter(random((2, 3), 5, F64))
    begin = {**start(), "unused": unused}
    rate = torch.tensor(0.05, dtype=F64, requires_grad=True)
    got = unroll(any_optimizer(name), loss, begin, 2, lr=rate)
    end = loss(got.parameters, 2) + got.parameters["unused"].square().sum()
    for gradient in torch.autograd.grad(end, [*begin.values(), rate]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", CLASS_RULES)
def test_elements_without_influence_have_finite_derivatives(name: str) -> None:
    """Their gradients are exactly zero, as of the rows of an embedding that were not looked up."""

    def first_row(parameters: Parameters, step: int) -> Tensor:
        return (parameters["table"][0] - step).square().sum()

    begin = {"table": nn.Parameter(random((3, 4), 0, F64))}
    rate = torch.tensor(0.05, dtype=F64, requires_grad=True)
    got = unroll(any_optimizer(name), first_row, begin, 3, lr=rate)
    for gradient in torch.autograd.grad(got.parameters["table"].square().sum(), [*begin.values(), rate]):
        assert gradient.isfinite().all()


def test_it_works_with_a_module() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x, y = random((5, 3), 0), random((5, 2), 1)

    def fit(parameters: Parameters, _: int) -> Tensor:
        return (functional_call(model, parameters, (x,)) - y).square().mean()

    got = unroll(any_optimizer("M3()"), fit, dict(model.named_parameters()), 3)
    fit(got.parameters, 3).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
