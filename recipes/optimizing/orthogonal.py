"""Two tasks whose inputs are orthogonal (Sec. 4.3): what the second one's learning does to the first.

One linear map, squared error, noisy targets. The inputs of each task lie in a half of the space of its own,
in no relation to the coordinates, so plain gradient descent on the second task leaves the first as it is.
What an optimizer remembers of the first task's gradients, or makes of the second's, does not have to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from recipes.optimizing.training import finite, lost, train

if TYPE_CHECKING:
    from recipes.optimizing.entries import Maker

STEPS = 300  # of each task
INPUTS, OUTPUTS, BATCH = 32, 16, 16
NOISE, WEAKEST = 0.3, 0.1
#: Loss of the second task, in units of an untrained model's, at which all are compared.
LEVEL = 0.3
SETTINGS: Mapping[str, Any] = {
    "inputs": INPUTS,
    "outputs": OUTPUTS,
    "batch": BATCH,
    "noise": NOISE,
    "weakest": WEAKEST,
    "level": LEVEL,
}


class Regression(nn.Module):
    """One linear map, from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, OUTPUTS, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, inputs]`` to ``[n, outputs]``."""
        return cast(Tensor, self.linear(x))


class Tasks:
    """Both tasks: directions of their inputs with the variance along each, and the map to be learned."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        half = INPUTS // 2
        basis = torch.linalg.qr(torch.randn(INPUTS, INPUTS, generator=self.generator)).Q
        deviations = torch.logspace(0, math.log10(WEAKEST) / 2, half)
        self.directions = [basis[:, :half] * deviations, basis[:, half:] * deviations]
        self.target = torch.randn(OUTPUTS, INPUTS, generator=self.generator)

    def batch(self, task: int) -> tuple[Tensor, Tensor]:
        """Inputs and noisy targets."""
        directions = self.directions[task]
        x = torch.randn(BATCH, directions.shape[1], generator=self.generator) @ directions.mT
        noise = NOISE * torch.randn(BATCH, OUTPUTS, generator=self.generator)
        return x, x @ self.target.mT + noise

    def loss(self, weight: Tensor, task: int) -> float:
        """Expected squared error without the noise, in units of a zero map's."""
        error = (weight - self.target) @ self.directions[task]
        return float(error.square().sum() / (self.target @ self.directions[task]).square().sum())


def execute(make: Maker, lr: float, seed: int, split: str, steps: int) -> dict[str, Any]:
    """Learn the first task, then only the second, with one optimizer throughout.

    Returns:
        ``score``, by which a learning rate is chosen, says how well each task was learned while it was
        trained (mean of the two final losses) and nothing about what became of the first. ``before`` is the
        first task's loss when the second begins, ``matched`` its loss when the second has come down to
        :data:`LEVEL`, ``after`` at the end; all in units of an untrained model's. None for a level that was
        not reached and a training that was lost. On test data also ``course``, both losses meanwhile.
    """
    torch.manual_seed(seed)
    tasks, model = Tasks(seed), Regression()
    optimizers = make(model, lr)
    weight = model.linear.weight.detach()
    course: list[tuple[float, float]] = []

    def learn(task: int) -> list[float]:
        def loss(step: int) -> Tensor:
            x, y = tasks.batch(task)
            value: Tensor = (model(x) - y).square().sum(-1).mean() / 2
            return value

        def look(step: int) -> bool:
            course.append((tasks.loss(weight, 0), tasks.loss(weight, 1)))
            return False

        return train(model, optimizers, loss, steps, after=look)

    if lost(learn(0)) or lost(learn(1)):
        return {"score": None, "before": None, "matched": None, "after": None}
    second = course[steps:]
    matched = next((first for first, now in second if now <= LEVEL), None)
    return {
        "score": finite((course[steps - 1][0] + course[-1][1]) / 2),
        "before": course[steps - 1][0],
        "matched": matched,
        "after": course[-1][0],
        **({"course": _thinned(second, steps)} if split == "test" else {}),
    }


def _thinned(course: list[tuple[float, float]], steps: int) -> list[list[float]]:
    """Losses of both tasks at every few steps, for a picture."""
    return [[round(value, 4) for value in pair] for pair in course[:: max(1, steps // 30)]]
