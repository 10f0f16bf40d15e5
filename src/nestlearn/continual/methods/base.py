"""What all ways of learning on share, so that they can be compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Tree = dict[str, Any]


def causal_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of a causal language model's next tokens, in nats.

    Args:
        model: Called with ``input_ids`` and ``labels``, as Hugging Face's are.
        batch: Token ids ``[B, T + 1]``.
    """
    loss: Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss
    return loss


def drawn_loss(model: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
    """Cross-entropy of labels that the model itself draws: its gradients are those of the Fisher matrix.

    Args:
        model: A causal language model.
        batch: Token ids ``[B, T]``.
        generator: Of the draws, on the model's device.

    Raises:
        ValueError: If the model's predictions are not finite.
    """
    logits: Any = model(input_ids=batch, use_cache=False).logits
    logits = logits.flatten(0, 1).float()
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the model's predictions on the old text are not finite: it cannot be calibrated")
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).flatten()
    return F.cross_entropy(logits, labels)


class Method(ABC):
    """A way of learning on: which parameters of a model change, and how.

    Attributes:
        name: As it is called in files and on the command line.
        model: The model that learns; it shares what does not change with the base.
    """

    name: ClassVar[str]
    model: nn.Module

    @property
    @abstractmethod
    def settings(self) -> Tree:
        """What the method was made with, as JSON knows it."""

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, Any], learned: Mapping[str, Any]) -> Method:
        """The method as a file describes it.

        Args:
            settings: What :attr:`settings` was.
            learned: What :meth:`learned` returned.
        """

    @abstractmethod
    def attach(self, base: nn.Module) -> None:
        """Take a model to learn on, which stays as it is."""

    def unattached(self) -> None:
        """Refuse a second model: the state of the first would be taken for its own.

        Raises:
            ValueError: If the method has a model.
        """
        if hasattr(self, "model"):
            raise ValueError(f"this method ({self.name}) has a model already: make a new one for another")

    @property
    def old_tokens(self) -> int:
        """Tokens of old text that are of use, where that is more than a learner's ``calibration_tokens``."""
        return 0

    @property
    def wants_old(self) -> bool:
        """Whether :meth:`calibrate` has to be called before the first step."""
        return False

    def calibrate(self, batches: Iterable[Tensor], seed: int = 0) -> None:  # noqa: B027
        """Take in what is to be kept.

        Args:
            batches: Token ids ``[B, T]`` of the old distribution.
            seed: Of what is drawn.
        """

    def keep(self) -> bool:
        """Protect what was learned so far from what comes next.

        Returns:
            Whether the method can, and has seen enough of it.
        """
        return False

    @abstractmethod
    def step(self, batch: Tensor) -> float:
        """Learn from one batch.

        Args:
            batch: Token ids ``[B, T + 1]``.

        Returns:
            The loss before, in nats a token.

        Raises:
            NonFiniteGradientError: If the loss or a gradient is not finite; nothing has changed then.
        """

    def stored_bytes(self) -> int:
        """Bytes that are kept from subject to subject besides weights and the optimizer's state."""
        return 0

    def finish(self) -> None:  # noqa: B027
        """Called at the end of a stream."""

    @abstractmethod
    def learned(self) -> Tree:
        """What is different from the base: tensors by name, and nothing else."""

    @abstractmethod
    def apply(self, learned: Mapping[str, Any]) -> None:
        """Put what :meth:`learned` returned into the model.

        Raises:
            ValueError: If it does not fit; nothing has changed then.
        """

    @abstractmethod
    def reset(self, level: str | None = None) -> None:
        """Forget what was learned, in one level or in all.

        Raises:
            ValueError: For an unknown level.
        """

    @abstractmethod
    def changes(self) -> Sequence[Change]:
        """How far each part of the model has moved from the base."""

    @abstractmethod
    def state_dict(self) -> Tree:
        """Everything that the next step depends on."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; learning then goes on bit for bit."""

    def close(self) -> None:  # noqa: B027  (most attach nothing)
        """Take whatever was attached off the model."""


class Change:
    """How far some parameters have moved from the base.

    Attributes:
        name: Of the level, or of the method.
        parameters: How many numbers could change.
        changed: How many did.
        distance: Length of the change.
        relative: The same over the length of the base's values.
        updates: How often they were updated.
    """

    def __init__(self, name: str, pairs: Iterable[tuple[Tensor, Tensor]], updates: int) -> None:
        self.name, self.updates = name, updates
        self.parameters = self.changed = 0
        moved = start = 0.0
        for before, now in pairs:
            first, second = before.detach().cpu().double(), now.detach().cpu().double()
            self.parameters += first.numel()
            self.changed += int((first != second).sum())
            moved += float((second - first).square().sum())
            start += float(first.square().sum())
        self.distance = moved**0.5
        self.relative = self.distance / start**0.5 if start else 0.0

    def __repr__(self) -> str:
        return (
            f"{self.name}: {self.changed:,} of {self.parameters:,} numbers changed in {self.updates} "
            f"updates, by {100 * self.relative:.3g} % of their length"
        )
