"""Learning that sees old examples again, out of a store of limited size: ER, DER++, A-GEM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nestlearn.continual.classification.base import Classifier, Network, OptimizerMaker
from nestlearn.continual.storage import size_of


class Store:
    """A sample of all examples so far, every one with the same probability (reservoir sampling).

    Args:
        size: Bytes; at least one example is kept.
        seed: Of the draws.

    Attributes:
        seen: Examples that were offered.
        columns: What is kept of each example, one tensor a kind.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if size < 1:
            raise ValueError(f"store_bytes must be at least 1, got {size}")
        self.size, self.seen = size, 0
        self.columns: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def offer(self, *columns: Tensor) -> None:
        """Offer a batch, one row an example."""
        if not self.columns:
            self.columns = [column[:0].detach().clone() for column in columns]
        for i in range(len(columns[0])):
            row = [column[i : i + 1].detach() for column in columns]
            self.seen += 1
            if (len(self) + 1) * size_of(*row) <= self.size or not len(self):
                self.columns = [torch.cat([own, new]) for own, new in zip(self.columns, row, strict=True)]
                continue
            place = int(torch.randint(self.seen, (), generator=self.generator))
            if place < len(self):
                for own, new in zip(self.columns, row, strict=True):
                    own[place] = new[0]

    def draw(self, count: int) -> list[Tensor]:
        """Rows drawn without repetition, at most ``count``."""
        chosen = torch.randperm(len(self), generator=self.generator)[:count]
        return [column[chosen] for column in self.columns]


class Replay(Classifier):
    """Experience replay: half of the loss is on as many old examples.

    Args:
        network: See :class:`~nestlearn.continual.classification.Classifier`.
        optimizer: Likewise.
        store_bytes: Size of the store.
        seed: Of the store.
    """

    name = "replay"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        store_bytes: int = 1_000_000,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer)
        self.store = Store(store_bytes, seed)

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy on both."""
        loss = self.entropy(self.network(inputs), labels)
        if not len(self.store):
            return loss
        old, said = self.store.draw(len(labels))
        return 0.5 * (loss + self.entropy(self.network(old), said))

    def after_step(self, inputs: Tensor, labels: Tensor) -> None:
        """Offer the batch to the store."""
        self.store.offer(inputs, labels)

    def stored_bytes(self) -> int:
        """The store."""
        return size_of(*self.store.columns)


class DarkReplay(Replay):
    """DER++ (Buzzega et al. 2020, arXiv 2004.07211): stored examples remember what the network said of them.

    Args:
        network: See :class:`~nestlearn.continual.classification.Classifier`.
        optimizer: Likewise.
        store_bytes: Size of the store.
        alpha: Weight of the squared distance to the stored scores.
        beta: Weight of the stored examples' cross-entropy.
        seed: Of the store.
    """

    name = "der++"

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerMaker | None = None,
        *,
        store_bytes: int = 1_000_000,
        alpha: float = 0.5,
        beta: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, store_bytes=store_bytes, seed=seed)
        if not min(alpha, beta) >= 0.0:
            raise ValueError(f"alpha and beta must not be negative, got {alpha}, {beta}")
        self.alpha, self.beta = alpha, beta
        self.said = torch.empty(0)

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, the distance to stored scores, and cross-entropy of other stored examples."""
        scores = self.network(inputs)
        self.said = scores.detach()
        loss = self.entropy(scores, labels)
        if len(self.store):
            old, _, said = self.store.draw(len(labels))
            loss = loss + self.alpha * F.mse_loss(self.network(old), said)
            old, wanted, _ = self.store.draw(len(labels))
            loss = loss + self.beta * self.entropy(self.network(old), wanted)
        return loss

    def after_step(self, inputs: Tensor, labels: Tensor) -> None:
        """Offer the batch with what the network said of it before the step."""
        self.store.offer(inputs, labels, self.said)


class AveragedGradientMemory(Replay):
    """A-GEM (Chaudhry et al. 2019, arXiv 1812.00420): a gradient that hurts old examples is turned aside."""

    name = "a-gem"

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy on the batch."""
        return self.entropy(self.network(inputs), labels)

    def before_step(self, inputs: Tensor, labels: Tensor) -> None:
        """``g - (g · r) / (r · r) r`` where ``g · r`` is negative, r being the gradient on old examples."""
        if not len(self.store):
            return
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        own = [p.grad.clone() for p in parameters if p.grad is not None]
        old, said = self.store.draw(len(labels))
        reference = torch.autograd.grad(self.entropy(self.network(old), said), parameters)
        along = torch.stack([(g * r).sum() for g, r in zip(own, reference, strict=True)]).sum()
        size = torch.stack([r.square().sum() for r in reference]).sum()
        share = (along / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(0.0)
        for parameter, g, r in zip(parameters, own, reference, strict=True):
            parameter.grad = g - share * r
