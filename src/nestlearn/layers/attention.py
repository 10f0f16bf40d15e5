"""Softmax attention with everything that the memory mixers have, for a comparison like with like."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestlearn.layers.mixer import Mixer
from nestlearn.memory import unit


class AttentionState(NamedTuple):
    """State of attention between pieces of a sequence.

    Attributes:
        key: Rotated keys of all tokens so far, ``[B, H, P, e]``.
        value: Their values, ``[B, H, P, e]``.
        tail: Last inputs of the convolution, ``[B, conv_size - 1, 3 d]``.
    """

    key: Tensor
    value: Tensor
    tail: Tensor


class Attention(Mixer):
    """Causal softmax attention with rotary positions, normalised queries and keys, convolution and gate.

    Args:
        hidden_size: Width d of the residual stream.
        num_heads: Heads H, each of even width e = d / H.
        conv_size: Width of the causal convolutions; 0 for none.
        rope_theta: Base of the rotary positions.

    Shapes: ``[B, T, d]`` in and out.

    Raises:
        ValueError: If the heads do not divide the width, or their width is odd.
    """

    state_type = AttentionState

    def __init__(
        self, hidden_size: int, num_heads: int, *, conv_size: int = 4, rope_theta: float = 10000.0
    ) -> None:
        if hidden_size % (2 * num_heads):
            raise ValueError(
                f"hidden_size {hidden_size} does not divide into {num_heads} heads of even width, which "
                "rotary positions need"
            )
        super().__init__(hidden_size, num_heads, conv_size)
        self.rope_theta = rope_theta
        # Unit queries and keys bound the logits by this learned inverse temperature.
        self.sharpness = nn.Parameter(torch.full((num_heads, 1, 1), 4.0))

    def reset_parameters(self) -> None:
        """Initial inverse temperature: logits up to 16."""
        nn.init.constant_(self.sharpness, 4.0)

    def forward(self, x: Tensor, state: AttentionState | None = None) -> tuple[Tensor, AttentionState]:
        """Attend over a piece of a sequence and everything before it.

        Args:
            x: ``[B, T, d]``.
            state: State after the previous piece, or None at the start of a sequence.

        Returns:
            Output ``[B, T, d]`` and the state after the piece.

        Raises:
            ValueError: If the state belongs to another configuration or batch size.
        """
        heads = (x.shape[0], self.num_heads, x.shape[2] // self.num_heads)
        if state is not None and (*state.key.shape[:2], state.key.shape[3]) != heads:
            raise ValueError(
                f"attention state is {tuple(state.key.shape)}, this layer and batch need "
                f"({heads[0]}, {heads[1]}, any, {heads[2]}): a state belongs to one configuration and "
                "one batch size"
            )
        (key, value, query), tail = self.streams(x, None if state is None else state.tail)
        past = 0 if state is None else state.key.shape[2]
        cos, sin = _rotary(past, x.shape[1], query.shape[-1], self.rope_theta, x)
        query = _rotate(unit(query), cos, sin) * self.sharpness * self.sharpness
        key = _rotate(unit(key), cos, sin)
        if state is not None:
            key, value = torch.cat([state.key, key], dim=2), torch.cat([state.value, value], dim=2)
        y = _attend(query, key, value, past)
        return self.finish(y, x), AttentionState(key, value, tail)


def _attend(query: Tensor, key: Tensor, value: Tensor, past: int) -> Tensor:
    """Causal attention of ``T`` queries over ``past + T`` keys."""
    if past == 0:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
    mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril(past)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)


def _rotary(past: int, length: int, width: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[T, e / 2]`` of positions ``past .. past + length - 1``."""
    frequency = theta ** (-torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width)
    angle = torch.arange(past, past + length, device=like.device, dtype=torch.float32)[:, None] * frequency
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
