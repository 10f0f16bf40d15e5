"""Titans MAC: what memory recalls is context for attention, and memory learns what attention saw."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestlearn.layers.mixer import by_heads, joined
from nestlearn.layers.state import map_state
from nestlearn.layers.titans import Combination
from nestlearn.layers.window import band, behind, recent
from nestlearn.memory import MemoryState, Streams, unit
from nestlearn.memory.functional import check_inputs, hidden_features, inner_norm, wide
from nestlearn.memory.schedule import planned

_Streams = tuple[Tensor, Tensor, Tensor]


class Segment(NamedTuple):
    """What attention sees of the segment so far; S is the segment's length.

    Attributes:
        key: Unit keys without positions of what was recalled and of the tokens themselves, the newest last,
            ``[B, H, 2, S - 1, e]``. Only those of the present segment are looked at.
        value: Their values, of the same shape.
    """

    key: Tensor
    value: Tensor


class ContextState(NamedTuple):
    """State of :class:`MemoryAsContext`, of constant size.

    Attributes:
        memory: The memory; its position is the position in the segment.
        segment: Keys and values of the segment so far.
        tail: Last inputs of the memory's convolution, ``[B, conv_size - 1, 3 d]``.
        attention_tail: Last inputs of the attention's convolution.
    """

    memory: MemoryState
    segment: Segment
    tail: Tensor
    attention_tail: Tensor


class MemoryAsContext(Combination):
    """Titans MAC: attention within a segment, over what the memory recalls about it (Eq. 21 to 25).

    For the tokens t of a segment of ``rule.chunk_size`` tokens, at whose start the memory is M:

        ``h_t = M(q_t)``                                                what is recalled about each token
        ``y_t = norm(Attention(x_t; persistent, h_1 .. h_t, x_1 .. x_t))``
        ``M_t = write(M_{t-1}; y_t)``                                   memory learns what attention saw
        ``o_t = y_t * silu(W_g norm(M_t(y_t)))``

    The paper leaves open how this is causal, where the recalled tokens stand, and what is shared. Here each
    token recalls for itself, and attention sees what was recalled about the token and those before it; what
    was recalled about a token has the token's rotary position; ``q_t`` is the attention's query; recalled
    tokens have the attention's key and value projection, but no convolution and no norm (a norm blows up what
    an almost empty memory says, in a loop that then amplifies every rounding error); the memory has
    projections and a convolution of its own, which run over the ``y_t`` across segments. ``window`` is not
    used: the segment takes its place.

    Args, shapes and errors are those of :class:`~nestlearn.layers.titans.Combination`.
    """

    state_type = ContextState
    separate_projections, normed_attention = True, True

    @property
    def attended(self) -> int:
        """Tokens that attention sees at most: a segment, and as many that were recalled."""
        return 2 * self.rule.chunk_size

    def forward(self, x: Tensor, state: ContextState | None = None) -> tuple[Tensor, ContextState]:
        """Recall, attend, write and read over a piece of a sequence, a segment at a time.

        Args:
            x: ``[B, T, d]``.
            state: State after the previous piece, or None at the start of a sequence.

        Returns:
            Output ``[B, T, d]`` and the state after the piece.

        Raises:
            ValueError: If the state belongs to another configuration or batch size.
        """
        streams, attention_tail = self.attention.streams(x, None if state is None else state.attention_tail)
        memory, segment, tail, _ = self._start(streams) if state is None else state
        self._check(segment, memory, streams)
        plan = planned(None if state is None else memory.position, x.shape[0], x.shape[1], self.rule)
        parts = zip(*(s.split([piece.length for piece in plan], dim=2) for s in streams), strict=True)
        out = []
        for piece, part in zip(plan, parts, strict=True):
            y, segment = self._attend(part, self._recalled(part[2], memory), segment, memory.position)
            y = self.attention_norm(y)
            written, tail = self.streams(joined(y), tail)
            reads, memory = self.recall(written, memory)
            if piece.cut:
                memory = map_state(Tensor.detach, [memory])
            out.append(self.finish(y, joined(reads)))
        assert tail is not None
        return torch.cat(out, dim=1), ContextState(memory, segment, tail, attention_tail)

    def initial(self, x: Tensor) -> ContextState:
        """The state before the first token of each sample of ``[B, T, d]``."""
        streams, tail = self.attention.beginning(x)
        memory, segment, _, _ = self._start(streams)
        return ContextState(memory, segment, tail.clone(), tail)

    def _start(self, streams: _Streams) -> tuple[MemoryState, Segment, None, None]:
        key = streams[0]
        memory = self.initial_memory(streams)
        empty = key.new_zeros(*key.shape[:2], 2, self.rule.chunk_size - 1, key.shape[3])
        return memory, Segment(empty, empty), None, None

    def _check(self, segment: Segment, memory: MemoryState, streams: _Streams) -> None:
        key = streams[0]
        expected = (*key.shape[:2], 2, self.rule.chunk_size - 1, key.shape[3])
        if tuple(segment.key.shape) != expected:
            raise ValueError(
                f"segment state is {tuple(segment.key.shape)}, this layer and batch need {expected}: a state "
                "belongs to one configuration and one batch size"
            )
        check_inputs(Streams(*streams), self.parameters_of_memory(), memory, self.rule)

    def _recalled(self, query: Tensor, memory: MemoryState) -> Tensor:
        """``M(q)`` of the memory at the segment's start, ``[B, H, T, e]``; nothing is written."""
        rule, parameters = self.rule, self.parameters_of_memory()
        with torch.autocast(query.device.type, enabled=False):
            weights = [w[:, :, -1] for w in memory.snapshot]
            if rule.rest == "initial":
                weights = [w + wide(start[-1]) for w, start in zip(weights, parameters.weights, strict=True)]
            z = unit(wide(query))
            read = z @ weights[-1].mT
            if len(weights) > 1:
                read = hidden_features(read, rule) @ weights[0].mT
            if parameters.norm is not None:
                scale, shift = (wide(part[-1])[:, None] for part in parameters.norm)
                read = inner_norm(read, scale, shift)
            return (z + read if rule.main_residual else read).to(query.dtype)

    def _attend(
        self, streams: _Streams, recalled: Tensor, segment: Segment, position: Tensor
    ) -> tuple[Tensor, Segment]:
        """A part of one segment of each sample, behind so many tokens of it as ``position`` says."""
        attention, softmax, h = self.attention, self.softmax, joined(recalled)
        key = torch.stack([by_heads(attention.key_proj(h), self.num_heads), streams[0]], dim=2)
        value = torch.stack([by_heads(attention.value_proj(h), self.num_heads), streams[1]], dim=2)
        key, query = unit(key), softmax.scaled(streams[2])
        # A graph that is being traced has no values to look at: then all places are looked back at.
        most = segment.key.shape[3] if torch.compiler.is_compiling() else int(position.max())
        left, length = most, query.shape[2]
        keys, values = (behind(old, new, left) for old, new in ((segment.key, key), (segment.value, value)))
        mask = band(left, length, left + length, position, 1).to(query.device)
        y = softmax.attend(
            query,
            softmax.turned(query, left),
            softmax.turned(keys, 0).flatten(2, 3),
            values.flatten(2, 3),
            torch.cat([mask, mask], dim=-1),
        )
        return y, Segment(recent(segment.key, key), recent(segment.value, value))


__all__ = ["ContextState", "MemoryAsContext", "Segment"]
