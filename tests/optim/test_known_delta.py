"""The delta rule, for memories of gradients and for weights, against what it minimises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestlearn.optim import DeltaGradientDescent, DeltaMomentum, KeyRecorder, NonFiniteGradientError
from tests.helpers import copy_tree, difference, relative_error
from tests.optim.nets import batches, loss_of, net
from tests.optim.optimizers import random, run, weights

RATE = 0.3
FORMS = ["proximal", "explicit"]
F64 = torch.float64


# Momentum ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6), (7, 3), (5, 5), (3, 2, 4), (5,), (), (1, 6)], ids=str)
@pytest.mark.parametrize("side", ["left", "right", "smaller", "whole"])
def test_delta_momentum_is_written_out(side: str, shape: tuple[int, ...]) -> None:
    """``m (momentum I - erase k^T k) + g``, element by element where there are no two sides."""
    keep, erase = 0.8, 0.5
    (parameter,) = weights(F64, shapes=(shape,))
    optimizer = DeltaMomentum([parameter], 0.1, keep, erase, side)
    weight, memory = parameter.detach().clone(), torch.zeros(shape, dtype=F64)
    for step in range(5):
        run(optimizer, [parameter], step, step + 1)
        assert parameter.grad is not None
        k = parameter.grad / parameter.grad.norm()
        if side == "whole":
            along = (memory * k).sum() * k
        elif min(len(shape), shape[0] if shape else 0) < 2:
            along = memory * k**2
        else:
            m, key = memory.flatten(1), k.flatten(1)
            left = side == "left" or (side == "smaller" and key.shape[0] < key.shape[1])
            along = (key @ key.mT @ m if left else m @ key.mT @ key).view(shape)
        memory = keep * memory - erase * along + parameter.grad
        weight = weight - 0.1 * memory
        torch.testing.assert_close(optimizer.state[parameter]["momentum"], memory)
        torch.testing.assert_close(parameter.detach(), weight)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_gradient_of_rank_one_erases_what_is_along_it(side: str) -> None:
    a, b = random((5,), 1, F64), random((7,), 2, F64)
    parameter = nn.Parameter(torch.zeros(5, 7, dtype=F64))
    optimizer = DeltaMomentum([parameter], 0.1, 0.9, 0.9, side)
    run(optimizer, [parameter], 0, 3)
    before = optimizer.state[parameter]["momentum"].clone()
    parameter.grad = torch.outer(a, b)
    optimizer.step()
    held = optimizer.state[parameter]["momentum"] - parameter.grad
    along, across = (held.mT @ a, a) if side == "left" else (held @ b, b)
    torch.testing.assert_close(along, torch.zeros_like(along))
    # What is orthogonal to the gradient is kept, but for the ordinary decay.
    projector = torch.eye(len(across)).double() - torch.outer(across, across) / across.square().sum()
    kept = projector @ before if side == "left" else before @ projector
    torch.testing.assert_close(held, 0.9 * kept)


# Weights ----------------------------------------------------------------------------------------------------


class Layer:
    """A linear layer, some inputs, and the gradients of its outputs."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.model = nn.Linear(6, 4, bias=False).double()
        with torch.no_grad():
            self.model.weight.copy_(random((4, 6), seed, F64))
        self.start = self.model.weight.detach().clone()
        self.x, self.back = 2 * random((count, 6), seed + 1, F64), random((count, 4), seed + 2, F64)
        self.keys = KeyRecorder(self.model)

    def backward(self, rows: slice = slice(None), share: float = 1.0) -> None:
        """Of ``mean_n <y_n, back_n>`` over the rows."""
        y = self.model(self.x[rows])
        (share * (y * self.back[rows]).sum(-1).mean()).backward()

    def step(self, **settings: Any) -> Tensor:
        settings = {"lr": RATE, "keys": self.keys, **settings}
        DeltaGradientDescent(self.model.parameters(), **settings).step()
        return self.model.weight.detach()


def test_one_input_is_equation_57() -> None:
    """For inputs of any length, with ``lr / (1 + lr |x|^2)``."""
    layer = Layer(1)
    layer.backward()
    got = layer.step()
    x, u = layer.x[0], -layer.back[0]
    rate = RATE / (1 + RATE * x.square().sum())
    expected = layer.start @ (torch.eye(6).double() - rate * torch.outer(x, x)) + rate * torch.outer(u, x)
    torch.testing.assert_close(got, expected)
    # The layer now maps x nearer to u, by exactly the share that is not kept.
    share = 1 / (1 + RATE * x.square().sum())
    torch.testing.assert_close(got @ x - u, share * (layer.start @ x - u))


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_batch_is_the_minimum_of_equation_56(count: int) -> None:
    """``mean 1/2 |W x - u|^2 + 1/(2 lr) |W - W_t|^2``, convex, so where its gradient is zero."""
    layer = Layer(count)
    layer.backward()
    got = layer.step().requires_grad_()
    fit = (layer.x @ got.mT + layer.back).square().sum(-1).mean() / 2
    loss = fit + (got - layer.start).square().sum() / (2 * RATE)
    (gradient,) = torch.autograd.grad(loss, got)
    assert gradient.abs().max() < 1e-10
    assert relative_error(layer.start, got) > 0.1


