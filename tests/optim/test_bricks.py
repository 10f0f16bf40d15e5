"""Each brick by itself: its derivatives, and that what it holds stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestlearn.optim import DeepMomentum, DeltaMomentum
from nestlearn.optim.bricks import deep, delta, features, linear, lists, orthogonal, output, precondition
from nestlearn.optim.bricks.batches import is_matrix
from nestlearn.optim.bricks.proximal import explicit, proximal
from tests.optim.optimizers import random

F64 = torch.float64
Function = Callable[..., Any]


def value(*shape: int, seed: int = 0) -> Tensor:
    return random(shape, seed, F64).requires_grad_()


def number(size: float) -> Tensor:
    return torch.tensor(size, dtype=F64, requires_grad=True)


def positive(n: int, seed: int = 0) -> Tensor:
    """Symmetric, with eigenvalues well apart."""
    basis = torch.linalg.qr(random((n, n), seed, F64))[0]
    return (basis * torch.arange(1.0, n + 1, dtype=F64)) @ basis.mT


def written(function: Function, *rest: Any, count: int = 2) -> Function:
    """A function that overwrites the first of its lists, as one that returns it."""

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        first = [tensor.clone() for tensor in tensors[:count]]
        function(first, list(tensors[count : 2 * count]), *tensors[2 * count :], *rest)
        return tuple(first)

    return run


PAIRS = (value(3, 4), value(5, seed=1), value(3, 4, seed=2), value(5, seed=3))
BRICKS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "lists.add_": (written(lists.add_), (*PAIRS, number(0.3))),
    "lists.add_square_": (written(lists.add_square_), (*PAIRS, number(0.3))),
    "lists.add_square_, number": (written(lists.add_square_, 0.3), PAIRS),
    "lists.blend_": (written(lists.blend_), (*PAIRS, number(0.3))),
    "lists.blend_, number": (written(lists.blend_, 0.3), PAIRS),
    "lists.scale_": (
        written(lambda values, _, factor: lists.scale_(values, factor)),
        (*PAIRS, number(0.3)),
    ),
    "lists.added": (lambda a, b, f: lists.added([a], [b], f)[0], (PAIRS[0], PAIRS[2], number(0.3))),
    "lists.powers": (lambda b: lists.powers(b, [torch.tensor(3.0)])[0], (number(0.9),)),
    "linear.accumulate_": (written(linear.accumulate_), (*PAIRS, number(0.9), number(0.5))),
    "linear.average_": (written(linear.average_), (*PAIRS, number(0.9))),
    "linear.look_ahead": (lambda a, b, d: linear.look_ahead([a], [b], d)[0], (*PAIRS[::2], number(0.9))),
    "linear.corrections": (lambda d: linear.corrections(d, [torch.tensor(4.0)])[0], (number(0.9),)),
    **{
        f"delta.write_, {side}": (written(delta.write_, side), (*PAIRS, number(0.9), number(0.5)))
        for side in delta.SIDES
    },
    **{
        f"delta.erased, {side}, {rows}x{columns}": (
            lambda m, k, w, s=side: delta.erased(m, k, w, s),
            (value(2, rows, columns), value(2, rows, columns, seed=1), number(0.5)),
        )
        for side in ("left", "right", "smaller")
        for rows, columns in ((3, 5), (5, 3))
    },
    "features.rms": (features.rms, (value(3, 4),)),
    "features.odd_polynomial": (lambda g: features.odd_polynomial(g, (0.5, 0.3, 0.2)), (value(3, 4),)),
    "features.odd_polynomial, one": (lambda g: features.odd_polynomial(g, (0.5,)), (value(3, 4),)),
    "orthogonal.newton_schulz": (orthogonal.newton_schulz, (value(3, 4),)),
    "orthogonal.newton_schulz, batch": (orthogonal.newton_schulz, (value(2, 5, 3),)),
    "orthogonal.orthogonalized": (
        lambda *v: tuple(orthogonal.orthogonalized(v)),
        (value(3, 4), value(5), value(3, 4, seed=1), value(4, 2, seed=2)),
    ),
    "deep.read": (
        lambda s, i, o, k: deep.read(deep.Network(s, i, o), k),
        (*[value(2), value(3, 2), value(3)], value(2, 5)),
    ),
    "deep.loss": (
        lambda s, i, o, k, v: deep.loss(deep.Network(s, i, o), k, v),
        (value(2), value(3, 2), value(3), value(2, 5, seed=1), value(5, seed=2)),
    ),
    "deep.write": (
        lambda s, i, o, k, v, r, d: tuple(deep.write(deep.Network(s, i, o), k, v, r, d)),
        (value(2), value(3, 2), value(3), value(2, 5, seed=1), value(5, seed=2), number(0.1), number(0.9)),
    ),
    "precondition.divided_by_root": (
        lambda v, s, w: precondition.divided_by_root([v], [s.square() + 0.1], 1e-3, [w])[0],
        (value(3, 4), value(3, 4, seed=1), number(0.5)),
    ),
    "precondition.divided_by_root, damped": (
        lambda v, s, w, c: precondition.divided_by_root(
            [v], [s.square() + 0.1], 1e-3, [w], scales=[c], damping=0.7
        )[0],
        (value(3, 4), value(3, 4, seed=1), number(0.5), number(0.3)),
    ),
    "precondition.shifted_roots": (
        lambda s, w: precondition.shifted_roots([s.square() + 0.1], 1e-3, [w])[0],
        (value(3, 4), number(0.5)),
    ),
    "precondition.inverse_root": (
        lambda a: precondition.inverse_root(positive(4) + a + a.mT, 0.25, 1e-3),
        ((0.01 * value(4, 4)).detach().requires_grad_(),),
    ),
    "precondition.between": (precondition.between, (value(3, 4), value(3, 3, seed=1), value(4, 4, seed=2))),
    "proximal": (
        lambda w, g, x, r, e: proximal(w, g, x.mT @ x, r, e),
        (value(3, 4), value(3, 4, seed=1), value(5, 4, seed=2), number(0.3), number(0.7)),
    ),
    "explicit": (
        lambda w, g, x, r, e: explicit(w, g, x.mT @ x, r, e),
        (value(3, 4), value(3, 4, seed=1), value(5, 4, seed=2), number(0.3), number(0.7)),
    ),
    "output.through": (
        lambda *v: tuple(output.through(list(v), "orthogonal")),
        (value(3, 4), value(5), value(2, 3, 2, seed=1)),
    ),
    "output.at_rms_": (
        written(lambda values, _: output.at_rms_(values, 0.2)),
        PAIRS,
    ),
}


@pytest.mark.parametrize("name", BRICKS)
def test_derivatives(name: str) -> None:
    function, inputs = BRICKS[name]

    def differentiable(*tensors: Tensor) -> Any:
        with lists.differentiable_bricks():
            return function(*tensors)

    assert torch.autograd.gradcheck(differentiable, inputs)


def test_factors_are_averages_of_products() -> None:
    g = value(3, 4)

    def factors(gradient: Tensor) -> tuple[Tensor, Tensor]:
        left, right = torch.eye(3, dtype=F64), torch.eye(4, dtype=F64)
        precondition.write_factors_(left, right, gradient, 0.9)
        return left, right

    left, right = factors(g)
    torch.testing.assert_close(left, 0.9 * torch.eye(3).double() + 0.1 * g @ g.mT)
    torch.testing.assert_close(right, 0.9 * torch.eye(4).double() + 0.1 * g.mT @ g)
    assert torch.autograd.gradcheck(factors, (g,))


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_an_inverse_root_is_one(power: float) -> None:
    matrix = 1e-3 * positive(5)
    root = precondition.inverse_root(matrix, power, 1e-6)
    unit = torch.linalg.matrix_power(root, round(1 / power)) @ (matrix + 5e-9 * torch.eye(5).double())
    torch.testing.assert_close(unit, torch.eye(5).double())
    zero = precondition.inverse_root(torch.zeros(3, 3), power, 1e-6)
    assert torch.equal(zero, torch.eye(3))


@pytest.mark.parametrize("shape", [(), (0,), (4,), (3, 0), (0, 3)], ids=str)
def test_the_root_mean_square_of_few_and_of_no_elements(shape: tuple[int, ...]) -> None:
    x = random(shape, 0, F64)
    expected = x.square().mean().sqrt() if x.numel() else torch.zeros((), dtype=F64)
    torch.testing.assert_close(features.rms(x), expected)
    assert is_matrix(torch.Size(shape)) is False


# Networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.1, 30.0], ids=["short", "long"])
def test_a_write_is_a_step_on_the_loss_and_a_decay(size: float) -> None:
    """A gradient longer than one is brought to one."""
    rate, keep = 0.3, 0.9
    network = deep.Network(0.1 * value(2), value(3, 2), 0.1 * value(3, seed=1))
    keys, values = random((2, 50), 3, F64), size * random((50,), 4, F64)
    gradients = torch.autograd.grad(deep.loss(network, keys, values), network)
    length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    assert bool(length > 1) is (size > 1)
    got = deep.write(network, keys, values, rate, keep)
    start = deep.initial(2, 3, keys)
    for new, old, origin, gradient in zip(got, network, start, gradients, strict=True):
        expected = origin + keep * (old - origin) - rate * gradient / max(length.item(), 1.0)
        torch.testing.assert_close(new, expected)


def test_a_new_network_reads_the_mean_of_its_keys_and_is_odd() -> None:
    keys = random((3, 20), 0, F64)
    network = deep.initial(3, 5, keys)
    torch.testing.assert_close(deep.read(network, keys), keys.mean(0))
    for _ in range(20):
        network = deep.write(network, keys, random((20,), 1, F64), 0.1, 1.0)
    assert (deep.read(network, keys) - keys.mean(0)).abs().max() > 1e-2
    torch.testing.assert_close(deep.read(network, -keys), -deep.read(network, keys))


# Bounds -----------------------------------------------------------------------------------------------------


def sizes(steps: int) -> Tensor:
    """Of gradients, from tiny to huge."""
    return 10.0 ** (10 * torch.rand(steps, generator=torch.Generator().manual_seed(5)) - 2)


@pytest.mark.parametrize(("shape", "side"), [((3, 5), "left"), ((3, 5), "right"), ((4,), "right")], ids=str)
def test_a_delta_memory_is_bounded(shape: tuple[int, ...], side: str) -> None:
    """By the longest gradient over ``1 - momentum``, whatever the gradients' size."""
    memory, steps = [torch.zeros(shape)], 2000
    for step, size in enumerate(sizes(steps)):
        gradient = size * torch.nn.functional.normalize(random(shape, step).flatten(), dim=0).view(shape)
        delta.write_(memory, [gradient], 0.9, 0.9, side)
        assert memory[0].norm() <= 1.02 * 1e8 / (1 - 0.9)
    for step in range(300):
        delta.write_(memory, [random(shape, step)], 0.9, 0.9, side)
    assert memory[0].norm() < 100


