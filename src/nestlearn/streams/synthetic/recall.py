"""Recall: pairs of a key and a value, and later keys whose value is asked for."""

# Shapes: B = batch, T = tokens of a sequence, P = pairs, W = writes of each key, Q = queries.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nestlearn.streams.synthetic.base import (
    IGNORED,
    Batch,
    Task,
    asked,
    at_least,
    at_most,
    without_replacement,
)


@dataclass(frozen=True)
class MultiQueryRecall(Task):
    """Multi-query associative recall (MQAR, Arora et al. 2023, arXiv:2312.04927).

    ``k1 v1 k2 v2 ... kP vP`` and then, at random places between fillers, some of these keys again, each
    asking for its value. Keys are different from each other, values need not be. Token 0 is the filler, then
    come the keys, then the values.

    Args:
        pairs: Pairs P of a sequence.
        queries: Keys asked for, each once; None for all.
        keys: Different keys that there are.
        values: Different values that there are.
        gap: Fillers; they make the context longer without anything to learn.

    Raises:
        ValueError: A value that is no whole number or out of its range, more pairs than keys, or more queries
            than pairs.
    """

    pairs: int = 8
    queries: int | None = None
    keys: int = 64
    values: int = 64
    gap: int = 0

    def __post_init__(self) -> None:
        at_least(1, pairs=self.pairs, queries=self._queries, keys=self.keys)
        at_least(2, values=self.values)
        at_least(0, gap=self.gap)
        at_most(self.keys, f"there are only {self.keys} different keys", pairs=self.pairs)
        at_most(self.pairs, "each key is asked for once", queries=self._queries)

    @property
    def _queries(self) -> int:
        return self.pairs if self.queries is None else self.queries

    @property
    def _writes(self) -> int:
        """How often each key is given a value."""
        return 1

    @property
    def length(self) -> int:
        """Two tokens for every write, one for every query and filler."""
        return 2 * self.pairs * self._writes + self._queries + self.gap

    @property
    def vocab_size(self) -> int:
        """Filler, keys and values."""
        return 1 + self.keys + self.values

    @property
    def chance(self) -> float:
        """One of all values."""
        return 1 / self.values

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw a batch; see :meth:`Task.draw`."""
        at_least(1, batch=batch)
        keys = 1 + without_replacement(batch, self.pairs, self.keys, generator)  # [B, P]
        values = 1 + self.keys + self._values(batch, generator)  # [B, P, W]
        total = self.pairs * self._writes
        slots = without_replacement(batch, total, total, generator)
        # Key p is written at the places slots[:, p]; its values come in the order of these places.
        slots = slots.view(batch, self.pairs, self._writes).sort(dim=2).values  # [B, P, W]
        input_ids = torch.zeros(batch, self.length, dtype=torch.int64)
        input_ids.scatter_(1, 2 * slots.flatten(1), keys.repeat_interleave(self._writes, dim=1))
        input_ids.scatter_(1, 2 * slots.flatten(1) + 1, values.flatten(1))
        targets = torch.full_like(input_ids, IGNORED)
        chosen = without_replacement(batch, self._queries, self.pairs, generator)  # [B, Q]
        places = 2 * total + without_replacement(batch, self._queries, self._queries + self.gap, generator)
        input_ids.scatter_(1, places, keys.gather(1, chosen))
        targets.scatter_(1, places, values[:, :, -1].gather(1, chosen))
        return Batch(input_ids, targets, asked(targets))

    def _values(self, batch: int, generator: torch.Generator) -> Tensor:
        """Every key's values in the order in which it gets them, each unlike the last: ``[B, P, W]``."""
        shape = (batch, self.pairs)
        first = torch.randint(self.values, (*shape, 1), generator=generator)
        steps = torch.randint(1, self.values, (*shape, self._writes - 1), generator=generator)
        return torch.cat([first, steps], dim=2).cumsum(2) % self.values


@dataclass(frozen=True)
class OverwritingRecall(MultiQueryRecall):
    """Recall of the latest value: every key is given a new value several times, in random order.

    A key's new value always differs from its last one, so that a memory which keeps the old is wrong.

    Args:
        pairs: Different keys P of a sequence.
        queries: Keys asked for, each once; None for all.
        keys: Different keys that there are.
        values: Different values that there are.
        gap: Fillers between the queries.
        writes: How often every key is given a value.

    Raises:
        ValueError: See :class:`MultiQueryRecall`.
    """

    writes: int = 4

    def __post_init__(self) -> None:
        at_least(1, writes=self.writes)
        super().__post_init__()

    @property
    def _writes(self) -> int:
        return self.writes