@pytest.mark.parametrize("erase", [0.3, 1.0, 2.0])
def test_the_explicit_form_is_one_step_on_the_same_objective(erase: float) -> None:
    layer = Layer(5)
    layer.backward()
    got = layer.step(form="explicit", erase=erase)
    start = layer.start.clone().requires_grad_()
    y = layer.x @ start.mT
    objective = erase / 2 * y.square().sum(-1).mean() + (y * layer.back).sum(-1).mean()
    (gradient,) = torch.autograd.grad(objective, start)
    torch.testing.assert_close(got, layer.start - RATE * gradient)


def test_both_forms_agree_to_second_order() -> None:
    errors = []
    for rate in (1e-3, 5e-4):
        results = []
        for form in FORMS:
            layer = Layer(5)
            layer.backward()
            results.append(layer.step(lr=rate, form=form))
        errors.append((results[0] - results[1]).norm().item())
    assert 3.8 < errors[0] / errors[1] < 4.2


def test_the_proximal_form_is_stable_at_every_rate() -> None:
    layer = Layer(20)
    target = torch.linalg.lstsq(layer.x, -layer.back).solution.mT
    layer.backward()
    torch.testing.assert_close(layer.step(lr=1e9), target, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_accumulated_gradients_are_one_big_batch(form: str) -> None:
    whole, parts = Layer(12), Layer(12)
    whole.backward()
    for i in range(3):
        parts.backward(slice(4 * i, 4 * i + 4), share=1 / 3)
    torch.testing.assert_close(parts.step(form=form), whole.step(form=form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["no keys", "no erase", "detached", "no forward pass"])
def test_without_inputs_or_erase_it_is_sgd(way: str, form: str) -> None:
    expected, got = net(), net()
    sgd = torch.optim.SGD(expected.parameters(), lr=0.1)
    keys = None if way == "no keys" else KeyRecorder(got)
    optimizer = DeltaGradientDescent(got.parameters(), 0.1, keys, 0.0 if way == "no erase" else 1.0, form)
    if keys is not None and way == "detached":
        keys.detach()
    for batch in batches(5):
        for model, own in ((expected, sgd), (got, optimizer)):
            own.zero_grad()
            loss_of(model, batch).backward()
            if keys is not None and way == "no forward pass":
                keys.clear()
            own.step()
    for a, b in zip(expected.parameters(), got.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_with_inputs_it_is_not_sgd_but_biases_and_norms_are() -> None:
    expected, got = net(), net()
    for model, keys in ((expected, None), (got, KeyRecorder(got))):
        loss_of(model, batches(1)[0]).backward()
        DeltaGradientDescent(model.parameters(), 0.1, keys).step()
    for (name, a), b in zip(expected.named_parameters(), got.parameters(), strict=True):
        watched = name in ("first.weight", "second.weight")
        assert torch.equal(a, b) is not watched, name


# The recorder -----------------------------------------------------------------------------------------------


def test_the_recorder_is_cleared_by_every_step() -> None:
    layer = Layer(3)
    optimizer = DeltaGradientDescent(layer.model.parameters(), RATE, layer.keys)
    layer.backward()
    assert layer.keys.moment(layer.model.weight) is not None
    optimizer.step()
    assert layer.keys.moment(layer.model.weight) is None
    layer.backward()
    layer.model.weight.grad = torch.full_like(layer.model.weight, torch.nan)
    before = copy_tree(layer.model.weight)
    with pytest.raises(NonFiniteGradientError):
        optimizer.step()
    assert difference(before, copy_tree(layer.model.weight)) is None
    assert layer.keys.moment(layer.model.weight) is None


def test_the_recorder_keeps_the_second_moment_of_what_needs_a_gradient() -> None:
    layer = Layer(5)
    with torch.no_grad():
        layer.model(layer.x)
    assert layer.keys.moment(layer.model.weight) is None
    layer.model(layer.x.view(5, 1, 6))
    torch.testing.assert_close(layer.keys.moment(layer.model.weight), layer.x.mT @ layer.x / 5)
    layer.keys.clear()
    with layer.keys as keys, torch.enable_grad():
        keys.normalize = True
        layer.model(layer.x)
        moment = keys.moment(layer.model.weight)
        assert moment is not None
        assert moment.trace().item() == pytest.approx(1.0)
    assert not layer.keys.attached
    layer.model(layer.x)
    assert layer.keys.moment(layer.model.weight) is None
    assert not layer.model._forward_hooks


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_nothing_changes_nothing(form: str) -> None:
    layer = Layer(3)
    layer.model(layer.x[:0]).sum().backward()
    torch.testing.assert_close(layer.step(form=form), layer.start)


@pytest.mark.parametrize("form", FORMS)
def test_it_learns_under_autocast(form: str) -> None:
    model = net()
    optimizer = DeltaGradientDescent(model.parameters(), 0.1, KeyRecorder(model), 0.1, form)
    batch, losses = batches(1)[0], []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_an_input_given_by_name_is_recorded() -> None:
    layer = Layer(3)
    layer.model(input=layer.x)
    torch.testing.assert_close(layer.keys.moment(layer.model.weight), layer.x.mT @ layer.x / 3)
