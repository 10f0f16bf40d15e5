"""What is true of every optimizer: the checks that PyTorch makes of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nestlearn.optim import M3, GradientMemory
from tests.helpers import copy_tree, difference, relative_error
from tests.optim.optimizers import (
    CLASSES,
    CONFIGURATIONS,
    STEPS,
    everything,
    make,
    random,
    run,
    set_gradients,
    trained,
    weights,
    without,
)

every = pytest.mark.parametrize("name", CONFIGURATIONS)
every_class = pytest.mark.parametrize("name", CLASSES)


def losses(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Of each parameter, zero at a point of its own, some way from where it starts."""
    return [(p - 3 - random(p.shape, i, p.dtype)).square().sum() / 2 for i, p in enumerate(parameters)]


KINDS = [(torch.float32, False), (torch.bfloat16, True)]


@pytest.mark.parametrize(("dtype", "contiguous"), KINDS, ids=str)
@every
def test_every_loss_falls(name: str, dtype: torch.dtype, contiguous: bool) -> None:
    kind, arguments = without(name, "weight_decay")
    parameters = weights(dtype, contiguous)
    # bfloat16 has three digits: a smaller update would be rounded away.
    optimizer = kind(parameters, **{"lr": 5e-2 if dtype == torch.bfloat16 else 1e-2, **arguments})
    first = [loss.item() for loss in losses(parameters)]
    for _ in range(20):
        optimizer.zero_grad()
        sum(losses(parameters), torch.zeros(())).backward()
        optimizer.step()
    for before, after in zip(first, losses(parameters), strict=True):
        assert after.item() < before


@every
def test_strides_do_not_matter(name: str) -> None:
    results = []
    for contiguous in (True, False):
        parameters = weights(torch.float64, contiguous)
        run(make(name, parameters), parameters, 0, STEPS)
        results.append(parameters)
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-9


@every
def test_the_parameter_keeps_its_storage_and_dtype(name: str) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        parameters = weights(dtype)
        places = [p.data_ptr() for p in parameters]
        run(make(name, parameters), parameters, 0, 2)
        assert [p.data_ptr() for p in parameters] == places
        assert all(p.dtype == dtype and p.isfinite().all() for p in parameters)


@every
def test_nothing_happens_without_gradients(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    before = everything(optimizer, parameters)
    assert optimizer.step() is None
    assert difference(before, everything(optimizer, parameters)) is None


@every
def test_zero_gradients_move_nothing(name: str) -> None:
    kind, arguments = without(name, "weight_decay")
    parameters = weights()
    optimizer = kind(parameters, **{"lr": 1e-2, **arguments})
    before = copy_tree(list(parameters))
    for _ in range(STEPS):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert difference(before, copy_tree(list(parameters))) is None


@every
def test_a_parameter_without_a_gradient_is_left_alone(name: str) -> None:
    parameters, alone = weights(), weights()[1:]
    optimizer, other = make(name, parameters), make(name, alone)
    first = parameters[0].clone()
    for step in range(STEPS):
        set_gradients(parameters, step)
        parameters[0].grad = None
        for own, given in zip(alone, parameters[1:], strict=True):
            own.grad = None if given.grad is None else given.grad.clone()
        optimizer.step()
        other.step()
    assert torch.equal(first, parameters[0])
    assert parameters[0] not in optimizer.state
    assert difference(copy_tree(alone), copy_tree(parameters[1:])) is None


@every
def test_the_closure_is_called_once_with_gradients_enabled(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    calls: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(losses(parameters), torch.zeros(()))
        loss.backward()
        calls.append(loss)
        return loss

    before = copy_tree(list(parameters))
    with torch.no_grad():
        assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert difference(before, copy_tree(list(parameters))) is not None


@every
def test_it_prints_its_settings(name: str) -> None:
    optimizer = make(name, weights(), lr=0.125)
    text = repr(optimizer)
    assert text.startswith(type(optimizer).__name__)
    assert "lr: 0.125" in text
    for setting in set(CONFIGURATIONS[name][1]) & set(optimizer.defaults):
        assert f"{setting}: " in text


@every
def test_maximize_negates_the_gradient(name: str) -> None:
    climbed, negated = weights(), weights()
    up, down = make(name, climbed, maximize=True), make(name, negated)
    for step in range(STEPS):
        set_gradients(climbed, step)
        up.step()
        set_gradients(negated, step, sign=-1.0)
        down.step()
    assert difference(copy_tree(negated), copy_tree(climbed)) is None


def batches_products(name: str) -> bool:
    kind, arguments = CONFIGURATIONS[name]
    made = arguments.get("inner", kind)
    return made.__name__ in ("Muon", "M3") or arguments.get("output") == "orthogonal"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every
def test_lists_and_single_parameters_give_the_same(name: str, dtype: torch.dtype) -> None:
    """Bit for bit; but a batch of products may add up in another order than one product."""
    results = []
    for foreach in (True, False):
        parameters = weights(dtype)
        run(make(name, parameters, foreach=foreach), parameters, 0, STEPS)
        results.append(copy_tree(parameters))
    if not batches_products(name):
        assert difference(results[0], results[1]) is None
    for a, b in zip(results[0], results[1], strict=True):
        assert relative_error(a, b) < (1e-12 if dtype == torch.float64 else 1e-3)


@every
def test_pieces_give_the_same_as_one_list(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(name)
    monkeypatch.setattr(GradientMemory, "span", 20)
    for a, b in zip(whole, trained(name), strict=True):
        assert relative_error(a, b) < (1e-3 if batches_products(name) else 1e-12)


@every
def test_step_hooks_fire(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    seen: list[str] = []
    before = optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    after = optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    run(optimizer, parameters, 0, 2)
    assert seen == ["before", "after"] * 2
    before.remove()
    after.remove()
    run(optimizer, parameters, 2, 3)
    assert len(seen) == 4


@every
def test_gradients_are_not_changed(name: str) -> None:
    for changes in ({}, {"maximize": True}, {"foreach": False}):
        parameters = weights()
        optimizer = make(name, parameters, **changes)
        for step in range(3):
            set_gradients(parameters, step)
            before = copy_tree([p.grad for p in parameters])
            optimizer.step()
            assert difference(before, copy_tree([p.grad for p in parameters])) is None


@every
def test_two_runs_are_equal(name: str) -> None:
    """Whatever the state of the random generators, which are left alone."""
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        generator = torch.get_rng_state()
        results.append(copy_tree(trained(name)))
        assert torch.equal(generator, torch.get_rng_state())
    assert difference(*results) is None


def test_m3_keeps_sixteen_bytes_per_element_of_a_matrix() -> None:
    parameter = nn.Parameter(random((64, 32), 0))
    optimizer = M3([parameter])
    run(optimizer, [parameter], 0, 2)
    size = sum(value.nbytes for value in optimizer.state[parameter].values())
    assert size <= 16 * parameter.numel() + 64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every_class
def test_a_compiled_step_is_the_same(name: str) -> None:
    """Traced, but not translated: that the graph is right is PyTorch's matter."""
    torch._dynamo.reset()
    shapes = ((4, 6), (5,), (4, 6))
    plain, compiled = weights(shapes=shapes), weights(shapes=shapes)
    first, second = make(name, plain), make(name, compiled)
    step = torch.compile(second.step, backend="eager")
    for index in range(3):
        set_gradients(plain, index)
        set_gradients(compiled, index)
        first.step()
        step()
    for a, b in zip(plain, compiled, strict=True):
        assert relative_error(a, b) < 1e-6
