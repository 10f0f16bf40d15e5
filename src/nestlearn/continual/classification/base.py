"""What all ways of learning a stream of classification tasks share, so that they can be compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from nestlearn.streams.tasks import Labelled

Network = nn.Module
#: Makes the optimizer of a network's parameters.
OptimizerMaker = Callable[[nn.Module], Optimizer]


def adam(lr: float = 1e-3) -> OptimizerMaker:
    """Torch's Adam over all parameters, as in van de Ven & Tolias 2019 (arXiv 1904.07734)."""
    return lambda network: torch.optim.Adam(network.parameters(), lr)


def sgd(lr: float = 0.1, momentum: float = 0.0) -> OptimizerMaker:
    """Torch's gradient descent over all parameters."""
    return lambda network: torch.optim.SGD(network.parameters(), lr, momentum)


class Classifier(ABC):
    """A network, and the rule by which it learns from labelled batches.

    The loss is taken over all outputs, those of classes that have not come yet included: with one head for
    all classes nobody says which ones are of the task at hand. Where that is told (:meth:`tell`), it is taken
    over the classes of an example's own task.

    Args:
        network: Maps inputs ``[B, ...]`` to scores ``[B, classes]``; it is trained in place.
        optimizer: Makes its optimizer.

    Attributes:
        name: As it is called in results.
        needs_boundaries: Whether :meth:`end_task` has to be called for the method to be what it is called.
    """

    name: ClassVar[str]
    needs_boundaries: ClassVar[bool] = False

    def __init__(self, network: Network, optimizer: OptimizerMaker | None = None) -> None:
        self.network = network
        self.optimizer = (adam() if optimizer is None else optimizer)(network)
        self.tasks = 0
        self.among: Tensor | None = None

    def tell(self, groups: Sequence[Sequence[int]]) -> None:
        """Say which classes belong to one task: the task scenario of van de Ven & Tolias 2019.

        Args:
            groups: The classes of each task, every class once.
        """
        count = 1 + max(c for group in groups for c in group)
        self.among = torch.zeros(count, count, dtype=torch.bool)
        for group in groups:
            own = torch.tensor(list(group))
            self.among[own[:, None], own] = True

    def eligible(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores ``[B, classes]``, those of classes of other tasks than a label's at minus infinity."""
        if self.among is None:
            return scores
        return scores.masked_fill(~self.among.to(scores.device)[labels], -torch.inf)

    def entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of scores, a mean over examples."""
        return F.cross_entropy(self.eligible(scores, labels), labels)

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step.

        Args:
            inputs: ``[B, ...]``.
            labels: ``[B]``.

        Returns:
            The loss before it.

        Raises:
            ValueError: If the loss is not finite; nothing has changed then.
        """
        self.network.train()
        self.optimizer.zero_grad()
        loss = self.loss(inputs, labels)
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"the loss is {float(loss.detach())}: lower the learning rate")
        loss.backward()
        self.before_step(inputs, labels)
        self.optimizer.step()
        self.after_step(inputs, labels)
        return float(loss.detach())

    @abstractmethod
    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """What is minimised on a batch."""

    def before_step(self, inputs: Tensor, labels: Tensor) -> None:  # noqa: B027
        """Called when ``.grad`` is there."""

    def after_step(self, inputs: Tensor, labels: Tensor) -> None:  # noqa: B027
        """Called when the parameters have changed."""

    def end_task(self, data: Labelled) -> None:
        """The task is over.

        Args:
            data: Its training examples, labelled as the batches were; they are not kept.
        """
        del data
        self.tasks += 1

    @torch.no_grad()
    def scores(self, inputs: Tensor) -> Tensor:
        """Scores ``[B, classes]``."""
        self.network.eval()
        found: Tensor = self.network(inputs)
        return found

    def stored_bytes(self) -> int:
        """Bytes that are kept from one task to the next besides weights and the optimizer's own state."""
        return 0


class Ordinary(Classifier):
    """Learn what comes: the lower bound, and with all tasks in one stream the upper one."""

    name = "ordinary"

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return self.entropy(self.network(inputs), labels)


class Fresh(Ordinary):
    """A new network for every task: what a task is worth to one that knows nothing, and has nothing to keep.

    Args:
        network: See :class:`Classifier`.
        optimizer: Likewise.
        make: Gives the further networks.
    """

    name = "fresh"

    def __init__(
        self, network: Network, optimizer: OptimizerMaker | None = None, *, make: Callable[[], Network]
    ) -> None:
        super().__init__(network, optimizer)
        self.maker, self.make, self.over = adam() if optimizer is None else optimizer, make, False

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step, of a new network if a task has ended before it."""
        if self.over:
            self.network = self.make()
            self.optimizer, self.over = self.maker(self.network), False
        return super().learn(inputs, labels)

    def end_task(self, data: Labelled) -> None:
        """The next step begins anew."""
        super().end_task(data)
        self.over = True


def pieces(data: Labelled, size: int = 256) -> Iterator[Labelled]:
    """A task's examples in order, at most ``size`` at a time."""
    for start in range(0, len(data), size):
        yield data[torch.arange(start, min(start + size, len(data)))]
