"""The words that the twins share: which memories there are, how they are written, and their state.

Shape letters used in this room:
    B batch, H heads, M memories, T tokens, C tokens of a chunk, P pending tokens,
    e width of a head, h hidden width of an MLP memory, o and i output and input width of a weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

MemoryKind = Literal["matrix", "mlp"]
Objective = Literal["l2", "dot"]
MainTarget = Literal["value", "generated"]

#: The memories of self-modifying Titans in the order in which they are stacked (Eq. 83, 86).
PROJECTIONS = ("key", "value", "rate", "retention")
MAIN = "main"
QUERY = "query"


@dataclass(frozen=True)
class MemoryRule:
    """How the memories of one layer are read and written (SPEC 4.1 to 4.4).

    Attributes:
        kind: ``"matrix"``, ``f(z) = W z``, or ``"mlp"``, ``f(z) = W1 phi(W2 z)`` (Eq. 89), where ``phi``
            is GELU scaled to a length below one. The projection
            memories and every MLP memory add their input, ``M(z) = z + f(z)``; a main matrix memory does not
            (Eq. 92, 93).
        objective: Inner loss of a write, ``"dot"`` for ``-<M(k), v>`` (Eq. 92) or ``"l2"`` for
            ``1/2 ||M(k) - v||^2`` (Eq. 93). With the erase, "dot" is the delta rule and never grows for
            ``rate_max <= 1``; "l2" takes ``W k`` away twice, at the running state and at the snapshot, and a
            chunk can multiply the state by up to -3.
        erase: Delta gradient descent's erase ``W (alpha I - eta k k^T)`` (Eq. 88); off is plain gradient
            descent with weight decay, the ablation "w/o DGD" of Table 6.
        chunk_size: Tokens whose keys, values and gradients are taken at the same snapshot (Eq. 90).
        causal_reads: Read the main memory at the running state ``M_t``, not at the snapshot.
        unit_targets: Self-generated targets of the projection memories have unit length.
        main_target: The main memory stores ``v_t`` (``"value"``, Eq. 82) or ``v_t + f(v_t)``
            (``"generated"``, Eq. 84).
        adaptive: The projections are memories that are written in context; off leaves them at their
            initial state, which makes the layer a (gated) delta rule or Titans' memory.
        adaptive_query: The query projection is a memory too (Table 6, "inner-projection q").
        rate_max: Upper end of the learning rate's range, ``eta = rate_max * sigmoid(.)``. The eigenvalue of
            a write along its key is ``alpha - eta`` (``"dot"``) or ``alpha - 2 eta`` (``"l2"``, chunk 1).
            Up to 2 and 1 are accepted, where it reaches -1 at full retention, which state tracking needs;
            below full retention such a rate overshoots, and only ``rate_max <= 1`` with ``"dot"`` is
            bounded for every gate.

    Raises:
        ValueError: For a value outside its range, naming the value.
    """

    kind: MemoryKind = "mlp"
    objective: Objective = "dot"
    erase: bool = True
    chunk_size: int = 16
    causal_reads: bool = True
    unit_targets: bool = True
    main_target: MainTarget = "value"
    adaptive: bool = True
    adaptive_query: bool = False
    rate_max: float = 1.0

    def __post_init__(self) -> None:
        _choice("memory", self.kind, ("matrix", "mlp"))
        _choice("objective", self.objective, ("l2", "dot"))
        _choice("main_target", self.main_target, ("value", "generated"))
        if not self.chunk_size >= 1:
            raise ValueError(f"chunk_size must be at least 1, got {self.chunk_size}")
        limit = 2.0 if self.objective == "dot" else 1.0
        if not (math.isfinite(self.rate_max) and 0.0 < self.rate_max <= limit):
            raise ValueError(
                f"rate_max must be in (0, {limit}] for objective {self.objective!r}, got {self.rate_max}: "
                "beyond it the memory grows without bound even at full retention"
            )
        if self.adaptive_query and not self.adaptive:
            raise ValueError("adaptive_query=True needs adaptive=True: a static layer writes no projection")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the memories in stacking order; the main memory is always last."""
        return (*PROJECTIONS, *((QUERY,) if self.adaptive_query else ()), MAIN)

    @property
    def main_adds_input(self) -> bool:
        """Whether the main memory is ``z + f(z)`` rather than ``f(z)``."""
        return self.kind == "mlp"


class MemoryParameters(NamedTuple):
    """What the outer optimizer learns about the memories of one layer.

    Attributes:
        weights: Meta-learned initial states. Matrix memory: ``(W [M, H, e, e],)``; MLP memory:
            ``(W1 [M, H, e, h], W2 [M, H, h, e])``.
        gate_weight: ``[2, H, e]``, read-out of the learning-rate and the retention memory.
        gate_bias: ``[2, H]``, its bias.
        write_scale: ``[M, H]``, factor in [0, 1] on each memory's gradient.
    """

    weights: tuple[Tensor, ...]
    gate_weight: Tensor
    gate_bias: Tensor
    write_scale: Tensor


class Streams(NamedTuple):
    """What the memories are read at, each ``[B, H, T, e]``.

    Attributes:
        key: Input of the key, learning-rate and retention memories.
        value: Input of the value memory.
        query: The query before it is normalised; input of the query memory if there is one.
    """

    key: Tensor
    value: Tensor
    query: Tensor


class MemoryState(NamedTuple):
    """Everything that the memories of one layer carry from one piece of a sequence to the next.

    Attributes:
        weights: Fast weights at the last chunk boundary, per sample, ``[B, H, M, ...]``.
        pending: Streams of the unfinished chunk, each ``[B, H, P, e]`` with ``0 <= P < chunk_size``.
    """

    weights: tuple[Tensor, ...]
    pending: Streams


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
