"""How the memories of one layer are read and written: every choice of the paper, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

MemoryKind = Literal["matrix", "mlp"]
Activation = Literal["silu", "gelu", "relu"]
Features = Literal["bounded", "plain"]
Objective = Literal["l2", "dot"]
Erase = Literal["layers", "input", "none"]
MainTarget = Literal["value", "generated"]
Rate = Literal["bound", "gated", "one"]
Retention = Literal["gated", "fixed", "none"]
Gates = Literal["head", "channel"]
Rest = Literal["initial", "zero"]

#: The projection memories in the order in which they are stacked: those that read the key stream first.
PROJECTIONS = ("key", "rate", "retention", "value")
QUERY = "query"
MAIN = "main"

_CHOICES = {
    "kind": MemoryKind,
    "activation": Activation,
    "features": Features,
    "objective": Objective,
    "erase": Erase,
    "main_target": MainTarget,
    "rate": Rate,
    "retention": Retention,
    "gates": Gates,
    "rest": Rest,
}


@dataclass(frozen=True)
class MemoryRule:
    """How the memories of one layer are read and written (SPEC 4.1 to 4.4).

    With ``g_t`` the gradient of the inner loss by a memory's output at the snapshot, a weight whose input
    is ``k_t`` is written by

        ``W_t = W_{t-1} (alpha_t I - eta_t k_t k_t^T) - eta_t g_t k_t^T``                  (Eq. 88)

    Attributes:
        kind: ``"matrix"``, ``f(z) = W z``, or ``"mlp"``, ``f(z) = W1 phi(W2 z)`` (Eq. 89). The projection
            memories add their input, ``M(z) = z + f(z)``.
        main_residual: The main memory adds its input too (Eq. 89; not in Eq. 92 and 93).
        activation: ``sigma`` of an MLP memory.
        features: ``phi`` of an MLP memory: ``"bounded"``, ``s / sqrt(1 + |s|^2)`` with
            ``s = sigma(W2 z)``, shorter than one, or ``"plain"``, ``s`` itself, the paper's.
        inner_norm: ``M(z) = z + LayerNorm(f(z))`` with a learned scale and shift, as in TTT and MIRAS.
        objective: Inner loss of a write, ``"dot"`` for ``-<M(k), v>`` (Eq. 92) or ``"l2"`` for
            ``1/2 ||M(k) - v||^2`` (Eq. 93). With the erase, "dot" is the delta rule and never grows for
            ``rate_max <= 1``; "l2" takes ``W k`` away twice, at the running state and at the snapshot, and a
            chunk can multiply the state by up to -3.
        erase: Where delta gradient descent's erase ``- eta W k k^T`` is: in both ``"layers"`` of an MLP
            memory, each with its own input of bounded length, in the ``"input"`` matrix only (Eq. 88 as it
            type-checks), or in ``"none"``, plain gradient descent with weight decay ("w/o DGD" of Table 6).
            A matrix memory has one layer, its input matrix.
        chunk_size: Tokens after which the main memory takes a new snapshot (Eq. 90).
        projection_chunk_size: The same for the projection memories; None is ``chunk_size``. One of the two
            is a multiple of the other.
        causal_reads: Read the main memory at the running state ``M_t``, not at the snapshot.
        unit_targets: Self-generated targets of the projection memories have unit length.
        main_target: The main memory stores ``v_t`` (``"value"``, Eq. 82) or ``v_t + f(v_t)``
            (``"generated"``, Eq. 84).
        adaptive: Which projections are memories that are written in context, of ``key``, ``value``,
            ``rate``, ``retention`` and ``query``. The others are the layer's static projections. None at
            all is a (gated) delta rule or Titans' memory.
        momentum: ``S_t = b_t S_{t-1} - eta_t g_t k_t^T`` takes the place of the written term (Titans;
            SPEC 6.13), with ``b_t = momentum_max * sigmoid(.)``.
        momentum_max: Upper end of the momentum's range.
        rate: ``eta_t`` is ``"bound"`` by the retention, ``rate_max * sigmoid(.) * (1 + alpha_t) / 2``;
            ``"gated"``, without the last factor; or always ``"one"``.
        rate_max: Upper end of the learning rate's range. The eigenvalue of a write along its key is
            ``alpha - eta`` (``"dot"``) or ``alpha - 2 eta`` (``"l2"``, chunk 1). It may reach -1, which
            state tracking needs, but not pass it: up to 2 and 1 are accepted. A rate that is bound by the
            retention keeps to that at every gate: "dot" then never lengthens a memory, and with
            ``rate_max = 1`` the eigenvalue lies between -1/2 and 1.
        retention: ``alpha_t`` is ``"gated"``, ``sigmoid(.)``; ``"fixed"``, ``1 - 2^(-5-h)`` in head h, as in
            RetNet; or there is ``"none"``, ``alpha = 1`` ("w/o weight decay" of Table 6).
        gates: One learning rate and retention per ``"head"``, or one per input ``"channel"`` of a matrix
            memory: ``W_t = W_{t-1} Diag(alpha_t) - (W_{t-1} k_t + g_t) (eta_t * k_t)^T``.
        rest: Where retention and erase lead. ``"zero"``: they act on the weights (Eq. 88 as printed), and
            what the outer optimizer taught a memory fades with the context. ``"initial"``: they act on the
            change since the meta-learned initial state, ``W_t = W_0 + D_t`` with ``D`` in the place of ``W``
            in the equation above and ``g_t`` still taken at the whole memory (docs/decisions.md).
        backprop_chunks: Cut the graph after the tokens of so many chunks (of the smaller size), counted from
            the start of the pass; None for back-propagation through the whole pass.
        checkpoint_chunks: Keep only the state after every so many chunks for the backward pass and compute
            the rest again; 0 keeps everything.

    Raises:
        ValueError: For a value outside its range or two that contradict each other, naming the value.
    """

    kind: MemoryKind = "mlp"
    activation: Activation = "silu"
    features: Features = "bounded"
    inner_norm: bool = False
    main_residual: bool = False
    objective: Objective = "dot"
    erase: Erase = "layers"
    chunk_size: int = 16
    projection_chunk_size: int | None = None
    causal_reads: bool = True
    unit_targets: bool = True
    main_target: MainTarget = "value"
    adaptive: tuple[str, ...] = PROJECTIONS
    momentum: bool = False
    momentum_max: float = 0.9
    rate: Rate = "bound"
    rate_max: float = 1.0
    retention: Retention = "gated"
    gates: Gates = "head"
    rest: Rest = "initial"
    backprop_chunks: int | None = None
    checkpoint_chunks: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _choice(name, getattr(self, name), get_args(choices))
        self._check_chunks()
        self._check_ranges()
        self._check_adaptive()
        if self.gates == "channel" and (self.kind != "matrix" or self.momentum):
            raise ValueError(
                f"gates='channel' needs kind='matrix' without momentum, got kind={self.kind!r}, "
                f"momentum={self.momentum}: hidden units have no channel of the residual stream"
            )
        if self.gates == "channel" and (self.rate == "one" or self.retention != "gated"):
            raise ValueError(
                f"gates='channel' needs gated rate and retention, got rate={self.rate!r}, "
                f"retention={self.retention!r}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the memories in stacking order; the main memory is always last."""
        return (*(name for name in (*PROJECTIONS, QUERY) if name in self.adaptive), MAIN)

    @property
    def gate_names(self) -> tuple[str, ...]:
        """Names of the gates that are computed from the tokens, in stacking order."""
        gated = {"rate": self.rate != "one", "retention": self.retention == "gated"}
        return (*(name for name, there in gated.items() if there), *(("momentum",) if self.momentum else ()))

    @property
    def chunk_sizes(self) -> tuple[int, int]:
        """Chunk sizes of the projection memories and of the main memory."""
        return self.projection_chunk_size or self.chunk_size, self.chunk_size

    def _check_chunks(self) -> None:
        for name in ("chunk_size", "projection_chunk_size", "backprop_chunks"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.chunk_size < 1 or self.checkpoint_chunks < 0:
            raise ValueError(f"checkpoint_chunks must be 0 (off) or more, got {self.checkpoint_chunks}")
        small, large = sorted(self.chunk_sizes)
        if large % small:
            raise ValueError(
                f"projection_chunk_size {self.projection_chunk_size} and chunk_size {self.chunk_size}: one "
                "must be a multiple of the other"
            )

    def _check_ranges(self) -> None:
        limit = 2.0 if self.objective == "dot" else 1.0
        if not (math.isfinite(self.rate_max) and 0.0 < self.rate_max <= limit):
            raise ValueError(
                f"rate_max must be in (0, {limit}] for objective {self.objective!r}, got {self.rate_max}: "
                "beyond it the memory grows without bound even at full retention"
            )
        if not 0.0 < self.momentum_max < 1.0:
            raise ValueError(f"momentum_max must be in (0, 1), got {self.momentum_max}")

    def _check_adaptive(self) -> None:
        unknown = [name for name in self.adaptive if name not in (*PROJECTIONS, QUERY)]
        if unknown or len(set(self.adaptive)) != len(self.adaptive):
            raise ValueError(
                f"adaptive names each of {', '.join((*PROJECTIONS, QUERY))} at most once, got {self.adaptive}"
            )
        for name in ("rate", "retention"):
            if name in self.adaptive and name not in self.gate_names:
                raise ValueError(
                    f"adaptive has {name!r}, but {name}={getattr(self, name)!r} reads no memory: leave it out"
                )


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
