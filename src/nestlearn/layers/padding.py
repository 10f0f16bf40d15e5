"""Batches of sequences of different lengths: what is padding never reaches a memory.

Attention can look past a padded token; a memory would learn it. So the tokens of every sample are moved to
the front, where padding is behind them and no token sees it. Where the states after the tokens are asked for,
the batch is read in spans, and a sample leaves it with its last token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from nestlearn.layers.batches import LayerState, join_samples, select_samples, trimmed
from nestlearn.layers.mixer import Mixer


@dataclass(frozen=True)
class Padding:
    """Which columns of a piece ``[B, T]`` are tokens: one run of each row.

    Attributes:
        starts: First token of every row, ``[B]`` int64 on the CPU.
        lengths: Tokens of every row, ``[B]`` int64 on the CPU; they may be 0.
        mask: The same as bool ``[B, T]``, on the device of the piece.
    """

    starts: Tensor
    lengths: Tensor
    mask: Tensor

    @classmethod
    def of(cls, mask: Tensor | None) -> Padding | None:
        """The padding of a mask ``[B, T]``, nonzero at tokens; None where there is none.

        Raises:
            ValueError: If the tokens of a row are not one run.
        """
        if mask is None or bool(mask.all()):
            return None
        found = mask.bool()
        rows = found.cpu()
        starts, lengths = rows.int().argmax(1), rows.sum(1)
        place = torch.arange(rows.shape[1])
        run = (place >= starts[:, None]) & (place < (starts + lengths)[:, None])
        if not torch.equal(run, rows):
            row = int((run != rows).any(1).nonzero()[0])
            raise ValueError(
                f"attention_mask hides tokens between others in row {row}: padding is left or right of a "
                "sequence, and a memory cannot forget a token that it has read"
            )
        return cls(starts, lengths, found)

    def part(self, columns: int) -> Padding | None:
        """The padding of the first so many columns."""
        return Padding.of(self.mask[:, :columns])

    def aligned(self, x: Tensor) -> Tensor:
        """``[B, T, d]`` with the tokens of every row at its front."""
        return _shifted(x, self.starts)

    def back(self, y: Tensor) -> Tensor:
        """``[B, T, d]`` of aligned rows at their columns, zeros at padding."""
        return _shifted(y, -self.starts).masked_fill(~self.mask[:, :, None].to(y.device), 0)


def mix_padded(
    mixer: Mixer, x: Tensor, state: LayerState | None, padding: Padding | None, keep: bool = True
) -> tuple[Tensor, LayerState | None]:
    """What a mixer makes of sequences that may be padded: each is read as if it were alone.

    Args:
        mixer: Reads ``[B, T, d]`` from a state.
        x: ``[B, T, d]``.
        state: State before the piece, or None at the start of the sequences.
        padding: Which columns are tokens; None for all.
        keep: Whether the state afterwards is asked for: with padding it costs a pass for every length.

    Returns:
        ``[B, T, d]``, zeros at padding, and the state after each sample's last token if it was asked for.
    """
    if padding is None:
        y, after = mixer(x, state)
        return y, after
    rows = padding.aligned(x)
    if not keep and state is None:
        return padding.back(mixer(rows)[0]), None
    y, after = _in_spans(mixer, rows, state, padding.lengths)
    return padding.back(y), after


def _in_spans(
    mixer: Mixer, x: Tensor, state: LayerState | None, lengths: Tensor
) -> tuple[Tensor, LayerState]:
    """Aligned rows, read from length to length; rows leave with their last token."""
    if state is None and bool((lengths == 0).any()):
        state = cast(LayerState, mixer.initial(x))
    done: list[tuple[Tensor, LayerState]] = []
    spans, read = [], 0
    alive = torch.arange(len(x))
    for length in lengths.unique().tolist():
        if length > read:
            y, state = mixer(x[alive.to(x.device), read:length], state)
            spans.append(x.new_zeros(len(x), length - read, x.shape[2], dtype=y.dtype))
            spans[-1] = spans[-1].index_copy(0, alive.to(x.device), y)
        assert state is not None
        ends = lengths[alive] == length
        if bool(ends.any()):
            done.append((alive[ends], trimmed(select_samples(state, ends.nonzero()[:, 0]))))
        state = select_samples(state, (~ends).nonzero()[:, 0])
        alive, read = alive[~ends], length
    spans.append(
        x.new_zeros(len(x), x.shape[1] - read, x.shape[2], dtype=spans[0].dtype if spans else x.dtype)
    )
    whole = join_samples([part for _, part in done])
    order = torch.cat([index for index, _ in done]).argsort()
    return torch.cat(spans, dim=1), select_samples(whole, order)


def _shifted(x: Tensor, by: Tensor) -> Tensor:
    """Rows of ``[B, T, d]`` moved so many columns to the left; what comes in is never looked at."""
    place = (torch.arange(x.shape[1])[None] + by[:, None]).clamp(0, x.shape[1] - 1).to(x.device)
    return x.gather(1, place[:, :, None].expand_as(x))


__all__ = ["Padding", "mix_padded"]
