"""What all sequence mixers share: projections, short convolution, output gate."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestlearn.layers.convolution import CausalConvolution
from nestlearn.levels import Memory


class Projections(nn.Module):
    """Projections of the residual stream to keys, values and queries by heads, behind a short convolution.

    Args:
        hidden_size: Width d of the residual stream.
        num_heads: Heads H, each of width e = d / H.
        conv_size: Width of the causal convolutions behind the projections; 0 for none.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(self, hidden_size: int, num_heads: int, conv_size: int) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.key_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.convolution = CausalConvolution(3 * hidden_size, conv_size)

    def nested_memories(self) -> tuple[Memory, ...]:
        """What this remembers beside its parameters: nothing, for :func:`nestlearn.inspect`."""
        return ()

    def streams(self, x: Tensor, tail: Tensor | None) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Keys, values and queries of a piece, each ``[B, H, T, e]``, and the convolution's new tail.

        Args:
            x: ``[B, T, d]``.
            tail: The convolution's state, or None at the start of a sequence.
        """
        projected = torch.cat([self.key_proj(x), self.value_proj(x), self.query_proj(x)], dim=-1)
        mixed, tail = self.convolution(projected, tail)
        # Divided with the tokens last, as the convolution leaves them in memory: no copies either way.
        columns = mixed.mT.unflatten(1, (3, self.num_heads, -1))
        key, value, query = (part.mT for part in columns.unbind(1))
        return (key, value, query), tail

    def beginning(self, x: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Streams of the first token of ``[B, T, d]``, for their types, and the tail before it."""
        streams, tail = self.streams(x[:, :1], None)
        return streams, torch.zeros_like(tail)


class Mixer(Projections):
    """A sequence mixer: projections, something that mixes tokens, and the gated way back.

    Args:
        hidden_size: Width d of the residual stream.
        num_heads: Heads H, each of width e = d / H.
        conv_size: Width of the causal convolutions behind the projections; 0 for none.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    #: Type of the state between pieces of a sequence.
    state_type: type[tuple[Any, ...]]

    def __init__(self, hidden_size: int, num_heads: int, conv_size: int) -> None:
        super().__init__(hidden_size, num_heads, conv_size)
        self.gate_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def reset_parameters(self) -> None:
        """Initial values of what is no submodule; nothing here."""

    def initial(self, x: Tensor) -> tuple[Any, ...]:
        """The state before the first token of each sample of ``[B, T, d]``: of ``state_type``."""
        raise NotImplementedError

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        """Reads ``[B, H, T, e]`` gated by ``[B, T, d]`` (the input, as a rule) and projected back."""
        out: Tensor = self.out_proj(y.transpose(1, 2).reshape(x.shape) * F.silu(self.gate_proj(x)))
        return out


def by_heads(x: Tensor, num_heads: int) -> Tensor:
    """``[B, T, d]`` as ``[B, H, T, e]``."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return heads


def joined(x: Tensor) -> Tensor:
    """``[B, H, T, e]`` as ``[B, T, d]``."""
    return x.transpose(1, 2).flatten(2)
