"""Titans: long-term memory together with attention (Behrouz et al. 2025, arXiv 2501.00663, section 4).

The three combinations have one output, ``W_o (a * silu(W_g b))``. Persistent tokens are keys and values of
the attention only: for a memory, its meta-learned initial state is what they are for attention.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

from nestlearn.layers.mixer import Projections, joined
from nestlearn.layers.norm import RMSNorm
from nestlearn.layers.self_modifying import MemoryMixer
from nestlearn.layers.softmax import Softmax
from nestlearn.layers.window import Window, attend_window, empty_window
from nestlearn.levels import Memory
from nestlearn.levels.modules import attention_memory
from nestlearn.memory import MemoryRule, MemoryState

#: Tokens that attention sees if nothing else is said.
WINDOW = 64


class GateState(NamedTuple):
    """State of :class:`MemoryAsGate`: memories, window, and the tail of the one convolution."""

    memory: MemoryState
    window: Window
    tail: Tensor


class LayeredState(NamedTuple):
    """State of :class:`MemoryAsLayer`: memories, window, and the tails of their convolutions."""

    memory: MemoryState
    window: Window
    tail: Tensor
    attention_tail: Tensor


class Combination(MemoryMixer):
    """What the three have in common.

    Args:
        hidden_size: Width d of the residual stream.
        num_heads: Heads H of the memory and of the attention, each of even width e = d / H.
        rule: How the memory is written; without adaptive projections.
        window: Tokens that attention sees, the token itself included; None for 64.
        persistent_tokens: Learned keys and values that attention always sees.
        memory_expansion: Hidden width of an MLP memory in multiples of e.
        conv_size: Width of the causal convolutions; 0 for none.
        rope_theta: Base of the rotary positions.
        eps: Added to the mean square of the norms.

    Shapes: ``[B, T, d]`` in and out.

    Raises:
        ValueError: If the heads do not divide the width, or their width is odd, the window is empty, or the
            rule has adaptive projections.
    """

    #: Whether attention has keys, values and queries of its own, and whether its output is normalised.
    separate_projections: ClassVar[bool]
    normed_attention: ClassVar[bool]

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        rule: MemoryRule,
        *,
        window: int | None = None,
        persistent_tokens: int = 0,
        memory_expansion: int = 1,
        conv_size: int = 4,
        rope_theta: float = 10000.0,
        eps: float = 1e-6,
    ) -> None:
        if rule.adaptive:
            raise ValueError(
                f"Titans' memory has static projections, got a rule with adaptive {', '.join(rule.adaptive)}"
            )
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 or None, got {window}")
        super().__init__(
            hidden_size, num_heads, rule, memory_expansion=memory_expansion, conv_size=conv_size, eps=eps
        )
        self.window = WINDOW if window is None else window
        width = hidden_size // num_heads
        self.softmax = Softmax(num_heads, width, persistent_tokens=persistent_tokens, rope_theta=rope_theta)
        if self.separate_projections:
            self.attention = Projections(hidden_size, num_heads, conv_size)
        if self.normed_attention:
            self.attention_norm = RMSNorm(width, eps=eps)

    def nested_memories(self) -> tuple[Memory, ...]:
        """The memory and the attention beside it, for :func:`nestlearn.inspect`."""
        weight = self.key_proj.weight
        seen = attention_memory(2 * weight.shape[0] * weight.element_size(), self.attended)
        return (*super().nested_memories(), seen)

    @property
    def attended(self) -> int:
        """Tokens that attention sees at most."""
        return self.window


class MemoryAsGate(Combination):
    """Titans MAG: window attention and memory side by side, the memory gates the attention (Eq. 26 to 28).

    ``o = norm(Attention(x)) * silu(W_g norm(M(x)))``, where M is read after its write. The paper
    normalises both with learned scales and leaves the non-linearity open; the linear map in front of it is
    the one that gates all mixers here. Both branches have the same keys, values and queries, of which the
    paper says nothing: the layer has as many projections as any other mixer.

    Args, shapes and errors are those of :class:`Combination`.
    """

    state_type = GateState
    separate_projections, normed_attention = False, True

    def forward(self, x: Tensor, state: GateState | None = None) -> tuple[Tensor, GateState]:
        """Attend, read and write over a piece of a sequence.

        Args:
            x: ``[B, T, d]``.
            state: State after the previous piece, or None at the start of a sequence.

        Returns:
            Output ``[B, T, d]`` and the state after the piece.

        Raises:
            ValueError: If the state belongs to another configuration or batch size.
        """
        memory, window, tail = (None, None, None) if state is None else state
        streams, tail = self.streams(x, tail)
        reads, memory = self.recall(streams, memory)
        y, window = attend_window(self.softmax, streams, window, self.window)
        return self.finish(self.attention_norm(y), joined(reads)), GateState(memory, window, tail)

    def initial(self, x: Tensor) -> GateState:
        """The state before the first token of each sample of ``[B, T, d]``."""
        streams, tail = self.beginning(x)
        return GateState(self.initial_memory(streams), empty_window(streams[0], self.window), tail)


class MemoryAsLayer(Combination):
    """Titans MAL: the memory's reads are what window attention looks at (Eq. 29 to 31).

    ``o = Attention(norm(M(x))) * silu(W_g x)``. Attention has projections and a convolution of its own; the
    memory has no gate and no way back of its own, which would only be another linear map in front of them.
    The gate is the one of all mixers here.

    Args, shapes and errors are those of :class:`Combination`.
    """

    state_type = LayeredState
    separate_projections, normed_attention = True, False

    def forward(self, x: Tensor, state: LayeredState | None = None) -> tuple[Tensor, LayeredState]:
        """Write and read, then attend over a piece of a sequence.

        Args:
            x: ``[B, T, d]``.
            state: State after the previous piece, or None at the start of a sequence.

        Returns:
            Output ``[B, T, d]`` and the state after the piece.

        Raises:
            ValueError: If the state belongs to another configuration or batch size.
        """
        memory, window, tail, attention_tail = (None, None, None, None) if state is None else state
        streams, tail = self.streams(x, tail)
        reads, memory = self.recall(streams, memory)
        streams, attention_tail = self.attention.streams(joined(reads), attention_tail)
        y, window = attend_window(self.softmax, streams, window, self.window)
        return self.finish(y, x), LayeredState(memory, window, tail, attention_tail)

    def initial(self, x: Tensor) -> LayeredState:
        """The state before the first token of each sample of ``[B, T, d]``."""
        streams, tail = self.beginning(x)
        window = empty_window(streams[0], self.window)
        return LayeredState(self.initial_memory(streams), window, tail, tail.clone())


__all__ = ["WINDOW", "Combination", "GateState", "LayeredState", "MemoryAsGate", "MemoryAsLayer"]
