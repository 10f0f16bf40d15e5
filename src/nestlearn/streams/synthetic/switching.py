"""A rule that changes inside the context, unannounced."""

# Shapes: B = batch, P = pairs of a sequence, S = symbols.

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from nestlearn.streams.synthetic.base import IGNORED, Batch, Task, at_least


@dataclass(frozen=True)
class SwitchingCipher(Task):
    """A substitution cipher whose table is replaced once, at a random place in the middle half.

    ``s1 c1 s2 c2 ...``: a symbol and its label under the table of the moment; the new table changes the label
    of every symbol. At a symbol its label is asked, which comes next, if the symbol has been shown under the
    same table before: ``before`` the switch; ``early`` after it, where the symbol has been shown once under
    the new table; and ``late``, where it has been shown more often. Symbols come first in the vocabulary.

    Args:
        pairs: Symbols with their labels in a sequence.
        symbols: Different symbols S that there are.
        labels: Different labels that there are.

    Raises:
        ValueError: A value that is no whole number or out of its range.
    """

    phases: ClassVar[tuple[str, ...]] = ("before", "early", "late")

    pairs: int = 64
    symbols: int = 8
    labels: int = 8

    def __post_init__(self) -> None:
        at_least(4, pairs=self.pairs)
        at_least(1, symbols=self.symbols)
        at_least(2, labels=self.labels)

    @property
    def length(self) -> int:
        """Two tokens for every pair."""
        return 2 * self.pairs

    @property
    def vocab_size(self) -> int:
        """Symbols and labels."""
        return self.symbols + self.labels

    @property
    def chance(self) -> float:
        """One of all labels."""
        return 1 / self.labels

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw a batch; see :meth:`Task.draw`."""
        at_least(1, batch=batch)
        symbols = torch.randint(self.symbols, (batch, self.pairs), generator=generator)
        old = torch.randint(self.labels, (batch, self.symbols), generator=generator)
        change = torch.randint(1, self.labels, (batch, self.symbols), generator=generator)
        quarter = self.pairs // 4
        switch = torch.randint(quarter, self.pairs - quarter + 1, (batch, 1), generator=generator)
        after = torch.arange(self.pairs) >= switch  # [B, P]
        labels = (old.gather(1, symbols) + after * change.gather(1, symbols)) % self.labels
        # How often each pair's symbol was shown earlier under the same table.
        shown = F.one_hot(symbols + self.symbols * after, 2 * self.symbols)  # [B, P, 2 S]
        seen = ((shown.cumsum(1) - shown) * shown).sum(-1)
        phase = torch.where(after, seen.clamp(max=2), seen.clamp(max=1) - 1)
        phase = torch.where(seen == 0, -1, phase)
        input_ids = torch.stack([symbols, self.symbols + labels], dim=2).flatten(1)
        nothing = torch.full_like(symbols, -1)
        answers = torch.where(phase < 0, IGNORED, self.symbols + labels)
        return Batch(
            input_ids,
            torch.stack([answers, torch.full_like(answers, IGNORED)], dim=2).flatten(1),
            torch.stack([phase, nothing], dim=2).flatten(1),
        )
