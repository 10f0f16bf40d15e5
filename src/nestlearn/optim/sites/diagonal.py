"""The key memory of a parameter whose layer is not known."""

from __future__ import annotations

import torch
from torch import Tensor

from nestlearn.optim.sites.base import Site, add_moment, wide


class DiagonalSite(Site):
    """Any other parameter: its squared gradient, element by element.

    A diagonal knows nothing of directions, so it protects more: its strength is ``share`` of a matrix's.
    What earlier contexts used hardly moves, what they never used is free.
    """

    share = 0.01

    def scale(self, moment: Tensor) -> Tensor:
        """Mean over all elements: the moment has the parameter's own shape."""
        return moment.mean().clamp_min(torch.finfo(moment.dtype).tiny)

    def collect(self) -> None:
        """Square the gradient of the pass."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                add_moment(self.fresh, str(i), wide(parameter.grad).square())

    def build(self, strength: float, output_strength: float) -> None:
        """``1 / (1 + F / (share lambda mu))``, both sides of a matrix in one number."""
        least = self.share * strength * output_strength
        self.factors = {key: 1.0 / (1.0 + kept / least) for key, kept in self.kept.items()}

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """Damp every element by what earlier contexts made of it."""
        return [
            update * self.factors[str(i)] if str(i) in self.factors else update
            for i, update in enumerate(updates)
        ]
