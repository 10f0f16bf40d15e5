"""The state of a session: constant in size for memories and windows, growing for full attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nestlearn.layers import (
    AttentionState,
    ContextState,
    GateState,
    LayeredState,
    MixerState,
    WindowState,
    map_state,
    tensors_of,
)
from nestlearn.models.hope.session_file import load_session, save_session

LayerState = MixerState | AttentionState | WindowState | ContextState | GateState | LayeredState


class HopeCache:
    """States of all layers after the tokens seen so far, per sample and complete.

    Feeding a sequence in pieces of any sizes through a cache equals feeding it whole. A forward pass puts
    new states in place of the old ones and never changes a tensor, so :meth:`copy` is a cheap snapshot.

    Every sample is a session of its own. Sessions of different ages can be one batch (:meth:`join`) and be
    taken apart again (:meth:`split`); a session can be kept in a file (:meth:`save`, :meth:`load`).

    Attributes:
        layers: One state per layer; empty before the first token.
        seen_tokens: Tokens that went through: a number, or int64 ``[B]`` on the CPU where samples differ.
    """

    is_compileable = False

    def __init__(self) -> None:
        self.layers: list[LayerState] = []
        self.seen_tokens: int | Tensor = 0

    @classmethod
    def join(cls, caches: Sequence[HopeCache]) -> HopeCache:
        """One batch of several sessions of one model, in order.

        Args:
            caches: Caches with at least one token each, of any batch sizes and ages.

        Returns:
            A new cache whose batch is all of theirs; the caches stay as they are.

        Raises:
            ValueError: If there is none, one has seen no token, they belong to different models, types or
                devices, or there is full attention and their lengths differ.
        """
        if not caches or not all(cache.layers for cache in caches):
            raise ValueError(
                "join needs sessions with at least one token each: what a session starts from is the model's"
            )
        counts = sorted({len(cache.layers) for cache in caches})
        if len(counts) > 1:
            raise ValueError(f"sessions of {counts} layers belong to different models")
        whole = cls()
        whole.layers = [_join(states) for states in zip(*(c.layers for c in caches), strict=True)]
        whole._set_ages(torch.cat([cache._ages() for cache in caches]))
        return whole

    def split(self) -> list[HopeCache]:
        """The samples as sessions of their own, which share no memory with this one.

        Returns:
            A cache of batch size one for each sample; none before the first token.
        """
        samples = range(len(self._ages()))
        return [self.copy().reorder_cache(torch.tensor([sample])) for sample in samples]

    def save(self, path: Path | str) -> None:
        """Write the session to a file, whole or not at all; graphs are left out.

        Args:
            path: A safetensors file with the rest as JSON in its header; its folder is made if needed.
                What a session was told can be sensitive: only the owner may read the file.
        """
        seen = self.seen_tokens
        save_session(Path(path), self.layers, seen.tolist() if isinstance(seen, Tensor) else seen)

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> HopeCache:
        """A session from a file: it goes on to the bit as it would have.

        Args:
            path: What :meth:`save` wrote.
            device: Where the model is. Positions stay on the CPU.

        Raises:
            ValueError: If the file is missing, damaged, or no session.
        """
        cache = cls()
        layers, seen = load_session(Path(path))
        cache.layers = layers
        cache.seen_tokens = seen if isinstance(seen, int) else torch.tensor(seen)
        return cache._map_states(lambda t: t.to(device) if t.is_floating_point() else t)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the oldest sample (``layer_idx`` is there for transformers)."""
        del layer_idx
        return int(self.seen_tokens.max()) if isinstance(self.seen_tokens, Tensor) else self.seen_tokens

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
        return self._map_states(torch.Tensor.detach)

    def reorder_cache(self, beam_idx: Tensor) -> HopeCache:
        """Select samples by index, as beam search does; returns itself."""
        return self._map(lambda t: t.index_select(0, beam_idx.to(t.device)))  # positions are on the CPU

    def batch_select_indices(self, indices: Tensor) -> HopeCache:
        """Keep the samples with these indices; returns itself."""
        return self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> HopeCache:
        """Repeat every sample; returns itself."""
        return self._map(lambda t: t.repeat_interleave(repeats, dim=0))

    def num_bytes(self) -> int:
        """Bytes of all state tensors; a memory that is its own snapshot counts twice, as it will be two."""
        return sum(t.numel() * t.element_size() for t in tensors_of(self.layers))

    def _map(self, function: Callable[[Tensor], Tensor]) -> HopeCache:
        """Apply a function that selects samples."""
        ages = function(self._ages()) if isinstance(self.seen_tokens, Tensor) else None
        self._map_states(function)
        self.layers = [_at_boundary(layer) for layer in self.layers]
        if ages is not None:
            self._set_ages(ages)
        return self

    def _map_states(self, function: Callable[[Tensor], Tensor]) -> HopeCache:
        self.layers = [map_state(function, [layer]) for layer in self.layers]
        return self

    def _ages(self) -> Tensor:
        """Tokens of every sample, ``[B]``."""
        if isinstance(self.seen_tokens, Tensor):
            return self.seen_tokens
        return torch.full((len(tensors_of(self.layers)[0]) if self.layers else 0,), self.seen_tokens)

    def _set_ages(self, ages: Tensor) -> None:
        same = bool((ages == ages[:1]).all()) and len(ages)
        self.seen_tokens = int(ages[0]) if same else ages


def _join(states: Sequence[LayerState]) -> LayerState:
    """One layer's states along the batch."""
    lengths = sorted({state.key.shape[2] for state in states if isinstance(state, AttentionState)})
    if len(lengths) > 1:
        raise ValueError(
            f"full attention keeps every token, so sessions of {' and '.join(map(str, lengths))} tokens "
            "cannot be one batch: use a window, or feed them one at a time"
        )
    joined: LayerState = map_state(_cat, states)
    return joined


def _cat(*tensors: Tensor) -> Tensor:
    if len({(t.shape[1:], t.dtype, t.device) for t in tensors}) > 1:
        found = ", ".join(sorted({f"{tuple(t.shape[1:])} {t.dtype} on {t.device}" for t in tensors}))
        raise ValueError(f"sessions belong to different models, types or devices: {found} for each sample")
    return torch.cat(tensors)


def _at_boundary(layer: LayerState) -> LayerState:
    """Memories of which every sample is at a boundary are their own snapshot: a shorter way to compute."""
    if isinstance(layer, AttentionState | WindowState) or bool(layer.memory.position.any()):
        return layer
    alone: LayerState = layer._replace(memory=layer.memory._replace(snapshot=layer.memory.weights))
    return alone


__all__ = ["HopeCache", "LayerState"]
