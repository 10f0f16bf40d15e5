"""Softmax attention with everything that the memory mixers have, for a comparison like with like."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestlearn.layers.mixer import Mixer
from nestlearn.layers.softmax import Softmax
from nestlearn.layers.window import Window, attend_window, empty_window
from nestlearn.levels import Memory
from nestlearn.levels.modules import attention_memory
from nestlearn.memory import unit


class AttentionState(NamedTuple):
    """State of full attention between pieces of a sequence: it grows with every token.

    Attributes:
        key: Keys of all tokens so far, turned by their positions in their samples, the newest last,
            ``[B, H, P, e]``; zeros before the first token of a shorter sample.
        value: Their values, of the same shape.
        tail: Last inputs of the convolution, ``[B, conv_size - 1, 3 d]``.
        filled: How many of the P are tokens, ``[B]`` int64 on the CPU.
    """

    key: Tensor
    value: Tensor
    tail: Tensor
    filled: Tensor


class WindowState(NamedTuple):
    """State of window attention between pieces of a sequence, of constant size.

    Attributes:
        window: The last keys and values.
        tail: Last inputs of the convolution, ``[B, conv_size - 1, 3 d]``.
    """

    window: Window
    tail: Tensor


class Attention(Mixer):
    """Causal softmax attention with rotary positions, normalised queries and keys, convolution and gate.

    Args:
        hidden_size: Width d of the residual stream.
        num_heads: Heads H, each of even width e = d / H.
        window: Tokens that a token sees, itself included; None for all.
        persistent_tokens: Learned keys and values that every token sees; see
            :class:`~nestlearn.layers.softmax.Softmax`.
        conv_size: Width of the causal convolutions; 0 for none.
        rope_theta: Base of the rotary positions.

    Shapes: ``[B, T, d]`` in and out.

    Raises:
        ValueError: If the heads do not divide the width, or their width is odd, or the window is empty.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        window: int | None = None,
        persistent_tokens: int = 0,
        conv_size: int = 4,
        rope_theta: float = 10000.0,
    ) -> None:
        if hidden_size % (2 * num_heads):
            raise ValueError(
                f"hidden_size {hidden_size} does not divide into {num_heads} heads of even width, which "
                "rotary positions need"
            )
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1 or None, got {window}")
        super().__init__(hidden_size, num_heads, conv_size)
        self.window = window
        self.state_type = AttentionState if window is None else WindowState
        self.softmax = Softmax(
            num_heads,
            hidden_size // num_heads,
            persistent_tokens=persistent_tokens,
            rope_theta=rope_theta,
        )

    def nested_memories(self) -> tuple[Memory, ...]:
        """Softmax attention, for :func:`nestlearn.inspect`."""
        weight = self.key_proj.weight
        return (attention_memory(2 * weight.shape[0] * weight.element_size(), self.window),)

    def forward(
        self, x: Tensor, state: AttentionState | WindowState | None = None
    ) -> tuple[Tensor, AttentionState | WindowState]:
        """Attend over a piece of a sequence and what it sees of everything before it.

        Args:
            x: ``[B, T, d]``.
            state: State after the previous piece, or None at the start of a sequence.

        Returns:
            Output ``[B, T, d]`` and the state after the piece.

        Raises:
            ValueError: If the state belongs to another configuration or batch size.
        """
        if state is not None and not isinstance(state, self.state_type):
            raise ValueError(
                f"attention state is of type {type(state).__name__}, this layer needs "
                f"{self.state_type.__name__}: a state belongs to one configuration"
            )
        if isinstance(state, AttentionState):
            self._check(state, x)
        streams, tail = self.streams(x, None if state is None else state.tail)
        if self.window is None:
            assert not isinstance(state, WindowState)
            y, key, value = self._full(*streams, state)
            filled = torch.zeros(len(x), dtype=torch.long) if state is None else state.filled
            return self.finish(y, x), AttentionState(key, value, tail, filled + x.shape[1])
        assert not isinstance(state, AttentionState)
        y, window = attend_window(self.softmax, streams, None if state is None else state.window, self.window)
        return self.finish(y, x), WindowState(window, tail)

    def _full(
        self, key: Tensor, value: Tensor, query: Tensor, state: AttentionState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention over all tokens so far: the result, and all keys and values."""
        length, past = key.shape[2], 0 if state is None else state.key.shape[2]
        # Samples of one length have positions in common.
        alike = state is None or (not torch.compiler.is_compiling() and bool((state.filled == past).all()))
        start = past if alike or state is None else state.filled
        query, key = self.softmax.scaled(query), self.softmax.turned(unit(key), start)
        value = value.contiguous()  # a view would keep the queries alive with the session
        mask = None
        if state is not None:
            key, value = torch.cat([state.key, key], dim=2), torch.cat([state.value, value], dim=2)
            if length > 1 or not alike:  # one token sees all
                mask = torch.ones(length, past + length, dtype=torch.bool).tril(past)
            if mask is not None and not alike:
                there = torch.arange(past + length) >= past - state.filled[:, None, None]
                mask = (mask & there)[:, None]
            mask = None if mask is None else mask.to(key.device)
        return self.softmax.attend(query, self.softmax.turned(query, start), key, value, mask), key, value

    def initial(self, x: Tensor) -> AttentionState | WindowState:
        """The state before the first token of each sample of ``[B, T, d]``."""
        (key, _, _), tail = self.beginning(x)
        filled = torch.zeros(len(x), dtype=torch.long)
        if self.window is None:
            return AttentionState(key[:, :, :0], key[:, :, :0], tail, filled)
        return WindowState(empty_window(key, self.window), tail)

    def _check(self, state: AttentionState, x: Tensor) -> None:
        heads = (x.shape[0], self.num_heads, x.shape[2] // self.num_heads)
        if (*state.key.shape[:2], state.key.shape[3]) != heads:
            raise ValueError(
                f"attention state is {tuple(state.key.shape)}, this layer and batch need "
                f"({heads[0]}, {heads[1]}, any, {heads[2]}): a state belongs to one configuration and "
                "one batch size"
            )


__all__ = ["Attention", "AttentionState", "WindowState"]
