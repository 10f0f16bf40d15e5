"""The state of a session: constant in size for memory mixers, growing for attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestlearn.layers import AttentionState, MixerState

LayerState = MixerState | AttentionState


class HopeCache:
    """States of all layers after the tokens seen so far, per sample and complete.

    Feeding a sequence in pieces of any sizes through a cache equals feeding it whole. A forward pass puts
    new states in place of the old ones and never changes a tensor, so :meth:`copy` is a cheap snapshot.

    Attributes:
        layers: One state per layer; empty before the first token.
        seen_tokens: Tokens per sample that went through.
    """

    is_compileable = False

    def __init__(self) -> None:
        self.layers: list[LayerState] = []
        self.seen_tokens = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens per sample that went through (``layer_idx`` is there for transformers)."""
        del layer_idx
        return self.seen_tokens

    def reset(self) -> None:
        """Forget the session: the next token starts from the meta-learned initial states."""
        self.layers, self.seen_tokens = [], 0

    def copy(self) -> HopeCache:
        """A snapshot that later tokens do not change."""
        twin = HopeCache()
        twin.layers, twin.seen_tokens = list(self.layers), self.seen_tokens
        return twin

    def detach(self) -> HopeCache:
        """Cut the graph in place, for truncated back-propagation; returns itself."""
        return self._map(torch.Tensor.detach)

    def reorder_cache(self, beam_idx: Tensor) -> HopeCache:
        """Select samples by index, as beam search does; returns itself."""
        return self._map(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_select_indices(self, indices: Tensor) -> HopeCache:
        """Keep the samples with these indices; returns itself."""
        return self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> HopeCache:
        """Repeat every sample; returns itself."""
        return self._map(lambda t: t.repeat_interleave(repeats, dim=0))

    def num_bytes(self) -> int:
        """Bytes of all state tensors."""
        total = 0

        def count(t: Tensor) -> Tensor:
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        self._map(count)
        return total

    def _map(self, function: Callable[[Tensor], Tensor]) -> HopeCache:
        self.layers = [_map_tree(layer, function) for layer in self.layers]
        return self


def _map_tree(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to every tensor of nested (named) tuples."""
    if isinstance(tree, Tensor):
        return function(tree)
    parts = [_map_tree(part, function) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
