"""Ours: updates that keep out of what earlier examples used, and a head that is an exact memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.continual.classification.base import Classifier, Network, Ordinary
from nestlearn.continual.storage import size_of
from nestlearn.levels import Level
from nestlearn.optim import Nested
from nestlearn.streams.tasks import Labelled


class Levels(Ordinary):
    """Levels with key memories (Eq. 59, 71), which notice by the loss that a task has ended.

    Args:
        network: See :class:`~nestlearn.continual.classification.Classifier`.
        levels: The levels; periods, looks and horizons are in examples.
        announced: Whether they are told when a task ends, too.
        assign: Who owns which parameters; see :class:`~nestlearn.optim.Nested`.
        variant: Likewise.
    """

    name = "levels"

    def __init__(
        self,
        network: Network,
        levels: Sequence[Level],
        *,
        announced: bool = False,
        assign: Callable[[str, nn.Parameter], str] | None = None,
        variant: str = "sequential",
    ) -> None:
        self.levels, self.announced = tuple(levels), announced
        super().__init__(network, lambda own: Nested(self.levels, own, assign=assign, variant=variant))

    @property
    def nested(self) -> Nested:
        """The optimizer."""
        assert isinstance(self.optimizer, Nested)
        return self.optimizer

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step."""
        self.network.train()
        loss = self.loss(inputs, labels)
        loss.backward()
        self.nested.step(tokens=len(labels), surprise=loss.detach())
        self.nested.zero_grad()
        return float(loss.detach())

    def end_task(self, data: Labelled) -> None:
        """End the context, if tasks are announced."""
        super().end_task(data)
        if self.announced:
            self.nested.commit()

    def stored_bytes(self) -> int:
        """The moments that are kept."""
        return sum(memory.stored_bytes() for memory in self.nested.memories.values())


class ExactHead(Classifier):
    """Features that stay as they are, under a linear head that solves its own objective after every batch.

    The head is the associative memory whose objective is the squared distance to one-hot labels over all
    examples so far, at its minimum: ``W = (F^T F + lambda)^-1 F^T Y``. It keeps the two moments and no
    example; the order of the examples makes no difference, so that nothing is forgotten. Recursive least
    squares, in the form of its sums (for class-incremental learning: Zhuang et al. 2022, arXiv 2205.14922;
    on random features: McDonnell et al. 2023, arXiv 2307.02251).

    Args:
        features: Maps inputs to features ``[B, n]``; never trained.
        size: Features, ``n``.
        classes: Outputs.
        ridge: ``lambda``, in units of the mean squared feature times the examples so far.
    """

    name = "exact head"

    def __init__(self, features: Network, size: int, classes: int, *, ridge: float = 0.01) -> None:
        if not ridge > 0.0:
            raise ValueError(f"ridge must be positive, got {ridge}")
        head = nn.Linear(size, classes, bias=False).requires_grad_(False)
        super().__init__(nn.Sequential(features.requires_grad_(False), head), _nothing)
        self.features, self.head, self.ridge = features, head, ridge
        self.keys = torch.zeros(size, size, device=head.weight.device)
        self.values = torch.zeros(size, classes, device=head.weight.device)
        self.stale = False
        nn.init.zeros_(head.weight)

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The squared distance to one-hot labels, a mean over examples."""
        wanted = F.one_hot(labels, self.values.shape[1]).float()
        return (self.scores(inputs) - wanted).square().sum(-1).mean()

    @torch.no_grad()
    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """Add a batch to the moments; the head is solved when it is next used.

        Returns:
            The loss of the head as it was last solved.
        """
        self.features.eval()
        features = self.features(inputs)
        wanted = F.one_hot(labels, self.values.shape[1]).to(features.dtype)
        loss = (self.head(features) - wanted).square().sum(-1).mean()
        self.keys.addmm_(features.mT, features)  # one pass over what is the largest thing here
        self.values.addmm_(features.mT, wanted)
        self.stale = True
        return float(loss)

    @torch.no_grad()
    def scores(self, inputs: Tensor) -> Tensor:
        """Scores of the solved head."""
        if self.stale:
            eye = torch.eye(len(self.keys), device=self.keys.device)
            damped = self.keys + self.ridge * self.keys.diagonal().mean() * eye
            solved = torch.cholesky_solve(self.values, torch.linalg.cholesky(damped))
            self.head.weight.copy_(solved.mT)
            self.stale = False
        return super().scores(inputs)

    def stored_bytes(self) -> int:
        """Both moments."""
        return size_of(self.keys, self.values)


class ClassMeans(Classifier):
    """Features that stay as they are; the class whose mean is nearest (Mensink et al. 2013).

    Args:
        features: Maps inputs to features ``[B, n]``; never trained.
        size: Features.
        classes: Outputs.
    """

    name = "class means"

    def __init__(self, features: Network, size: int, classes: int) -> None:
        super().__init__(features.requires_grad_(False), _nothing)
        self.sums = torch.zeros(classes, size)
        self.counts = torch.zeros(classes)

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the negative squared distances."""
        return F.cross_entropy(self.scores(inputs), labels)

    @torch.no_grad()
    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """Add a batch to the means."""
        self.network.eval()
        features = self.network(inputs)
        self.sums.index_add_(0, labels, features)
        self.counts.index_add_(0, labels, torch.ones(len(labels)))
        return float(self.loss(inputs, labels))

    @torch.no_grad()
    def scores(self, inputs: Tensor) -> Tensor:
        """Negative squared distances to the means; of a class without examples minus infinity."""
        means = self.sums / self.counts.clamp_min(1.0)[:, None]
        distances = torch.cdist(super().scores(inputs), means).square()
        return (-distances).masked_fill(self.counts == 0, -torch.inf)

    def stored_bytes(self) -> int:
        """Sums and counts."""
        return size_of(self.sums, self.counts)


def _nothing(network: nn.Module) -> torch.optim.Optimizer:
    """An optimizer for what is never trained."""
    return torch.optim.SGD([torch.zeros(0, requires_grad=True)], 0.0)
