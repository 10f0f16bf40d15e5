"""Learning without forgetting: the network of before says what it would have said."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor

from nestlearn.continual.classification.base import Classifier, Network, OptimizerMaker
from nestlearn.continual.storage import size_of
from nestlearn.streams.tasks import Labelled


class WithoutForgetting(Classifier):
    """LwF (Li & Hoiem 2016, arXiv 1606.09282) for one head, as in van de Ven & Tolias 2019.

    With ``n`` tasks begun, cross-entropy has weight ``1 / n`` and distillation the rest: the scores of the
    network as it was when the last task ended, on the new examples, for the classes that had come by then.

    Args:
        network: See :class:`~nestlearn.continual.classification.Classifier`.
        optimizer: Likewise.
        temperature: Of the softmax that is distilled.
    """

    name = "lwf"
    needs_boundaries: ClassVar[bool] = True

    def __init__(
        self, network: Network, optimizer: OptimizerMaker | None = None, *, temperature: float = 2.0
    ) -> None:
        super().__init__(network, optimizer)
        if not temperature > 0.0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature
        self.teacher: Network | None = None
        self.known: Tensor = torch.empty(0, dtype=torch.long)

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy and distillation."""
        scores = self.network(inputs)
        loss = self.entropy(scores, labels)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            said = (self.teacher(inputs)[:, self.known] / self.temperature).softmax(-1)
        says = (scores[:, self.known] / self.temperature).log_softmax(-1)
        distilled: Tensor = self.temperature**2 * -(said * says).sum(-1).mean()
        return loss.lerp(distilled, 1.0 - 1.0 / (self.tasks + 1))

    def end_task(self, data: Labelled) -> None:
        """Keep the network as it is now."""
        super().end_task(data)
        self.known = torch.cat([self.known, data.classes.cpu()]).unique()
        self.teacher = copy.deepcopy(self.network).eval().requires_grad_(False)

    def stored_bytes(self) -> int:
        """A second network."""
        return 0 if self.teacher is None else size_of(*self.teacher.parameters(), *self.teacher.buffers())
