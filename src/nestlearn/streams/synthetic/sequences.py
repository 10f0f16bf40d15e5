"""State along a sequence: running parity, products of permutations, and copying."""

# Shapes: B = batch, T = tokens of a sequence, N = elements of a group.

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from nestlearn.streams.synthetic.base import IGNORED, Batch, Task, asked, at_least, at_most, one_of


@dataclass(frozen=True)
class Parity(Task):
    """Running parity: bits in, and at every place whether the ones so far are odd.

    Bits drawn evenly hardly ever have long runs of zeros or of ones, and a state that fades within such a run
    is not noticed in training. With mixed densities every second sequence has its own, so that they occur.

    Args:
        length: Bits of a sequence.
        densities: Probability of a one: ``"even"``, one half everywhere, or ``"mixed"``, in every second
            sequence of a batch a number of its own, uniform between 0 and 1.

    Raises:
        ValueError: A length below 1 or no whole number, or densities of another name.
    """

    length: int = 32
    densities: str = "even"

    def __post_init__(self) -> None:
        at_least(1, length=self.length)
        one_of("even", "mixed", densities=self.densities)

    @property
    def vocab_size(self) -> int:
        """0 and 1."""
        return 2

    @property
    def chance(self) -> float:
        """One of two."""
        return 0.5

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw a batch; see :meth:`Task.draw`."""
        at_least(1, batch=batch)
        bits = self._bits(batch, generator)
        targets = bits.cumsum(1) % 2
        return Batch(bits, targets, asked(targets))

    def _bits(self, batch: int, generator: torch.Generator) -> Tensor:
        """Int64 ``[B, T]``."""
        if self.densities == "even":
            return torch.randint(2, (batch, self.length), generator=generator)
        density = torch.rand(batch, 1, generator=generator)
        density[::2] = 0.5
        return (torch.rand(batch, self.length, generator=generator) < density).to(torch.int64)


@dataclass(frozen=True)
class PermutationTracking(Task):
    """The word problem of a symmetric group: permutations in, and at every place their product so far.

    Tokens and answers are the permutations of ``degree`` things in lexicographic order. The answer at t is
    ``p_t ∘ ... ∘ p_2 ∘ p_1``: the first token acts first. With five things a constant-depth circuit of
    thresholds is believed not to be enough (Barrington 1989).

    Args:
        degree: Things that are permuted: 3 gives S3 with 6 elements, 5 gives S5 with 120.
        length: Permutations of a sequence.

    Raises:
        ValueError: A degree outside 2..5, or a length below 1.
    """

    degree: int = 3
    length: int = 32

    def __post_init__(self) -> None:
        at_least(2, degree=self.degree)
        at_most(5, "the answers are all permutations, and there are factorially many", degree=self.degree)
        at_least(1, length=self.length)

    @property
    def vocab_size(self) -> int:
        """Permutations of ``degree`` things."""
        return math.factorial(self.degree)

    @property
    def chance(self) -> float:
        """One of all permutations."""
        return 1 / self.vocab_size

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw a batch; see :meth:`Task.draw`."""
        at_least(1, batch=batch)
        input_ids = torch.randint(self.vocab_size, (batch, self.length), generator=generator)
        table, targets, reach = products(self.degree), input_ids, 1
        # After a round, each place holds the product of the last 2 * reach tokens up to it.
        while reach < self.length:
            joined = table[targets[:, reach:], targets[:, :-reach]]
            targets = torch.cat([targets[:, :reach], joined], dim=1)
            reach *= 2
        return Batch(input_ids, targets, asked(targets))


@cache
def products(degree: int) -> Tensor:
    """Multiplication table of a symmetric group, ``[later, earlier]``: int64 ``[N, N]``."""
    elements = torch.tensor(list(permutations(range(degree))))  # [N, degree]
    composed = elements[:, elements]  # [N, N, degree]: later(earlier(i))
    weights = degree ** torch.arange(degree)
    codes = (elements * weights).sum(-1)
    order = codes.argsort()
    return order[torch.searchsorted(codes[order], (composed * weights).sum(-1))]


@dataclass(frozen=True)
class Copying(Task):
    """Copy a sequence after a marker: ``s1 ... sn``, fillers, marker, ``s1 ... s(n-1)``.

    Asked from the marker on is the next symbol, as of a language model that writes the copy. A random part of
    the fillers comes before the sequence, so that the distance to the copy is another in every sequence:
    attention with rotary positions learns a distance that is always the same by heart, and no other. Token 0
    is the filler, 1 the marker, then come the symbols.

    Args:
        symbols: Symbols n to copy.
        vocab: Different symbols that there are.
        delay: Fillers before the sequence and the marker together.

    Raises:
        ValueError: A value that is no whole number or out of its range.
    """

    symbols: int = 32
    vocab: int = 32
    delay: int = 0

    def __post_init__(self) -> None:
        at_least(1, symbols=self.symbols)
        at_least(2, vocab=self.vocab)
        at_least(0, delay=self.delay)

    @property
    def length(self) -> int:
        """The sequence, the delay, the marker and the copy but for its last symbol."""
        return 2 * self.symbols + self.delay

    @property
    def vocab_size(self) -> int:
        """Filler, marker and symbols."""
        return 2 + self.vocab

    @property
    def chance(self) -> float:
        """One of all symbols."""
        return 1 / self.vocab

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw a batch; see :meth:`Task.draw`."""
        at_least(1, batch=batch)
        text = 2 + torch.randint(self.vocab, (batch, self.symbols), generator=generator)
        start = torch.randint(self.delay + 1, (batch, 1), generator=generator)
        places = start + torch.arange(self.symbols)  # [B, n]
        before = text.new_zeros(batch, self.symbols + self.delay).scatter_(1, places, text)
        input_ids = torch.cat([before, torch.ones_like(text[:, :1]), text[:, :-1]], dim=1)
        targets = torch.cat([torch.full_like(before, IGNORED), text], dim=1)
        return Batch(input_ids, targets, asked(targets))
