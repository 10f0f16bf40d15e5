"""When each memory takes a new snapshot: the clock of the chunks, for both twins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nestlearn.memory.rule import MemoryRule

Weights = tuple[Tensor, ...]


class Piece(NamedTuple):
    """Tokens between two boundaries.

    Attributes:
        length: Number of tokens.
        due: For the projection memories and the main memory: which samples are at a boundary after it.
        cut: Whether the graph ends after it (``rule.backprop_chunks``).
    """

    length: int
    due: tuple[tuple[bool, ...], tuple[bool, ...]]
    cut: bool


def pieces(position: Tensor, tokens: int, rule: MemoryRule) -> Iterator[Piece]:
    """Divide the next tokens at every sample's boundaries.

    Args:
        position: ``[B]`` on the CPU, tokens since the last boundary of the larger chunk.
        tokens: How many there are.
        rule: Chunk sizes.

    Yields:
        The pieces in order. With samples of one age, each ends at a boundary of the smaller chunk.
    """
    ages: list[int] = position.tolist()
    small, large = sorted(rule.chunk_sizes)
    done, between = 0, (rule.backprop_chunks or 0) * small
    while tokens:
        length = min(tokens, *(small - age % small for age in ages))
        if between:
            length = min(length, between - done % between)
        ages = [(age + length) % large for age in ages]
        projections, main = (tuple(age % size == 0 for age in ages) for size in rule.chunk_sizes)
        done += length
        cut = between > 0 and done % between == 0
        tokens -= length
        yield Piece(length, (projections, main), cut)


def advance(position: Tensor, tokens: int, rule: MemoryRule) -> Tensor:
    """The positions after so many more tokens."""
    return (position + tokens) % max(rule.chunk_sizes)


def refresh(snapshot: Weights, running: Weights, piece: Piece, rule: MemoryRule) -> Weights:
    """New snapshots after a piece: the running weights of the memories and samples that are due.

    Args:
        snapshot: ``[B, H, M, o, i]`` each, or ``[B H, M, o, i]``.
        running: The same shapes.
        piece: The piece that was just written.
        rule: The order of the memories.

    Returns:
        ``running`` itself if all are due, ``snapshot`` itself if none is.
    """
    projections, main = piece.due
    relevant = (*projections, *main) if len(rule.names) > 1 else main
    if all(relevant):
        return running
    if not any(relevant):
        return snapshot
    count = len(rule.names) - 1
    due = torch.tensor([[p] * count + [m] for p, m in zip(projections, main, strict=True)])
    leading = running[0].shape[:-2]
    due = due.repeat_interleave(leading[:-1].numel() // len(main), dim=0)
    due = due.view(*leading, 1, 1).to(running[0].device)
    return tuple(torch.where(due, new, old) for new, old in zip(running, snapshot, strict=True))