@pytest.mark.parametrize("objective", ["predict", "reconstruct"])
def test_a_network_of_gradients_is_bounded(objective: str) -> None:
    """Its distance from the start is at most ``inner_lr / (1 - retention)``."""
    rate, keep = 0.1, 0.95
    parameter = nn.Parameter(torch.zeros(3, 5))
    optimizer = DeepMomentum([parameter], 0.0, inner_lr=rate, retention=keep, objective=objective, hidden=4)
    start = deep.initial(2, 4, parameter.detach())
    for step, size in enumerate(sizes(500)):
        parameter.grad = size * random((3, 5), step)
        optimizer.step()
        state = optimizer.state[parameter]
        moved = [(state[name] - origin).square().sum() for name, origin in start._asdict().items()]
        assert torch.stack(moved).sum().sqrt() <= 1.001 * rate / (1 - keep)
        assert all(memory.isfinite().all() for memory in state.values())


def test_delta_momentum_does_not_diverge_where_the_unnormalised_rule_does() -> None:
    """A quadratic with gradients far longer than one: the printed rule overflows within steps."""
    parameter, literal = nn.Parameter(torch.full((4, 4), 10.0)), torch.full((4, 4), 10.0)
    optimizer, memory = DeltaMomentum([parameter], 1e-2), torch.zeros(4, 4)
    for _ in range(200):
        optimizer.zero_grad()
        parameter.square().sum().div(2).backward()
        optimizer.step()
        memory = memory @ (0.9 * torch.eye(4) - literal.mT @ literal) + literal
        literal = literal - 1e-2 * memory
    assert not literal.isfinite().all()
    assert parameter.abs().max() < 2.0


def test_damping_adds_the_size_of_all_roots_to_each() -> None:
    m, v, k, eps = value(3, 4), value(3, 4, seed=1).square(), 0.7, 1e-3
    root = (v / 0.5).sqrt()
    expected = (1 + k) * (m / 0.3) / (root + k * root.square().mean().sqrt() + (1 + k) * eps)
    (found,) = precondition.divided_by_root([m], [v], eps, [number(0.5)], scales=[number(0.3)], damping=k)
    torch.testing.assert_close(found, expected)
    (plain,) = precondition.divided_by_root([m], [v], eps, [number(0.5)], scales=[number(0.3)])
    torch.testing.assert_close(plain, (m / 0.3) / (root + eps))


def test_damping_of_a_gradient_that_is_zero_has_a_derivative() -> None:
    m, v = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
    (found,) = precondition.divided_by_root([m], [v], 1e-3, damping=1.0)
    for gradient in torch.autograd.grad(found.sum(), (m, v)):
        assert bool(torch.isfinite(gradient).all())
