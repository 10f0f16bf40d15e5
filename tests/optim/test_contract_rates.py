"""Learning rates and weight decay of every optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, OneCycleLR, StepLR

import nestlearn as nl
from tests.helpers import copy_tree, difference, relative_error
from tests.optim.optimizers import (
    CLASSES,
    CONFIGURATIONS,
    STEPS,
    make,
    run,
    set_gradients,
    trained,
    weights,
    without,
)

every = pytest.mark.parametrize("name", CONFIGURATIONS)
every_class = pytest.mark.parametrize("name", CLASSES)


@every
def test_a_groups_learning_rate_is_its_own(name: str) -> None:
    expected = trained(name, lr=1e-2)[:3] + trained(name, lr=1e-3)[3:]
    parameters = weights()
    groups = [{"params": parameters[:3]}, {"params": parameters[3:], "lr": 1e-3}]
    run(make(name, groups), parameters, 0, STEPS)
    for a, b in zip(expected, parameters, strict=True):
        assert relative_error(a, b) < 1e-3


@every
def test_a_learning_rate_of_zero_moves_nothing(name: str) -> None:
    assert difference(copy_tree(weights()), copy_tree(trained(name, lr=0.0))) is None


SCHEDULERS: dict[str, Callable[[Any], LRScheduler]] = {
    "step": lambda o: StepLR(o, step_size=2, gamma=0.1),
    "exponential": lambda o: ExponentialLR(o, gamma=0.5),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=STEPS),
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1, cycle_momentum=False),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
@every_class
def test_a_scheduler_sets_the_learning_rate(name: str, tensor: bool, scheduler: str) -> None:
    lr = torch.tensor(1e-2, dtype=torch.float64) if tensor else 1e-2
    scheduled, by_hand = weights(torch.float64), weights(torch.float64)
    optimizer, other = make(name, scheduled, lr=lr), make(name, by_hand)
    schedule = SCHEDULERS[scheduler](optimizer)
    rates = []
    for step in range(STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        other.param_groups[0]["lr"] = rates[-1]
        run(optimizer, scheduled, step, step + 1)
        run(other, by_hand, step, step + 1)
        schedule.step()
    assert len(set(rates)) > 1
    for a, b in zip(by_hand, scheduled, strict=True):
        assert relative_error(a, b) < 1e-12


@every
def test_the_learning_rate_may_be_a_tensor(name: str) -> None:
    for a, b in zip(trained(name), trained(name, lr=torch.tensor(1e-2)), strict=True):
        assert relative_error(a, b) < 1e-5


@every_class
def test_the_learning_rate_may_be_a_tensor_of_one_element(name: str) -> None:
    """As with PyTorch's own: either it works, or it is refused at once."""
    try:
        got = trained(name, lr=torch.tensor([1e-2]))
    except ValueError as error:
        assert "lr" in str(error)
        return
    for a, b in zip(trained(name), got, strict=True):
        assert relative_error(a, b) < 1e-5


@every
def test_decoupled_decay_shrinks_by_itself(name: str) -> None:
    """``W (1 - lr weight_decay)`` before the update, whatever that is."""
    kind, arguments = without(name, "weight_decay", "decoupled")
    decayed, plain = weights(torch.float64), weights(torch.float64)
    optimizer = kind(decayed, **{"lr": 0.1, **arguments, "weight_decay": 0.5, "decoupled": True})
    run(optimizer, decayed, 0, 1)
    run(kind(plain, **{"lr": 0.1, **arguments}), plain, 0, 1)
    for start, a, b in zip(weights(torch.float64), decayed, plain, strict=True):
        torch.testing.assert_close(a, b - 0.05 * start)


@every
def test_coupled_decay_is_part_of_the_gradient(name: str) -> None:
    kind, arguments = without(name, "weight_decay", "decoupled")
    decayed, plain = weights(torch.float64), weights(torch.float64)
    first = kind(decayed, **{"lr": 0.01, **arguments, "weight_decay": 0.5, "decoupled": False})
    second = kind(plain, **{"lr": 0.01, **arguments})
    for step in range(3):
        run(first, decayed, step, step + 1)
        set_gradients(plain, step)
        for parameter in plain:
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach(), alpha=0.5)
        second.step()
    for a, b in zip(decayed, plain, strict=True):
        assert relative_error(b, a) < 1e-9


@pytest.mark.parametrize("size", [1e-18, 1e-19, 1e-20, 1e-21, 1e-30])
def test_the_tiniest_gradients_leave_numbers(size: float) -> None:
    for shape in ((4, 6), (5,)):
        parameter = nn.Parameter(torch.ones(shape))
        optimizer = nl.optim.DeltaMomentum([parameter])
        for _ in range(3):
            parameter.grad = torch.full(shape, size)
            optimizer.step()
        assert parameter.isfinite().all()


@pytest.mark.parametrize("kind", [nl.optim.M3, nl.optim.PreconditionedMomentum])
def test_steps_are_counted_whatever_the_default_dtype(kind: Any) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        parameter = nn.Parameter(torch.ones(3))
        optimizer = kind([parameter])
        for _ in range(300):
            parameter.grad = torch.ones(3)
            optimizer.step()
    finally:
        torch.set_default_dtype(before)
    assert int(optimizer.state[parameter]["step"]) == 300
