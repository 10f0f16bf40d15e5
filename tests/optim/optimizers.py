"""The optimizers in many settings, and what their common tests train."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import nestlearn as nl
from nestlearn.optim import GradientMemory
from tests.helpers import copy_tree

Configuration = tuple[type[GradientMemory], dict[str, Any]]

COUPLED = {"weight_decay": 0.1, "decoupled": False}
DECOUPLED = {"weight_decay": 0.1, "decoupled": True}
TWO_SLOW = {"periods": (2, 4), "slow_betas": (0.9, 0.5), "weights": (0.5, 0.25)}
NO_SLOW: dict[str, Any] = {"periods": (), "slow_betas": (), "weights": ()}

_CONFIGURATIONS: dict[type[GradientMemory], dict[str, dict[str, Any]]] = {
    nl.optim.Momentum: {
        "": {},
        "none": {"momentum": 0.0},
        "nesterov": {"nesterov": True, **COUPLED},
        "orthogonal": {"output": "orthogonal", **DECOUPLED},
    },
    nl.optim.FeatureMomentum: {
        "": {},
        "one": {"coefficients": (1.0,), **COUPLED},
        "three": {"coefficients": (0.5, 0.3, 0.2), "momentum": 0.8, "output": "orthogonal"},
    },
    nl.optim.DeltaMomentum: {
        "": {},
        "left": {"side": "left", "output": "orthogonal", **DECOUPLED},
        "smaller": {"side": "smaller"},
        "whole": {"side": "whole"},
        "some": {"erase": 0.3, **COUPLED},
    },
    nl.optim.PreconditionedMomentum: {
        "": {},
        "decoupled": {"betas": (0.5, 0.9), "eps": 1e-4, **DECOUPLED},
        "adagrad": {"preconditioner": "adagrad", **COUPLED},
        "damped": {"damping": 1.0, "betas": (0.9, 0.95)},
        "kronecker": {"preconditioner": "kronecker", "period": 1},
        "one side": {"preconditioner": "kronecker", "max_size": 4, "period": 3, **DECOUPLED},
    },
    nl.optim.DeepMomentum: {
        "": {},
        "reconstruct": {"objective": "reconstruct", "inner_lr": 0.1},
        "one key": {"decays": (0.0,), "objective": "reconstruct", **COUPLED},
        "few samples": {"decays": (0.0, 0.5, 0.9), "hidden": 3, "samples": 3, "retention": 0.9, **DECOUPLED},
        "orthogonal": {"output": "orthogonal"},
    },
    nl.optim.Muon: {
        "": {},
        "plain": {"nesterov": False, "momentum": 0.9, **DECOUPLED},
        "coupled": COUPLED,
    },
    nl.optim.M3: {
        "": {"periods": (2,)},
        "denominator": {"periods": (2,), "denominator": True},
        "two slow": {**TWO_SLOW, **DECOUPLED},
        "no slow": NO_SLOW,
        "no denominator": {"periods": (3,), "denominator": False, **COUPLED},
        "paper": {"mode": "paper", "periods": (2,)},
        "paper, two slow": {"mode": "paper", "denominator": False, **TWO_SLOW},
    },
    nl.optim.DeltaGradientDescent: {
        "": {},
        "explicit": {"form": "explicit", **DECOUPLED},
        "no erase": {"erase": 0.0, **COUPLED},
    },
    nl.optim.Consolidated: {
        "": {},
        "Muon": {"inner": nl.optim.Muon},
    },
}

#: Name -> class and keyword arguments.
CONFIGURATIONS: dict[str, Configuration] = {
    f"{kind.__name__}({setting})": (kind, arguments)
    for kind, settings in _CONFIGURATIONS.items()
    for setting, arguments in settings.items()
}

#: One per class.
CLASSES: list[str] = [f"{kind.__name__}()" for kind in _CONFIGURATIONS]

#: From zero to four dimensions, a row among them.
SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (4, 6), (4, 6), (1, 5), (3, 2, 2), (7, 3, 1, 1))


STEPS = 6


def make(name: str, parameters: Any, **changes: Any) -> GradientMemory:
    """An optimizer by its name in the table."""
    kind, arguments = CONFIGURATIONS[name]
    return kind(parameters, **{"lr": 1e-2, **arguments, **changes})


def without(name: str, *keys: str) -> Configuration:
    """A configuration less some of its arguments."""
    kind, arguments = CONFIGURATIONS[name]
    return kind, {key: value for key, value in arguments.items() if key not in keys}


@cache
def _random(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normally distributed numbers."""
    return _random(tuple(shape), seed, dtype).clone()


def weights(
    dtype: torch.dtype = torch.float32, contiguous: bool = True, shapes: Sequence[Sequence[int]] = SHAPES
) -> list[nn.Parameter]:
    """Parameters of all shapes; if not contiguous, the same values at other strides."""
    values = [random(shape, 100 + i, dtype) for i, shape in enumerate(shapes)]
    if not contiguous:
        values = [value.mT.contiguous().mT if value.dim() > 1 else value for value in values]
    return [nn.Parameter(value) for value in values]


def set_gradients(parameters: Iterable[Tensor], step: int, sign: float = 1.0) -> None:
    """Gradients that depend on the step only, of sizes that differ between steps and parameters."""
    for i, parameter in enumerate(parameters):
        gradient = random(parameter.shape, 1000 * step + i, parameter.dtype)
        parameter.grad = gradient * (sign * (0.5 + step % 3) * (1 + i % 2))


def run(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], start: int, end: int) -> None:
    """Steps with the gradients of :func:`set_gradients`."""
    for step in range(start, end):
        set_gradients(parameters, step)
        optimizer.step()


def trained(name: str, steps: int = STEPS, **changes: Any) -> list[nn.Parameter]:
    """The parameters after some steps."""
    parameters = weights()
    run(make(name, parameters, **changes), parameters, 0, steps)
    return parameters


def everything(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> dict[str, Any]:
    """A copy of all that a step may write."""
    return copy_tree({"parameters": list(parameters), "state": optimizer.state_dict()["state"]})
