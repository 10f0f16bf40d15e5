"""The toy of Eq. 53 (Figure 4): how many steps to the bottom of a winding valley.

``psi(r, theta) = r² + k (r - theta + a sin(w r))²`` from (-3.5, 2), down to psi = 0 at the origin. The paper
gives the start but not k, a and w; those here are this recipe's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recipes.optimizing.training import train

if TYPE_CHECKING:
    from recipes.optimizing.entries import Maker

STEPS = 1000  # where a descent is given up
START, SPREAD, STARTS = (-3.5, 2.0), 0.1, 7
K, A, W = 10.0, 0.5, 2.0
GOAL, STAY = 1e-3, 20
SETTINGS: Mapping[str, Any] = {
    "start": list(START),
    "spread": SPREAD,
    "starts": STARTS,
    "k": K,
    "a": A,
    "w": W,
    "goal": GOAL,
    "stay": STAY,
}


class Point(nn.Module):
    """Where a descent is."""

    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(place.clone())


def height(place: Tensor) -> Tensor:
    """psi, Eq. 53."""
    r, theta = place
    value: Tensor = r.square() + K * (r - theta + A * torch.sin(W * r)).square()
    return value


def steps_to_goal(make: Maker, lr: float, place: Tensor, steps: int) -> int:
    """Steps after which psi stays below the goal for some time; ``steps`` if it does not.

    Passing through the bottom is not arriving there, hence the time.
    """
    point = Point(place)
    below = 0

    def loss(step: int) -> Tensor:
        nonlocal below
        value = height(point.place)
        below = below + 1 if value.item() < GOAL else 0
        return value

    losses = train(point, make(point, lr), loss, steps, after=lambda _: below >= STAY)
    return len(losses) - STAY if below >= STAY else steps


def execute(make: Maker, lr: float, seed: int, split: str, steps: int) -> dict[str, Any]:
    """Descend from several starts around the paper's.

    Returns:
        ``score`` is the median number of steps, None if it did not arrive from most of the starts;
        ``arrived`` the share of the starts from which it did.
    """
    del split
    generator = torch.Generator().manual_seed(seed)
    starts = torch.tensor(START) + SPREAD * torch.randn(STARTS, 2, generator=generator)
    counts = [steps_to_goal(make, lr, place, steps) for place in starts]
    middle = median(counts)
    return {
        "score": middle if math.isfinite(middle) and middle < steps else None,
        "arrived": sum(count < steps for count in counts) / STARTS,
    }
