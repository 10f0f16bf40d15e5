"""The state of a session: constant in size for memories and windows, growing for full attention."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from nestlearn.layers import LayerState, ages_of, join_samples, tensors_of, trimmed
from nestlearn.models.hope.cache_layer import NestedMemoryLayer
from nestlearn.models.hope.session_file import flatten_session, load_session, restore_session, save_session


class HopeCache(Cache):
    """States of all layers after the tokens seen so far, per sample and complete.

    Feeding a sequence in pieces of any sizes through a cache equals feeding it whole. A forward pass puts
    new states in place of the old ones and never changes a tensor, so :meth:`copy` is a cheap snapshot.

    Every sample is a session of its own. Sessions of different ages can be one batch (:meth:`join`) and be
    taken apart again (:meth:`split`); a session can be kept in a file (:meth:`save`, :meth:`load`).

    It is a cache of transformers, and ``generate()`` makes one: beam search chooses samples, assisted
    decoding takes tokens back (:meth:`crop`, exact), :meth:`reset` goes back to the meta-learned initial
    states.

    Args:
        offloading: Keep the states on the CPU between forward passes, and a layer's on its device only while
            it is read: for many sessions, or full attention over long texts.

    Attributes:
        recording: Whether forward passes are remembered, to be taken back.
        layers: One :class:`~nestlearn.models.hope.cache_layer.NestedMemoryLayer` per layer; empty before the
            first token.
    """

    def __init__(self, *, offloading: bool = False) -> None:
        super().__init__(layers=[])
        # transformers' own way of offloading needs a stream, which processors do not have.
        self.offloading = offloading
        self.recording = False
        # What one call of generate() knows: the tokens that end a row, and the columns of the prompt.
        self.ends: Tensor | None = None
        self.prompt: int | None = None

    @property
    def states(self) -> list[LayerState]:
        """The layers' states; empty before the first token."""
        return [layer.state for layer in self.layers if layer.state is not None]

    @property
    def seen_tokens(self) -> int | Tensor:
        """Tokens that went through: a number, or int64 ``[B]`` on the CPU where samples differ."""
        return self.layers[0].ages if self.layers else 0

    @classmethod
    def join(cls, caches: Sequence[HopeCache]) -> HopeCache:
        """One batch of several sessions of one model, in order.

        Args:
            caches: Caches with at least one token each, of any batch sizes and ages.

        Returns:
            A new cache whose batch is all of theirs; the caches stay as they are.

        Raises:
            ValueError: If there is none, one has seen no token, or they belong to different models, types or
                devices.
        """
        if not caches or not all(cache.states for cache in caches):
            raise ValueError(
                "join needs sessions with at least one token each: what a session starts from is the model's"
            )
        counts = sorted({len(cache.states) for cache in caches})
        if len(counts) > 1:
            raise ValueError(f"sessions of {counts} layers belong to different models")
        joined = [join_samples(states) for states in zip(*(c.states for c in caches), strict=True)]
        ages = ages_of(torch.cat([cache._ages() for cache in caches]))
        return cls()._filled(joined, ages, _oldest(ages))

    def split(self) -> list[HopeCache]:
        """The samples as sessions of their own, which share no memory with this one.

        Returns:
            A cache of batch size one for each sample; none before the first token.
        """
        parts = []
        for sample, age in enumerate(self._ages().tolist()):
            part = self.copy()
            part.reorder_cache(torch.tensor([sample]))
            parts.append(HopeCache()._filled([trimmed(state) for state in part.states], age, age))
        return parts

    def save(self, path: Path | str) -> None:
        """Write the session to a file, whole or not at all; graphs are left out.

        Args:
            path: A safetensors file with the rest as JSON in its header; its folder is made if needed.
                What a session was told can be sensitive: only the owner may read the file.
        """
        save_session(Path(path), self.states, self._numbers())

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> HopeCache:
        """A session from a file: it goes on to the bit as it would have.

        Args:
            path: What :meth:`save` wrote.
            device: Where the model is. Positions stay on the CPU.

        Raises:
            ValueError: If the file is missing, damaged, or no session.
        """
        return cls._of(*load_session(Path(path)), device)

    def state_dict(self) -> dict[str, Tensor]:
        """The session as tensors by name, for a file of one's own: safetensors, or ``torch.save``.

        Returns:
            The states' tensors, and ``"structure"``, uint8, which is the rest as JSON.
        """
        tensors: dict[str, Tensor] = {}
        content = json.dumps(flatten_session(self.states, self._numbers(), tensors)).encode()
        return {**tensors, "structure": torch.frombuffer(bytearray(content), dtype=torch.uint8)}

    @classmethod
    def from_state_dict(cls, tensors: dict[str, Tensor], device: torch.device | str = "cpu") -> HopeCache:
        """The session of a :meth:`state_dict`.

        Args:
            tensors: What :meth:`state_dict` gave.
            device: Where the model is. Positions stay on the CPU.

        Raises:
            ValueError: If they are no session.
        """
        if "structure" not in tensors:
            raise ValueError(
                f"no session: there is no structure among {', '.join(sorted(tensors)) or 'nothing'}"
            )
        try:
            content = json.loads(bytes(tensors["structure"].cpu().tolist()))
        except ValueError as error:
            raise ValueError(f"no session: its structure is damaged ({error})") from error
        return cls._of(*restore_session(content, tensors, "the state_dict"), device)

    def copy(self) -> HopeCache:
        """A snapshot that later tokens do not change."""
        twin = HopeCache(offloading=self.offloading)
        twin.layers, twin.recording = [layer.copy() for layer in self.layers], self.recording
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> HopeCache:
        """The same as :meth:`copy`: tensors of a state are never changed."""
        return self.copy()

    def reset(self) -> None:
        """Forget the session: the next token starts from the meta-learned initial states."""
        super().reset()

    def activate_past_recording(self) -> None:
        """Remember forward passes from now on, so that :meth:`crop` can undo them: a state for each."""
        self.recording = True
        for layer in self.layers:
            layer.activate_past_recording()

    def end_past_recording(self) -> None:
        """Remember nothing from now on, and let go of what is remembered."""
        self.recording = False
        for layer in self.layers:
            layer.end_past_recording()

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be taken back: after :meth:`activate_past_recording`."""
        return True

    def detach(self) -> HopeCache:
        """Cut the graph in place, for truncated back-propagation; returns itself."""
        for layer in self.layers:
            layer.detach()
        return self

    def reorder_cache(self, beam_idx: Tensor) -> HopeCache:
        """Select samples by index, as beam search does; returns itself."""
        super().reorder_cache(beam_idx)
        return self

    def batch_select_indices(self, indices: Tensor) -> HopeCache:
        """Keep the samples with these indices; returns itself."""
        super().batch_select_indices(indices)
        return self

    def batch_repeat_interleave(self, repeats: int) -> HopeCache:
        """Repeat every sample; returns itself."""
        super().batch_repeat_interleave(repeats)
        return self

    def num_bytes(self) -> int:
        """Bytes of all state tensors; a memory that is its own snapshot counts twice, as it will be two."""
        return sum(t.numel() * t.element_size() for t in tensors_of(self.states))

    @property
    def is_compileable(self) -> bool:
        """Not as transformers means it, by states at fixed addresses."""
        return False

    @classmethod
    def _of(cls, states: list[Any], numbers: dict[str, Any], device: torch.device | str) -> HopeCache:
        ages = numbers["seen_tokens"]
        ages = ages if isinstance(ages, int) else torch.tensor(ages)
        cache = cls()._filled(states, ages, numbers.get("columns", _oldest(ages)))
        return cache._map_states(lambda t: t.to(device) if t.is_floating_point() else t)

    def _filled(self, states: Sequence[LayerState], ages: int | Tensor, columns: int) -> HopeCache:
        self.layers = [NestedMemoryLayer() for _ in states]
        for layer, state in zip(self.layers, states, strict=True):
            layer.state, layer.ages, layer.columns, layer.is_initialized = state, ages, columns, True
        return self

    def _map_states(self, function: Callable[[Tensor], Tensor]) -> HopeCache:
        for layer in self.layers:
            layer.map_state(function)
        return self

    def _numbers(self) -> dict[str, Any]:
        seen = self.seen_tokens
        return {
            "seen_tokens": seen.tolist() if isinstance(seen, Tensor) else seen,
            "columns": self.get_seq_length(),
        }

    def _ages(self) -> Tensor:
        """Tokens of every sample, ``[B]``."""
        seen = self.seen_tokens
        if isinstance(seen, Tensor):
            return seen
        return torch.full((len(tensors_of(self.states)[0]) if self.states else 0,), seen)


def _oldest(ages: int | Tensor) -> int:
    return int(ages.max()) if isinstance(ages, Tensor) else ages


__all__ = ["HopeCache", "LayerState"]
