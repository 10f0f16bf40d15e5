"""Learning that is drawn back along what earlier tasks needed: EWC, online EWC, SI."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from nestlearn.continual.classification.base import Classifier, Network, OptimizerMaker
from nestlearn.continual.storage import size_of
from nestlearn.streams.tasks import Labelled

Values = dict[str, Tensor]


class _Drawn(Classifier):
    """Cross-entropy and a quadratic penalty on the way from anchors."""

    needs_boundaries: ClassVar[bool] = True

    def __init__(self, network: Network, optimizer: OptimizerMaker | None = None, *, strength: float) -> None:
        super().__init__(network, optimizer)
        if not strength >= 0.0:
            raise ValueError(f"strength must not be negative, got {strength}")
        self.strength = strength
        self.anchors: list[tuple[Values, Values]] = []  # importance and place of every parameter

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy plus ``strength / 2 sum over anchors of F (W - W*)²``."""
        loss = self.entropy(self.network(inputs), labels)
        for importance, place in self.anchors:
            for name, parameter in self.network.named_parameters():
                loss = loss + 0.5 * self.strength * (importance[name] * (parameter - place[name]) ** 2).sum()
        return loss

    def here(self) -> Values:
        """The parameters as they are."""
        return {name: p.detach().clone() for name, p in self.network.named_parameters()}

    def stored_bytes(self) -> int:
        """Importance and place of every parameter, for every anchor."""
        return sum(size_of(*own.values()) for anchor in self.anchors for own in anchor)


class ElasticWeights(_Drawn):
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): every task draws back.

    Importance is the diagonal of the Fisher matrix, a mean over the task's examples of squared gradients of
    each example by itself, on labels that the network draws.

    Args:
        network: See :class:`~nestlearn.continual.classification.Classifier`.
        optimizer: Likewise.
        strength: Of the penalty.
        examples: Of a task, for the Fisher matrix; None for all.
        seed: Of the labels.
    """

    name = "ewc"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        strength: float = 5000.0,
        examples: int | None = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, strength=strength)
        self.examples = examples
        self.generator = torch.Generator().manual_seed(seed)

    def end_task(self, data: Labelled) -> None:
        """Anchor the network here too.

        ``F1 (W - W1)² + F2 (W - W2)²`` is ``(F1 + F2) (W - W12)²`` and a constant, with the mean of both
        places weighted by importance: the anchors of all tasks need the memory and the time of one.
        """
        super().end_task(data)
        fresh, here = self.fisher(data), self.here()
        for importance, place in self.anchors:
            for name, own in fresh.items():
                both = importance[name] + own
                share = torch.where(both > 0.0, own / both.clamp_min(torch.finfo(both.dtype).tiny), 1.0)
                here[name] = place[name].lerp(here[name], share)
                fresh[name] = both
        self.anchors = [(fresh, here)]

    def fisher(self, data: Labelled) -> Values:
        """The diagonal of the Fisher matrix on some of the examples."""
        self.network.eval()
        found = {name: torch.zeros_like(p) for name, p in self.network.named_parameters()}
        count = len(data) if self.examples is None else min(self.examples, len(data))
        chosen = torch.randperm(len(data), generator=self.generator)[:count]
        for i in chosen:
            scores = self.network(data.inputs[i : i + 1])
            own = self.eligible(scores.detach(), data.classes[i : i + 1])
            label = torch.multinomial(own.softmax(-1).cpu(), 1, generator=self.generator)
            self.network.zero_grad()
            self.entropy(scores, label.flatten().to(scores.device)).backward()
            for name, parameter in self.network.named_parameters():
                if parameter.grad is not None:
                    found[name] += parameter.grad.square() / count
        self.network.zero_grad()
        return found


class OnlineElasticWeights(ElasticWeights):
    """EWC with one anchor (Schwarz et al. 2018, arXiv 1805.06370): importances fade by ``decay`` a task."""

    name = "online ewc"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        strength: float = 5000.0,
        decay: float = 1.0,
        examples: int | None = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, strength=strength, examples=examples, seed=seed)
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay must lie between 0 and 1, got {decay}")
        self.decay = decay

    def end_task(self, data: Labelled) -> None:
        """Move the anchor here, and add to the importances."""
        Classifier.end_task(self, data)
        fresh = self.fisher(data)
        for importance, _ in self.anchors:
            fresh = {name: self.decay * importance[name] + value for name, value in fresh.items()}
        self.anchors = [(fresh, self.here())]


class SynapticIntelligence(_Drawn):
    """SI (Zenke et al. 2017, arXiv 1703.04200): importance is how much a parameter's way lowered the loss.

    Args:
        network: See :class:`~nestlearn.continual.classification.Classifier`.
        optimizer: Likewise.
        strength: Of the penalty, twice the paper's ``c``.
        damping: Added to the squared length of the way.
    """

    name = "si"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        strength: float = 0.2,
        damping: float = 0.1,
    ) -> None:
        super().__init__(network, optimizer, strength=strength)
        if not damping > 0.0:
            raise ValueError(f"damping must be positive, got {damping}")
        self.damping = damping
        self.start, self.before = self.here(), self.here()
        self.gains = {name: torch.zeros_like(value) for name, value in self.start.items()}
        self.slopes: Values = {}

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step; its gain is counted by the gradient of the task's own loss, without the penalty."""
        self.network.train()
        names, parameters = zip(*self.network.named_parameters(), strict=True)
        own = self.entropy(self.network(inputs), labels)
        self.slopes = dict(zip(names, torch.autograd.grad(own, parameters), strict=True))
        return super().learn(inputs, labels)

    def after_step(self, inputs: Tensor, labels: Tensor) -> None:
        """Add ``-g dW`` to the gains."""
        now = self.here()
        for name, slope in self.slopes.items():
            self.gains[name] -= slope * (now[name] - self.before[name])
        self.before = now

    def end_task(self, data: Labelled) -> None:
        """Add the gains over the squared way to the importances, and anchor the network here."""
        super().end_task(data)
        now = self.here()
        fresh = {
            name: (gain / ((now[name] - self.start[name]) ** 2 + self.damping)).clamp_min(0.0)
            for name, gain in self.gains.items()
        }
        for importance, _ in self.anchors:
            fresh = {name: value + importance[name] for name, value in fresh.items()}
        self.anchors = [(fresh, now)]
        self.start, self.before = now, self.here()
        self.gains = {name: torch.zeros_like(value) for name, value in now.items()}
