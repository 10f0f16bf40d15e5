"""What every optimizer refuses, and that nothing has changed then."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import nestlearn as nl
from nestlearn.optim import GradientMemory, NonFiniteGradientError
from tests.helpers import copy_tree, difference
from tests.optim.optimizers import CLASSES, CONFIGURATIONS, everything, make, run, set_gradients, weights

every = pytest.mark.parametrize("name", CONFIGURATIONS)
every_class = pytest.mark.parametrize("name", CLASSES)
optim = nl.optim


# Gradients that are not finite ------------------------------------------------------------------------------


def poisoned(parameters: list[nn.Parameter], value: float, where: int = -1) -> None:
    set_gradients(parameters, 9)
    gradient = parameters[where].grad
    assert gradient is not None
    gradient.view(-1)[-1] = value


@every
def test_raise_leaves_everything_as_it_is(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    run(optimizer, parameters, 0, 3)
    before = everything(optimizer, parameters)
    for where, value in ((0, math.nan), (2, math.inf), (-1, -math.inf)):
        poisoned(parameters, value, where)
        with pytest.raises(NonFiniteGradientError, match="no parameter and no memory has changed"):
            optimizer.step()
        assert difference(before, everything(optimizer, parameters)) is None
    run(optimizer, parameters, 3, 5)
    clean = weights()
    run(make(name, clean), clean, 0, 5)
    assert difference(copy_tree(clean), copy_tree(parameters)) is None


@every
def test_skip_counts_and_goes_on(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters, nonfinite="skip")
    run(optimizer, parameters, 0, 3)
    for count, value in enumerate((math.nan, math.inf), start=1):
        poisoned(parameters, value)
        assert optimizer.step(lambda: "loss") == "loss"
        assert optimizer.skipped == count
    run(optimizer, parameters, 3, 5)
    clean = weights()
    run(make(name, clean), clean, 0, 5)
    assert difference(copy_tree(clean), copy_tree(parameters)) is None


@every_class
def test_ignore_does_not_look(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters, nonfinite="ignore")
    run(optimizer, parameters, 0, 3)
    poisoned(parameters, math.nan)
    optimizer.step()
    assert optimizer.skipped == 0
    assert parameters[-1].isnan().any()
    assert all(parameter.isfinite().all() for parameter in parameters[:-1])


@every_class
def test_a_gradient_whose_length_overflows_is_finite(name: str) -> None:
    parameter = nn.Parameter(torch.ones(100))
    optimizer = make(name, [parameter], nonfinite="skip")
    parameter.grad = torch.full((100,), 3e38)
    optimizer.step()
    assert optimizer.skipped == 0


@every_class
def test_a_grad_scaler_skips_the_step(name: str) -> None:
    parameters = weights()
    optimizer = make(name, parameters)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step, value in ((0, 1.0), (1, math.inf), (2, 1.0)):
        before = everything(optimizer, parameters)
        set_gradients(parameters, step)
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(4.0 * value)
        scaler.scale(torch.ones(()))
        scaler.step(optimizer)
        scaler.update(4.0)
        assert (difference(before, everything(optimizer, parameters)) is None) is math.isinf(value)
    plain = weights()
    other = make(name, plain)
    run(other, plain, 0, 1)
    run(other, plain, 2, 3)
    assert difference(copy_tree(plain), copy_tree(parameters)) is None


# Kinds of parameters ----------------------------------------------------------------------------------------


@every_class
def test_complex_parameters_are_refused(name: str) -> None:
    value = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"complex64.*view_as_real"):
        make(name, [value])
    optimizer = make(name, weights())
    with pytest.raises(ValueError, match="complex64"):
        optimizer.add_param_group({"params": [value]})
    assert len(optimizer.param_groups) == 1


@every_class
def test_sparse_gradients_are_refused_and_nothing_changes(name: str) -> None:
    parameters = weights()
    optimizer = make(name, [{"params": parameters[:2]}, {"params": parameters[2:]}])
    run(optimizer, parameters, 0, 2)
    before = everything(optimizer, parameters)
    set_gradients(parameters, 2)
    gradient = parameters[2].grad
    assert gradient is not None
    parameters[2].grad = gradient.to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    assert difference(before, everything(optimizer, parameters)) is None


def test_no_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        optim.Momentum([])


# Hyper-parameters -------------------------------------------------------------------------------------------

RATES: list[Any] = [-1e-3, math.nan, math.inf, "0.1", None, True, (0.1,), torch.tensor([0.1, 0.2])]
DECAYS: list[Any] = [-0.1, 1.0, 1.5, math.nan, math.inf, "0.9", None, torch.tensor(math.nan)]
PAIRS: list[Any] = [(-0.1, 0.9), (0.9, 1.0), (math.nan, 0.9), (0.9,), (0.9, 0.9, 0.9), 0.9, "ab", None]
COUNTS: list[Any] = [0, -1, 2.5, math.nan, math.inf, "2", True, None]
CHOICES: list[Any] = ["other", None, 1]
SWITCHES: list[Any] = [1, "yes", None]

COMMON: dict[str, list[Any]] = {
    "lr": RATES,
    "weight_decay": RATES,
    "decoupled": SWITCHES,
    "maximize": SWITCHES,
    "differentiable": SWITCHES,
    "foreach": [1, "yes"],
    "nonfinite": CHOICES,
}
OWN: dict[type[GradientMemory], dict[str, list[Any]]] = {
    optim.Momentum: {"momentum": DECAYS, "nesterov": SWITCHES, "output": CHOICES},
    optim.FeatureMomentum: {"momentum": DECAYS, "coefficients": [(), (-0.1,), (1.0, math.nan), 0.5]},
    optim.DeltaMomentum: {"momentum": DECAYS, "erase": [-0.1, 0.95, 1.5, math.nan, "1"], "side": CHOICES},
    optim.PreconditionedMomentum: {
        "betas": PAIRS,
        "eps": RATES,
        "preconditioner": CHOICES,
        "period": COUNTS,
        "max_size": COUNTS,
    },
    optim.DeepMomentum: {
        "decays": [(), (1.0,), (0.9, -0.1), (math.nan,), 0.9, None],
        "hidden": COUNTS,
        "inner_lr": RATES,
        "retention": [-0.1, 1.1, math.nan, "1", None],
        "objective": CHOICES,
        "samples": COUNTS,
        "output": CHOICES,
    },
    optim.Muon: {"momentum": DECAYS, "nesterov": SWITCHES},
    optim.M3: {
        "betas": PAIRS,
        "periods": [(0,), (-1,), (2.5,), (math.nan,), (2, 4), (), 2, "2", None],
        "slow_betas": [(1.0,), (-0.1,), (math.nan,), (0.9, 0.9), (), 0.9, None],
        "weights": [(-0.5,), (math.nan,), (0.5, 0.5), (), 0.5, None],
        "eps": RATES,
        "denominator": [value for value in SWITCHES if value is not None],
        "nesterov": SWITCHES,
        "mode": CHOICES,
        "adamw_betas": PAIRS,
        "adamw_names": ["head"],
    },
    optim.DeltaGradientDescent: {"erase": RATES, "form": CHOICES},
}
ERRORS = [
    pytest.param(kind, setting, value, id=f"{kind.__name__}({setting}={value})")
    for kind, own in OWN.items()
    for setting, values in {**COMMON, **own}.items()
    for value in values
]


@pytest.mark.parametrize(("kind", "setting", "value"), ERRORS)
def test_a_setting_out_of_range_is_refused_and_named(kind: Any, setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting) as error:
        kind(weights(), **{setting: value})
    shown = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    assert str(shown).strip("()[],") in str(error.value)
    optimizer = kind(weights())
    with pytest.raises(ValueError, match=setting):
        optimizer.add_param_group({"params": weights(), setting: value})
    assert len(optimizer.param_groups) == 1


@every_class
def test_an_unknown_setting_is_refused_and_named(name: str) -> None:
    with pytest.raises(TypeError, match="speed"):
        make(name, weights(), speed=1.0)


@pytest.mark.parametrize("value", [0, 0.0, torch.tensor(0.0), torch.tensor(0.5)], ids=str)
@pytest.mark.parametrize("setting", ["lr", "weight_decay"])
@every_class
def test_the_ends_of_a_range_are_allowed(name: str, setting: str, value: Any) -> None:
    parameters = weights()
    run(make(name, parameters, **{setting: value}), parameters, 0, 1)
    assert all(parameter.isfinite().all() for parameter in parameters)


def test_what_is_erased_follows_a_groups_momentum_unless_it_is_given() -> None:
    expected, got = weights(), weights()
    groups: list[dict[str, Any]] = [{"params": weights()}, {"params": got, "momentum": 0.5}]
    run(optim.DeltaMomentum(groups), got, 0, 3)
    run(optim.DeltaMomentum(expected, momentum=0.5, erase=0.5), expected, 0, 3)
    assert difference(copy_tree(expected), copy_tree(got)) is None
    with pytest.raises(ValueError, match=r"erase must be at most momentum, 0\.5; got 0\.9"):
        optim.DeltaMomentum([{"params": weights(), "momentum": 0.5}], erase=0.9)
