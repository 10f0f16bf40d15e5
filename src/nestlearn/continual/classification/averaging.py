"""Networks of before and after a task, averaged."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from nestlearn.continual.classification.base import Network, OptimizerMaker, Ordinary
from nestlearn.continual.storage import size_of
from nestlearn.streams.tasks import Labelled


class AveragedWeights(Ordinary):
    """When a task ends the network becomes ``(1 - w) before + w after``; the next one goes on from there.

    With ``w = 1 / (t + 1)`` after ``t`` earlier tasks all tasks count the same, as in mean-IMM (Lee et al.
    2017, arXiv 1703.08475); with one w for all this is CoMA (Marouf et al. 2023, arXiv 2312.08977). The first
    task counts wholly: before it there is nothing to keep. The optimizer's state stays as it is.

    Args:
        network: See :class:`~nestlearn.continual.classification.Classifier`; buffers other than whole numbers
            are averaged like parameters.
        optimizer: Likewise.
        weight: Of the network after a task, ``w``; None for ``1 / (t + 1)``, 1 for ordinary learning.

    Raises:
        ValueError: For a weight outside 0 to 1.
    """

    name = "averaged weights"
    needs_boundaries: ClassVar[bool] = True

    def __init__(
        self, network: Network, optimizer: OptimizerMaker | None = None, *, weight: float | None = None
    ) -> None:
        super().__init__(network, optimizer)
        if weight is not None and not 0.0 <= weight <= 1.0:
            raise ValueError(f"weight must lie between 0 and 1, got {weight}")
        self.weight = weight
        self.before: dict[str, Tensor] = {}

    @torch.no_grad()
    def end_task(self, data: Labelled) -> None:
        """Average."""
        super().end_task(data)
        weight = 1.0 / self.tasks if self.weight is None else self.weight
        now = {name: value for name, value in self.network.state_dict().items() if value.is_floating_point()}
        for name, before in self.before.items():
            now[name].copy_(before.lerp(now[name], weight))
        self.before = {name: value.clone() for name, value in now.items()}

    def stored_bytes(self) -> int:
        """A second network."""
        return size_of(*self.before.values())
