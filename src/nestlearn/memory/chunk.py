"""Self-modifying Titans a chunk at a time: the parallel twin of :mod:`nestlearn.memory.naive`.

Every key, value, gate and gradient of a chunk comes from the snapshot at its start, so the writes are a
linear recurrence that one triangular system solves exactly (:mod:`nestlearn.memory.write`). Batch and heads
are one axis N and all memories one stack: few and large products. Autograd differentiates through every
write.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nestlearn.memory import fused
from nestlearn.memory.functional import check_inputs, initial_state, wide
from nestlearn.memory.rule import MemoryRule
from nestlearn.memory.schedule import Piece, advance, planned, refresh
from nestlearn.memory.stack import Layer
from nestlearn.memory.step import Fast, step
from nestlearn.memory.types import MemoryParameters, MemoryState, Streams
from nestlearn.memory.write import delta_write


def self_modifying(
    streams: Streams,
    parameters: MemoryParameters,
    state: MemoryState | None,
    rule: MemoryRule,
) -> tuple[Tensor, MemoryState]:
    """Self-modifying Titans (Eq. 83 to 93), a chunk at a time.

    Same arguments and results as :func:`nestlearn.memory.naive.self_modifying`. The memories compute in at
    least float32, under autocast too.

    Args:
        streams: Inputs of the memories, each ``[B, H, T, e]``.
        parameters: Initial states, gates and write scales.
        state: State after the previous piece, or None at the start of a sequence.
        rule: Which memories there are and how they are written.

    Returns:
        Reads of the main memory ``[B, H, T, e]`` and the state after the last token.

    Raises:
        ValueError: If the state does not fit the parameters, the batch or the rule.
    """
    position = None if state is None else state.position
    state = initial_state(parameters, streams, rule) if state is None else state
    check_inputs(streams, parameters, state, rule)
    if fused.supports(streams, state, parameters, rule):
        return fused.run(streams, parameters, state, rule)
    batch, heads, length, _ = streams.key.shape
    with torch.autocast(streams.key.device.type, enabled=False):
        layer = Layer.of(parameters, rule, batch)
        columns = [wide(s).mT.flatten(0, 1) for s in streams]
        running = tuple(w.flatten(0, 1) for w in state.weights)
        same = all(new is old for new, old in zip(state.weights, state.snapshot, strict=True))
        snapshot = running if same else tuple(w.flatten(0, 1) for w in state.snapshot)
        fast = Fast(running, snapshot, tuple(w.flatten(0, 1) for w in state.momentum))
        reads = []
        for group in _groups(planned(position, batch, length, rule), columns, rule):
            fast, y = _run(group, fast, layer)
            reads += y
        y = torch.cat(reads, dim=-1).mT.unflatten(0, (batch, heads)).to(streams.key.dtype)
    running = tuple(w.unflatten(0, (batch, heads)) for w in fast.running)
    snapshot = running if fast.at_boundary else tuple(w.unflatten(0, (batch, heads)) for w in fast.snapshot)
    momentum = tuple(w.unflatten(0, (batch, heads)) for w in fast.momentum)
    return y, MemoryState(running, snapshot, momentum, advance(state.position, length, rule))


def _groups(
    plan: list[Piece], columns: list[Tensor], rule: MemoryRule
) -> Iterator[list[tuple[Piece, Streams]]]:
    """The pieces with their tokens, in groups that keep only their first state for the backward pass."""
    parts = zip(*(c.split([piece.length for piece in plan], dim=-1) for c in columns), strict=True)
    work = [(piece, Streams(*part)) for piece, part in zip(plan, parts, strict=True)]
    size = rule.checkpoint_chunks or 1
    for start in range(0, len(work), size):
        yield work[start : start + size]


def _run(group: list[tuple[Piece, Streams]], fast: Fast, layer: Layer) -> tuple[Fast, list[Tensor]]:
    """Some pieces, one after the other."""

    def run(
        running: tuple[Tensor, ...], snapshot: tuple[Tensor, ...], momentum: tuple[Tensor, ...]
    ) -> tuple[Fast, list[Tensor]]:
        fast, reads = Fast(running, snapshot, momentum), []
        for piece, x in group:
            running, momentum, y = step(x, fast, layer)
            fast = _after(Fast(running, fast.snapshot, momentum), piece, layer.rule)
            reads.append(y)
        return fast, reads

    if layer.rule.checkpoint_chunks and torch.is_grad_enabled():
        result: tuple[Fast, list[Tensor]] = checkpoint(run, *fast, use_reentrant=False)
        return result
    return run(*fast)


def _after(fast: Fast, piece: Piece, rule: MemoryRule) -> Fast:
    """The state after a piece: new snapshots where they are due, and the graph cut where it ends."""
    fast = fast._replace(snapshot=refresh(fast.snapshot, fast.running, piece, rule))
    if not piece.cut:
        return fast
    running = tuple(w.detach() for w in fast.running)
    same = fast.at_boundary
    snapshot = running if same else tuple(w.detach() for w in fast.snapshot)
    return Fast(running, snapshot, tuple(w.detach() for w in fast.momentum))


__all__ = ["delta_write", "self_modifying"]
