"""Features that the first task trains, under a head that is an exact memory."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from nestlearn.continual.classification.base import Network, OptimizerMaker, Ordinary, pieces
from nestlearn.continual.classification.memories import ExactHead
from nestlearn.streams.tasks import Labelled


class FirstSession(Ordinary):
    """A network that learns the first task by gradient; what comes after it goes into an exact memory.

    First-session adaptation (Panos et al. 2023, arXiv 2303.13199) under :class:`ExactHead`: from the end of
    the first task on, features stay as they are, and the head is the solution of ridge regression on all
    examples so far, those of the first task included, so that neither can forget.

    Args:
        network: Learns the first task; see :class:`~nestlearn.continual.classification.Classifier`.
        optimizer: Likewise.
        features: Maps inputs to features ``[B, size]`` by modules of the network, among others; from the end
            of the first task on it is frozen.
        size: Features.
        classes: Outputs.
        ridge: See :class:`ExactHead`.

    Attributes:
        memory: The head and its features; None in the first task.
    """

    name = "first session"
    needs_boundaries: ClassVar[bool] = True

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        features: nn.Module,
        size: int,
        classes: int,
        ridge: float = 0.01,
    ) -> None:
        if not ridge > 0.0:
            raise ValueError(f"ridge must be positive, got {ridge}")
        super().__init__(network, optimizer)
        self.features, self.size, self.classes, self.ridge = features, size, classes, ridge
        self.memory: ExactHead | None = None
        self.seen = 0

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step of the network, or of the memory."""
        if self.memory is not None:
            return self.memory.learn(inputs, labels)
        self.seen += len(labels)
        return super().learn(inputs, labels)

    def end_task(self, data: Labelled) -> None:
        """After the first task, put it into the memory, as often as it was seen; after later ones nothing."""
        super().end_task(data)
        if self.memory is None:
            self.memory = ExactHead(self.features, self.size, self.classes, ridge=self.ridge)
            for part in pieces(data):
                self.memory.learn(part.inputs, part.classes)
            for moment in (self.memory.keys, self.memory.values):
                moment.mul_(self.seen / len(data))

    def scores(self, inputs: Tensor) -> Tensor:
        """Scores of the network, or of the memory."""
        return super().scores(inputs) if self.memory is None else self.memory.scores(inputs)

    def stored_bytes(self) -> int:
        """The memory's moments."""
        return 0 if self.memory is None else self.memory.stored_bytes()
