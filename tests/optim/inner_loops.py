"""An inner loop for the tests of what goes through one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import nestlearn as nl
from tests.optim.optimizers import CLASSES, CONFIGURATIONS, make, random

#: What can be unrolled: has its rule as a function.
RULES = [name for name, (kind, _) in CONFIGURATIONS.items() if issubclass(kind, nl.optim.GradientMemory)]
CLASS_RULES = [name for name in CLASSES if name in RULES]

F64 = torch.float64
SHAPES = {"matrix": (3, 4), "vector": (4,), "number": ()}
STEPS = 5
Parameters = dict[str, Tensor]


def start(dtype: torch.dtype = F64) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(random(shape, i, dtype)) for i, (name, shape) in enumerate(SHAPES.items())}


def loss(parameters: Parameters, step: int) -> Tensor:
    """Not quadratic, mixes the parameters, and differs between steps."""
    x = random((6, 4), step, parameters["matrix"].dtype)
    y = torch.tanh(x * parameters["vector"]) @ parameters["matrix"].mT + parameters["number"]
    return (y - random((6, 3), step + 50, y.dtype)).square().mean() + 0.1 * y.sin().mean()


def any_optimizer(name: str, **changes: Any) -> nl.optim.GradientMemory:
    """For its rule; what it was given to train is not looked at."""
    return make(name, [nn.Parameter(torch.zeros(2))], **changes)
