"""The state of every optimizer: saved, loaded, copied, and gone on with bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestlearn as nl
from nestlearn.optim import GradientMemory
from tests.helpers import copy_tree, difference
from tests.optim.optimizers import CLASSES, CONFIGURATIONS, everything, make, random, run, weights

every = pytest.mark.parametrize("name", CONFIGURATIONS)
every_class = pytest.mark.parametrize("name", CLASSES)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def through_a_file(tree: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


WAYS = [(torch.float32, False, 10), (torch.float64, True, 5), (torch.bfloat16, True, 5)]


@pytest.mark.parametrize(("dtype", "file", "steps"), WAYS, ids=str)
@every
def test_half_the_steps_and_the_other_half_are_all(
    name: str, dtype: torch.dtype, file: bool, steps: int
) -> None:
    whole = weights(dtype)
    reference = make(name, whole)
    run(reference, whole, 0, 2 * steps)

    first = weights(dtype)
    optimizer = make(name, first)
    run(optimizer, first, 0, steps)
    state: Any = optimizer.state_dict()
    state = through_a_file(state) if file else copy.deepcopy(state)

    second = [nn.Parameter(p.detach().clone()) for p in first]
    # Every setting comes from the state.
    resumed = make(name, second, lr=0.5, weight_decay=0.25)
    resumed.load_state_dict(state)
    assert difference(copy_tree(optimizer.state_dict()), copy_tree(resumed.state_dict())) is None
    run(resumed, second, steps, 2 * steps)
    assert difference(everything(reference, whole), everything(resumed, second)) is None


@every
def test_a_saved_state_is_plain_and_its_values_are_tensors(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    run(optimizer, parameters, 0, 3)
    state = optimizer.state_dict()
    assert {"state", "param_groups"} <= set(state)
    for memories in state["state"].values():
        assert all(isinstance(key, str) and type(value) is Tensor for key, value in memories.items())
        assert not any(value.requires_grad for value in memories.values())
    assert difference(copy_tree(state), copy_tree(through_a_file(state))) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every
def test_memories_have_the_dtype_of_the_parameter(name: str, dtype: torch.dtype) -> None:
    """All but the number of steps, which PyTorch keeps in float32 too."""
    parameters = weights(dtype)
    optimizer = make(name, parameters)
    run(optimizer, parameters, 0, 2)
    for parameter in parameters:
        for key, value in optimizer.state[parameter].items():
            assert value.dtype == (torch.float32 if key == "step" else dtype), key


@every
def test_no_memory_shares_storage_with_another_or_with_a_gradient(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    run(optimizer, parameters, 0, 2)
    values = [v for p in parameters for v in (p, p.grad, *optimizer.state[p].values()) if v is not None]
    places = [value.untyped_storage().data_ptr() for value in values if value.numel()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@every
def test_a_copy_goes_on_identically(name: str, way: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    run(optimizer, parameters, 0, 3)
    pair = (optimizer, parameters)
    other, others = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert type(other) is type(optimizer)
    assert repr(other) == repr(optimizer)
    run(optimizer, parameters, 3, 6)
    run(other, others, 3, 6)
    assert difference(everything(optimizer, parameters), everything(other, others)) is None


@every
def test_a_group_may_come_late(name: str) -> None:
    """From then on it is as if it had an optimizer of its own."""
    parameters = weights()
    early, late = parameters[:4], parameters[4:]
    optimizer = make(name, early)
    run(optimizer, early, 0, 3)
    optimizer.add_param_group({"params": late, "lr": 1e-3})
    run(optimizer, late, 3, 6)

    alone = weights()[4:]
    run(make(name, alone, lr=1e-3), alone, 3, 6)
    assert difference(copy_tree(alone), copy_tree(late)) is None


@every
def test_a_late_group_is_part_of_the_state(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters[:4])
    run(optimizer, parameters[:4], 0, 3)
    optimizer.add_param_group({"params": parameters[4:]})
    run(optimizer, parameters, 3, 5)
    others = [nn.Parameter(p.detach().clone()) for p in parameters]
    resumed = make(name, [{"params": others[:4]}, {"params": others[4:], "lr": 1.0}])
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    run(optimizer, parameters, 5, 7)
    run(resumed, others, 5, 7)
    assert difference(everything(optimizer, parameters), everything(resumed, others)) is None


@every
def test_named_parameters_are_the_same(name: str) -> None:
    plain, named = weights(), weights()
    first, second = make(name, plain), make(name, [(f"layer.{i}", p) for i, p in enumerate(named)])
    run(first, plain, 0, 4)
    run(second, named, 0, 4)
    assert difference(everything(first, plain), everything(second, named)) is None
    assert second.param_groups[0]["param_names"] == [f"layer.{i}" for i in range(len(named))]
    third = make(name, [(f"layer.{i}", p) for i, p in enumerate(weights())])
    third.load_state_dict(through_a_file(second.state_dict()))
    assert difference(copy_tree(second.state_dict()), copy_tree(third.state_dict())) is None


@every
def test_a_frozen_parameter_stays(name: str) -> None:
    parameters = weights()
    parameters[2].requires_grad_(False)
    before = parameters[2].clone()
    optimizer = make(name, parameters)
    run(optimizer, parameters[:2] + parameters[3:], 0, 3)
    assert torch.equal(before, parameters[2])
    assert parameters[2] not in optimizer.state


@pytest.mark.parametrize("shape", [(0,), (3, 0)], ids=str)
@every
def test_empty_parameters_are_no_matter(name: str, shape: tuple[int, ...]) -> None:
    alone, beside = weights(), weights()
    run(make(name, alone), alone, 0, 3)
    empty = nn.Parameter(torch.zeros(shape))
    optimizer = make(name, [*beside, empty])
    run(optimizer, [*beside, empty], 0, 3)
    assert difference(copy_tree(alone), copy_tree(beside)) is None
    only = make(name, [empty])
    run(only, [empty], 0, 2)
    through_a_file(only.state_dict())


@every
def test_a_kernel_and_a_matrix_of_the_same_size_go_together(name: str) -> None:
    shapes = [(4, 6), (4, 2, 3), (4, 3, 2, 1)]
    parameters = weights(torch.float64, shapes=shapes)
    run(make(name, parameters), parameters, 0, 2)
    one_by_one = weights(torch.float64, shapes=shapes)
    run(make(name, one_by_one, foreach=False), one_by_one, 0, 2)
    for a, b in zip(one_by_one, parameters, strict=True):
        torch.testing.assert_close(a, b)


class TiedNet(nn.Module):
    """One weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


@every
def test_a_tied_weight_has_one_memory(name: str) -> None:
    model = TiedNet()
    optimizer: GradientMemory = make(name, model.parameters())
    model(random((3, 4), 0)).square().sum().backward()
    optimizer.step()
    assert len(optimizer.param_groups[0]["params"]) == 3


def test_loading_a_state_keeps_the_recorder() -> None:
    """Otherwise the optimizer goes on as plain gradient descent, and nobody is told."""
    model = nn.Linear(3, 2)
    keys = nl.optim.KeyRecorder(model)
    optimizer = nl.optim.DeltaGradientDescent(model.parameters(), lr=0.1, keys=keys)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.keys is keys


def test_the_number_of_skipped_steps_is_copied() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = nl.optim.Momentum([parameter], nonfinite="skip")
    parameter.grad = torch.full((2,), torch.nan)
    optimizer.step()
    assert optimizer.skipped == 1
    assert copy.deepcopy(optimizer).skipped == 1


@every_class
def test_a_state_of_other_parameters_is_refused(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    with pytest.raises(ValueError, match="group"):
        optimizer.load_state_dict(make(name, weights()[:2]).state_dict())
