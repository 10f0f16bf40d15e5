"""Fine-tuning that is drawn back to where it began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestlearn.continual.methods.base import Tree, drawn_loss
from nestlearn.continual.methods.tuning import FineTuning, positive
from nestlearn.continual.storage import size_of


class L2ToStart(FineTuning):
    """Fine-tuning with ``strength / 2 ||W - W_0||²`` added to the loss.

    Args:
        lr: Learning rate.
        strength: Of the penalty.
        further: See :class:`~nestlearn.continual.methods.FineTuning`.
    """

    name: ClassVar[str] = "l2"

    def __init__(self, lr: float = 1e-4, strength: float = 0.1, **further: Any) -> None:
        super().__init__(lr, **further)
        positive("strength", strength, zero=True)
        self._settings["strength"] = self.strength = strength

    def attach(self, base: nn.Module) -> None:
        """Remember where the parameters began."""
        super().attach(base)
        self.start = {name: part.own.detach().clone() for name, part in self.parts.items()}

    def stored_bytes(self) -> int:
        """Of where the parameters began."""
        return size_of(*self.start.values())

    def pull(self) -> None:
        """Add ``strength (W - W_0)``."""
        for name, part in self.parts.items():
            if part.own.grad is not None:
                part.own.grad.add_(part.own - self.start[name], alpha=self.strength)


class ElasticWeights(L2ToStart):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): ``strength / 2 sum F (W - W_0)²``.

    ``F`` is the diagonal of the Fisher matrix per token, of labels that the model draws itself.

    Args:
        lr: Learning rate.
        strength: Of the penalty.
        further: See :class:`~nestlearn.continual.methods.FineTuning`.
    """

    name: ClassVar[str] = "ewc"

    def __init__(self, lr: float = 3e-4, strength: float = 1000.0, **further: Any) -> None:
        super().__init__(lr, strength, **further)
        self.fisher: dict[str, Tensor] = {}

    @property
    def wants_old(self) -> bool:
        """Whether the Fisher matrix is not there yet."""
        return not self.fisher

    def calibrate(self, batches: Iterable[Tensor], seed: int = 0) -> None:
        """Mean squared gradients: of a mean over n tokens, times n."""
        generator = torch.Generator(device=next(self.model.parameters()).device).manual_seed(seed)
        sums: dict[str, Tensor] = {}
        count = 0
        for batch in batches:
            drawn_loss(self.model, batch, generator).backward()
            for name, part in self.parts.items():
                part.gather()
                if part.own.grad is not None:
                    square = part.own.grad.square() * batch.numel()
                    sums[name] = sums[name] + square if name in sums else square
            count += 1
            self.model.zero_grad()
            self.optimizer.zero_grad()
        self.fisher = {name: value / count for name, value in sums.items()}

    def stored_bytes(self) -> int:
        """Also of the Fisher matrix."""
        return super().stored_bytes() + size_of(*self.fisher.values())

    def pull(self) -> None:
        """Add ``strength F (W - W_0)``."""
        for name, part in self.parts.items():
            if part.own.grad is not None and name in self.fisher:
                away = (part.own - self.start[name]) * self.fisher[name]
                part.own.grad.add_(away, alpha=self.strength)

    def state_dict(self) -> Tree:
        """With the Fisher matrix."""
        return {**super().state_dict(), "fisher": dict(self.fisher)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore also the Fisher matrix."""
        super().load_state_dict(state)
        device = next(self.model.parameters()).device
        self.fisher = {name: value.to(device) for name, value in state["fisher"].items()}
