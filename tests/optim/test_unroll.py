"""An unrolled inner loop takes the optimizer's steps, and its end can be differentiated by its beginning."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import nestlearn as nl
from nestlearn.optim import unroll
from tests.helpers import copy_tree, difference
from tests.optim.inner_loops import CLASS_RULES, F64, RULES, STEPS, Parameters, any_optimizer, loss, start
from tests.optim.optimizers import make

every = pytest.mark.parametrize("name", RULES)


def ordinary(name: str, steps: int, **changes: Any) -> tuple[Parameters, Any, list[float]]:
    parameters, losses = start(), []
    optimizer = make(name, parameters.items(), **changes)
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(dict(parameters), step)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    states = {key: dict(optimizer.state[p]) for key, p in parameters.items()}
    return dict(parameters), states, losses


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@every
def test_it_takes_the_optimizers_steps(name: str, first_order: bool) -> None:
    expected, states, losses = ordinary(name, STEPS)
    begin = start()
    got = unroll(any_optimizer(name), loss, begin, STEPS, first_order=first_order)
    assert difference(copy_tree(dict(start())), copy_tree(dict(begin))) is None
    assert [value.item() for value in got.losses] == pytest.approx(losses, rel=1e-9)
    assert set(got.states) == set(states)
    for key, value in expected.items():
        torch.testing.assert_close(got.parameters[key], value.detach(), rtol=1e-9, atol=1e-12)
        assert set(got.states[key]) == set(states[key])
        for memory, kept in states[key].items():
            torch.testing.assert_close(got.states[key][memory], kept, rtol=1e-9, atol=1e-12)


def test_m3_divides_by_names() -> None:
    torch.manual_seed(0)
    embedding = nn.Parameter(torch.randn(5, 4, dtype=F64))
    parameters = {"embed.weight": embedding, "linear.weight": nn.Parameter(torch.randn(4, 3, dtype=F64))}

    def product(values: Parameters, step: int) -> Tensor:
        return (values["embed.weight"] @ values["linear.weight"] - step).square().mean()

    begin = {name: value.detach().clone() for name, value in parameters.items()}
    optimizer = nl.optim.M3(parameters.items(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        product(dict(parameters), step).backward()
        optimizer.step()
    got = unroll(nl.optim.M3(parameters.items(), lr=0.1), product, begin, 3)
    assert "orthogonal" not in got.states["embed.weight"]
    for name, value in parameters.items():
        torch.testing.assert_close(got.parameters[name], value.detach())


@every
def test_it_goes_on_where_it_stopped(name: str) -> None:
    optimizer = any_optimizer(name)
    whole = unroll(optimizer, loss, start(), STEPS)
    first = unroll(optimizer, loss, start(), 2)
    kept = copy_tree(first.states)
    second = unroll(optimizer, lambda p, s: loss(p, s + 2), first.parameters, STEPS - 2, states=first.states)
    assert difference(kept, copy_tree(first.states)) is None
    assert difference(copy_tree(whole.parameters), copy_tree(second.parameters)) is None
    assert difference(copy_tree(whole.states), copy_tree(second.states)) is None


@every
def test_the_optimizer_is_left_alone(name: str) -> None:
    optimizer = any_optimizer(name)
    before = copy_tree(optimizer.state_dict())
    unroll(optimizer, loss, start(), 2, lr=torch.tensor(0.3, dtype=F64))
    assert difference(before, copy_tree(optimizer.state_dict())) is None
    assert not optimizer.state


# Truncation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASS_RULES)
def test_truncated_gradients_are_those_of_the_last_stretch(name: str) -> None:
    """Seven steps cut at three and six: one step is left."""
    optimizer, begin = any_optimizer(name), start()
    rates = [torch.tensor(0.05, dtype=F64, requires_grad=True) for _ in range(2)]
    got = unroll(optimizer, loss, begin, 7, truncate=3, lr=rates[0])
    loss(got.parameters, 7).backward()
    assert all(parameter.grad is None for parameter in begin.values())

    before = unroll(optimizer, loss, begin, 6, lr=0.05).detach()
    last = unroll(optimizer, lambda p, _: loss(p, 6), before.parameters, 1, states=before.states, lr=rates[1])
    loss(last.parameters, 7).backward()
    for key, value in last.parameters.items():
        torch.testing.assert_close(got.parameters[key], value)
    assert rates[0].grad is not None
    assert rates[1].grad is not None
    torch.testing.assert_close(rates[0].grad, rates[1].grad)
    assert [value.requires_grad for value in got.losses] == [False] * 6 + [True]


def test_a_loop_without_truncation_reaches_the_beginning() -> None:
    begin = start()
    loss(unroll(any_optimizer("Momentum()"), loss, begin, 7, truncate=7).parameters, 7).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in begin.values())


class Saved:
    """A tensor that a graph has kept."""

    alive = 0

    def __init__(self, value: Tensor) -> None:
        self.value = value
        Saved.alive += 1

    def __del__(self) -> None:
        Saved.alive -= 1


class Calls(TorchFunctionMode):
    """Counts what is asked of PyTorch."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("steps", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_and_work_do_not_grow_with_the_steps(steps: int) -> None:
    """One number per step is kept, its loss; all else is freed. Late steps do what early ones do."""
    alive, calls = [], []

    def watched(parameters: Parameters, step: int) -> Tensor:
        if step % (steps // 10) == 4:
            alive.append(Saved.alive)
            calls.append(counter.count)
        return parameters["x"].square().sum()

    begin = {"x": nn.Parameter(torch.ones(2))}
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.value), Calls() as counter:
        result = unroll(any_optimizer("Momentum()", lr=1e-3), watched, begin, steps, truncate=5)
    assert len(result.losses) == steps
    assert alive[1] > 0
    assert len(set(alive[1:])) == 1
    assert len({late - early for early, late in pairwise(calls[1:])}) == 1


# Refusals ---------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"steps": 0}, "steps.*0"),
    "negative steps": ({"steps": -1}, "steps.*-1"),
    "no truncation": ({"truncate": 0}, "truncate.*0"),
    "unknown": ({"speed": 1.0}, "Momentum has no speed.*momentum"),
    "momentum of one": ({"momentum": 1.0}, "momentum.*1"),
    "negative rate": ({"lr": -0.1}, "lr.*-0.1"),
    "unknown output": ({"output": "other"}, "output.*'other'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_refused(case: str) -> None:
    settings, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        unroll(any_optimizer("Momentum()"), loss, start(), **{"steps": 2, **settings})


def test_an_optimizer_that_needs_inputs_is_refused() -> None:
    model = nn.Linear(2, 2)
    optimizer = nl.optim.DeltaGradientDescent(model.parameters(), keys=nl.optim.KeyRecorder(model))
    with pytest.raises(ValueError, match="keys"):
        unroll(optimizer, loss, start(), 2)
