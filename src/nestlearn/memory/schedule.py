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
        due: For the projection memories and the main memory: which samples are at a boundary after it. In a
            graph that is being traced, where positions have no values yet, bool ``[B]`` tensors.
        cut: Whether the graph ends after it (``rule.backprop_chunks``).
    """

    length: int
    due: tuple[tuple[bool, ...], tuple[bool, ...]] | tuple[Tensor, Tensor]
    cut: bool


def pieces(ages: list[int], tokens: int, rule: MemoryRule) -> Iterator[Piece]:
    """Divide the next tokens at every sample's boundaries.

    Args:
        ages: Tokens of each sample since the last boundary of the larger chunk.
        tokens: How many there are.
        rule: Chunk sizes.

    Yields:
        The pieces in order. With samples of one age, each ends at a boundary of the smaller chunk.
    """
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


def planned(state_position: Tensor | None, batch: int, tokens: int, rule: MemoryRule) -> list[Piece]:
    """The pieces of the next tokens.

    A graph that ``torch.compile`` or ``torch.export`` traces has no values to branch on: from the start of a
    sequence positions are known, and one token is one piece wherever it stands.

    Args:
        state_position: ``[B]`` on the CPU; None at the start of a sequence.
        batch: Samples.
        tokens: How many there are.
        rule: Chunk sizes.
    """
    if state_position is None:
        return list(pieces([0] * batch, tokens, rule))
    if tokens == 1 and torch.compiler.is_compiling():
        due = [(state_position + 1) % size == 0 for size in rule.chunk_sizes]
        return [Piece(1, (due[0], due[1]), False)]
    return list(pieces(state_position.tolist(), tokens, rule))


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
    count = len(rule.names) - 1
    if isinstance(projections, Tensor):
        due = torch.stack([*(projections,) * count, main], dim=-1)  # type: ignore[list-item]
    else:
        relevant = (*projections, *main) if count else main
        if all(relevant):
            return running
        if not any(relevant):
            return snapshot
        due = torch.tensor([[p] * count + [m] for p, m in zip(projections, main, strict=True)])
    leading = running[0].shape[:-2]
    due = due.repeat_interleave(leading[:-1].numel() // due.shape[0], dim=0)
    due = due.view(*leading, 1, 1).to(running[0].device)
    return tuple(torch.where(due, new, old) for new, old in zip(running, snapshot, strict=True))
