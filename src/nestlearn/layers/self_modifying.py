"""Self-modifying Titans as a layer (Eq. 83 to 93)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nestlearn.layers.description import described
from nestlearn.layers.mixer import Mixer
from nestlearn.layers.norm import RMSNorm
from nestlearn.levels import Memory
from nestlearn.memory import MemoryParameters, MemoryRule, MemoryState, Streams, chunk
from nestlearn.memory.functional import initial_state

#: Write scale of the projection memories at the start; see docs/decisions.md.
_PROJECTION_WRITE_SCALE = 0.1
#: Gate biases at the start: half of the learning rate's range, retention 0.98 a token, half of the momentum.
_GATE_BIAS = {"rate": 0.0, "retention": 4.0, "momentum": 0.0}


class MixerState(NamedTuple):
    """State of a memory mixer between pieces of a sequence.

    Attributes:
        memory: Fast weights, their snapshots and momentum, and the position in the chunk.
        tail: Last inputs of the convolution, ``[B, conv_size - 1, 3 d]``.
    """

    memory: MemoryState
    tail: Tensor


class MemoryMixer(Mixer):
    """A mixer with associative memories; what it does with them is for the classes below and Titans' to say.

    Args:
        hidden_size: Width d of the residual stream.
        num_heads: Heads H, each of width e = d / H.
        rule: Which memories there are and how they are written.
        memory_expansion: Hidden width of an MLP memory in multiples of e.
        conv_size: Width of the causal convolutions; 0 for none.
        eps: Added to the mean square of the output norm.

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
        super().__init__(hidden_size, num_heads, conv_size)
        self.rule = rule
        width, memories, gates = hidden_size // num_heads, len(rule.names), len(rule.gate_names)
        self.norm = RMSNorm(width, eps=eps)
        hidden = memory_expansion * width
        if rule.kind == "matrix":
            self.memory = nn.Parameter(torch.empty(memories, num_heads, width, width))
        else:
            self.memory_out = nn.Parameter(torch.empty(memories, num_heads, width, hidden))
            self.memory_in = nn.Parameter(torch.empty(memories, num_heads, hidden, width))
        if gates:
            self.gate_weight = nn.Parameter(torch.empty(gates, num_heads, width))
            per_head = width if rule.gates == "channel" else 1
            self.gate_bias = nn.Parameter(torch.empty(gates, num_heads, per_head))
        self.write_logit = nn.Parameter(torch.empty(memories - 1, num_heads)) if memories > 1 else None
        if rule.inner_norm:
            self.inner_scale = nn.Parameter(torch.empty(memories, num_heads, width))
            self.inner_shift = nn.Parameter(torch.empty(memories, num_heads, width))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial states: every projection memory is near the identity, the main memory near empty."""
        rule, width = self.rule, self.norm.normalized_shape[0]
        if rule.kind == "matrix":
            nn.init.normal_(self.memory, std=0.1 / width**0.5)
        else:
            nn.init.normal_(self.memory_out, std=0.1 / self.memory_out.shape[-1] ** 0.5)
            nn.init.normal_(self.memory_in)  # keys have length one: the hidden units are of order one
        for i, name in enumerate(rule.gate_names):
            nn.init.normal_(self.gate_weight[i], std=0.1)
            nn.init.constant_(self.gate_bias[i], _GATE_BIAS[name])
        if self.write_logit is not None:
            self.write_logit.fill_(math.log(_PROJECTION_WRITE_SCALE / (1 - _PROJECTION_WRITE_SCALE)))
        if rule.inner_norm:
            nn.init.ones_(self.inner_scale)
            nn.init.zeros_(self.inner_shift)

    def nested_memories(self) -> tuple[Memory, ...]:
        """The memories that are written within a sequence, for :func:`nestlearn.inspect`."""
        initial = ("memory",) if self.rule.kind == "matrix" else ("memory_out", "memory_in")
        stacked = [getattr(self, name) for name in initial]
        return described(self.rule, sum(weight[0].numel() for weight in stacked), initial)

    def parameters_of_memory(self) -> MemoryParameters:
        """The memories' learned part, in the form that :mod:`nestlearn.memory` takes."""
        rule = self.rule
        weights = (self.memory,) if rule.kind == "matrix" else (self.memory_out, self.memory_in)
        empty = weights[0].new_empty(0, self.num_heads, self.norm.normalized_shape[0])
        gates = (self.gate_weight, self.gate_bias) if rule.gate_names else (empty, empty)
        scale = weights[0].new_ones(len(rule.names), self.num_heads)
        if self.write_logit is not None:
            scale = torch.cat([torch.sigmoid(self.write_logit), scale[-1:]])
        norm = (self.inner_scale, self.inner_shift) if rule.inner_norm else None
        return MemoryParameters(weights, *gates, scale, norm)

    def initial_memory(self, streams: tuple[Tensor, Tensor, Tensor]) -> MemoryState:
        """The memories before the first token, for streams like ``[B, H, T, e]``."""
        return initial_state(self.parameters_of_memory(), Streams(*streams), self.rule)

    def recall(
        self, streams: tuple[Tensor, Tensor, Tensor], state: MemoryState | None
    ) -> tuple[Tensor, MemoryState]:
        """Write the memories with a piece and read the main one, normalised.

        Args:
            streams: Inputs for key, value and query, each ``[B, H, T, e]``.
            state: The memories before the piece, or None at the start of a sequence.

        Returns:
            ``[B, H, T, e]`` and the memories after the piece.
        """
        parameters = self.parameters_of_memory()
        reads, state = chunk.self_modifying(Streams(*streams), parameters, state, self.rule)
        normed: Tensor = self.norm(reads)
        return normed, state


class SelfModifyingTitans(MemoryMixer):
    """Five (or six) associative memories a head that produce and learn their own keys, values and gates.

    The residual stream is projected to three inputs (for key, value and query), convolved, and divided into
    heads. The key, value, learning-rate and retention memories turn them into what the write needs; every
    memory generates its own target and is written by delta gradient descent with weight decay. The main
    memory's read is normalised, gated and projected back. With other rules it is a baseline: the (gated)
    delta rule, linear attention, retention, TTT, or Titans' long-term memory.

    Args:
        hidden_size: Width d of the residual stream.
        num_heads: Heads H, each of width e = d / H.
        rule: Which memories there are and how they are written.
        memory_expansion: Hidden width of an MLP memory in multiples of e.
        conv_size: Width of the causal convolutions; 0 for none.
        eps: Added to the mean square of the output norm.

    Shapes: ``[B, T, d]`` in and out.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    state_type = MixerState

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
        memory, tail = (None, None) if state is None else state
        streams, tail = self.streams(x, tail)
        reads, memory = self.recall(streams, memory)
        return self.finish(reads, x), MixerState(memory, tail)

    def initial(self, x: Tensor) -> MixerState:
        """The state before the first token of each sample of ``[B, T, d]``."""
        streams, tail = self.beginning(x)
        return MixerState(self.initial_memory(streams), tail)


__all__ = ["MemoryMixer", "MixerState", "SelfModifyingTitans"]
