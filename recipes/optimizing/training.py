"""The training loop that all optimizers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nestlearn.optim import NonFiniteGradientError

#: Length that a gradient is cut to, over all parameters together, for every optimizer.
CLIP = 1.0
#: A training whose loss has grown to so many times the first one is over.
LOST = 10.0


def train(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    loss: Callable[[int], Tensor],
    steps: int,
    *,
    schedule: Callable[[int, int], float] | None = None,
    clip: float | None = None,
    after: Callable[[int], bool] | None = None,
) -> list[float]:
    """Take steps and return the loss before each.

    Args:
        model: What is trained.
        optimizers: Each has its own part of the parameters.
        loss: Maps the step's number to the loss of its batch.
        steps: Number of steps.
        schedule: Share of the highest learning rate by step and number of steps.
        clip: Length that the gradient is cut to.
        after: Called with the number of steps taken so far; True ends the training.

    Returns:
        The losses; shorter than ``steps``, with NaN at the end, if the training was lost.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    highest = [float(group["lr"]) for group in groups]
    losses: list[float] = []
    for step in range(steps):
        for group, rate in zip(groups, highest, strict=True):
            group["lr"] = rate * (schedule(step, steps) if schedule is not None else 1.0)
        value = loss(step)
        losses.append(value.item())
        if not (math.isfinite(losses[-1]) and losses[-1] <= LOST * max(losses[0], 1e-9)):
            return [*losses[:-1], math.nan]
        if not _update(model, optimizers, value, clip):
            return [*losses, math.nan]
        if after is not None and after(step + 1):
            break
    return losses


def _update(model: nn.Module, optimizers: Sequence[Optimizer], value: Tensor, clip: float | None) -> bool:
    """One update; False if the gradient is not finite any more."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    value.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    try:
        for optimizer in optimizers:
            optimizer.step()
    except (NonFiniteGradientError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return False
    return True


def lost(losses: Sequence[float]) -> bool:
    """Whether a training was given up."""
    return not losses or not math.isfinite(losses[-1])


def finite(value: float) -> float | None:
    """The number as JSON knows it: None for what is not finite."""
    return value if math.isfinite(value) else None
