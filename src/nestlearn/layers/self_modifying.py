"""Self-modifying Titans as a layer (Eq. 83 to 93)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestlearn.layers.convolution import CausalConvolution
from nestlearn.memory import MemoryParameters, MemoryRule, MemoryState, Streams, chunk

#: Write scale of the projection memories at the start; see docs/decisions.md.
_PROJECTION_WRITE_SCALE = 0.1
#: Gate biases at the start: half of the learning-rate range, and a retention of 0.98 a token.
_RATE_BIAS, _RETENTION_BIAS = 0.0, 4.0


class MixerState(NamedTuple):
    """State of a memory mixer between pieces of a sequence.

    Attributes:
        memory: Fast weights and the unfinished chunk.
        tail: Last inputs of the convolution, ``[B, conv_size - 1, 3 d]``.
    """

    memory: MemoryState
    tail: Tensor


class SelfModifyingTitans(nn.Module):
    """Five (or six) associative memories a head that produce and learn their own keys, values and gates.

    The residual stream is projected to three inputs (for key, value and query), convolved, and divided into
    heads. The key, value, learning-rate and retention memories turn them into what the write needs; every
    memory generates its own target and is written by delta gradient descent with weight decay. The main
    memory's read is normalised, gated and projected back.

    Args:
        hidden_size: Width d of the residual stream.
        num_heads: Heads H, each of width e = d / H.
        rule: Which memories there are and how they are written.
        memory_expansion: Hidden width of an MLP memory in multiples of e.
        conv_size: Width of the causal convolutions.
        eps: Added to the mean square of the output norm.

    Shapes: ``[B, T, d]`` in and out.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        rule: MemoryRule,
        *,
        memory_expansion: int = 1,
        conv_size: int = 4,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
        self.num_heads, self.rule = num_heads, rule
        width, memories = hidden_size // num_heads, len(rule.names)
        self.key_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.convolution = CausalConvolution(3 * hidden_size, conv_size)
        self.norm = nn.RMSNorm(width, eps=eps)
        hidden = memory_expansion * width
        if rule.kind == "matrix":
            self.memory = nn.Parameter(torch.empty(memories, num_heads, width, width))
        else:
            self.memory_out = nn.Parameter(torch.empty(memories, num_heads, width, hidden))
            self.memory_in = nn.Parameter(torch.empty(memories, num_heads, hidden, width))
        self.gate_weight = nn.Parameter(torch.empty(2, num_heads, width))
        self.gate_bias = nn.Parameter(torch.empty(2, num_heads))
        self.write_logit = nn.Parameter(torch.empty(memories - 1, num_heads)) if rule.adaptive else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial states: every projection memory is near the identity, the main memory near empty."""
        width = self.gate_weight.shape[-1]
        if self.rule.kind == "matrix":
            nn.init.normal_(self.memory, std=0.1 / width**0.5)
        else:
            nn.init.normal_(self.memory_out, std=0.1 / self.memory_out.shape[-1] ** 0.5)
            nn.init.normal_(self.memory_in, std=1.0 / width**0.5)
        nn.init.normal_(self.gate_weight, std=0.1)
        with torch.no_grad():
            self.gate_bias.copy_(torch.tensor([[_RATE_BIAS], [_RETENTION_BIAS]]).expand_as(self.gate_bias))
            if self.write_logit is not None:
                self.write_logit.fill_(math.log(_PROJECTION_WRITE_SCALE / (1 - _PROJECTION_WRITE_SCALE)))

    def parameters_of_memory(self) -> MemoryParameters:
        """The memories' learned part, in the form that :mod:`nestlearn.memory` takes."""
        weights = (self.memory,) if self.rule.kind == "matrix" else (self.memory_out, self.memory_in)
        scale = self.gate_bias.new_ones(len(self.rule.names), self.num_heads)
        if self.write_logit is not None:
            scale = torch.cat([torch.sigmoid(self.write_logit), scale[-1:]])
        return MemoryParameters(weights, self.gate_weight, self.gate_bias, scale)

    def forward(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        """Read and write the memories over a piece of a sequence.

        Args:
            x: ``[B, T, d]``.
            state: State after the previous piece, or None at the start of a sequence.

        Returns:
            Output ``[B, T, d]`` and the state after the piece.

        Raises:
            ValueError: If the state belongs to another configuration or batch size.
        """
        batch, length, _ = x.shape
        projected = torch.cat([self.key_proj(x), self.value_proj(x), self.query_proj(x)], dim=-1)
        mixed, tail = self.convolution(projected, None if state is None else state.tail)
        heads = mixed.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        reads, memory = chunk.self_modifying(
            Streams(*heads), self.parameters_of_memory(), None if state is None else state.memory, self.rule
        )
        y = self.norm(reads).transpose(1, 2).reshape(x.shape)
        return self.out_proj(y * F.silu(self.gate_proj(x))), MixerState(memory, tail)
