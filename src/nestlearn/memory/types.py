"""What the twins take and return.

Shape letters used in this room:
    B batch, H heads, N = B * H, M memories, T tokens, C tokens of a chunk, G gates,
    e width of a head, h hidden width of an MLP memory, o and i output and input width of a weight.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MemoryParameters(NamedTuple):
    """What the outer optimizer learns about the memories of one layer.

    Attributes:
        weights: Meta-learned initial states. Matrix memory: ``(W [M, H, e, e],)``; MLP memory:
            ``(W1 [M, H, e, h], W2 [M, H, h, e])``.
        gate_weight: ``[G, H, e]``, read-out of the gates in the order of ``rule.gate_names``.
        gate_bias: ``[G, H, 1]``, its bias; ``[G, H, e]`` for gates per channel.
        write_scale: ``[M, H]``, factor in [0, 1] on each memory's gradient.
        norm: Scale and shift of the inner norm, each ``[M, H, e]``; None without one.
    """

    weights: tuple[Tensor, ...]
    gate_weight: Tensor
    gate_bias: Tensor
    write_scale: Tensor
    norm: tuple[Tensor, Tensor] | None = None


class Streams(NamedTuple):
    """What the memories are read at, each ``[B, H, T, e]``.

    Attributes:
        key: Input of the key, learning-rate and retention memories and of the momentum's gate.
        value: Input of the value memory.
        query: The query before it is normalised; input of the query memory if there is one.
    """

    key: Tensor
    value: Tensor
    query: Tensor


class MemoryState(NamedTuple):
    """Everything that the memories of one layer carry from one piece of a sequence to the next.

    Its size does not depend on how much was read.

    Attributes:
        weights: Running fast weights, per sample, ``[B, H, M, ...]``, at least float32: the memories
            themselves, or what was added to their initial states (``rule.rest``).
        snapshot: Fast weights at each memory's last chunk boundary, of the same shapes; the same tensors as
            ``weights`` when every sample is at a boundary.
        momentum: ``S_t``, of the same shapes; empty without momentum.
        position: Tokens since the last boundary of the larger chunk, ``[B]`` int64 on the CPU. Samples of
            different ages may be one batch.
    """

    weights: tuple[Tensor, ...]
    snapshot: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]
    position: Tensor
