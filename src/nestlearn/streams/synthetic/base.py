"""What all synthetic tasks share: how a batch is drawn and what it holds."""

# Shapes: B = batch, T = tokens of a sequence.

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""Target where nothing is asked, which torch's cross entropy leaves out."""


class Batch(NamedTuple):
    """Drawn sequences with their answers.

    Attributes:
        input_ids: int64 ``[B, T]``.
        targets: Right answer at each place, int64 ``[B, T]``; ``IGNORED`` where nothing is asked.
        phase: Index into the task's ``phases``, int64 ``[B, T]``; -1 where nothing is asked.
    """

    input_ids: Tensor
    targets: Tensor
    phase: Tensor


@dataclass(frozen=True)
class Task(ABC):
    """A task: a distribution of sequences of one length, and the answers to what is asked in them."""

    phases: ClassVar[tuple[str, ...]] = ("all",)
    """Kinds of questions whose accuracy is reported apart."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens T of a sequence."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of different tokens; it does not depend on the length."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of guessing among the possible answers, between 0 and 1."""

    @abstractmethod
    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw a batch together with the kind of every question.

        Args:
            batch: Sequences B.
            generator: Where all randomness comes from; it is moved on.

        Returns:
            The batch.

        Raises:
            ValueError: ``batch`` below 1.
        """

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``(input_ids, targets)``, int64 ``[B, T]`` each; see :meth:`draw`."""
        drawn = self.draw(batch, generator)
        return drawn.input_ids, drawn.targets


def at_least(least: int, **values: int) -> None:
    """Refuse a number that is no integer or below a limit.

    Raises:
        ValueError: Naming the first such value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or not value >= least:
            raise ValueError(f"Invalid {name}: {value}. Must be a whole number of at least {least}.")


def at_most(limit: int, why: str, **values: int) -> None:
    """Refuse a number above a limit.

    Raises:
        ValueError: Naming the first such value and the reason.
    """
    for name, value in values.items():
        if not value <= limit:
            raise ValueError(f"Invalid {name}: {value}. Must be at most {limit}: {why}.")


def one_of(*choices: str, **values: str) -> None:
    """Refuse a word that is not among the choices.

    Raises:
        ValueError: Naming the first such value and the choices.
    """
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"Invalid {name}: {value!r}. Must be one of {', '.join(choices)}.")


def without_replacement(batch: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` different numbers below ``size`` for every sequence: int64 ``[B, count]``."""
    return torch.rand(batch, size, generator=generator).argsort(dim=1, stable=True)[:, :count]


def asked(targets: Tensor) -> Tensor:
    """Phase 0 wherever something is asked: int64 ``[B, T]``."""
    return torch.where(targets == IGNORED, -1, 0)
