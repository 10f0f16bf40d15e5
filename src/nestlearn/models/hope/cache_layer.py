"""One layer of a cache: a mixer's state, in the form that transformers' caches expect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from nestlearn.layers import LayerState, Mixer, Padding, ages_of, map_samples, map_state, mix_padded

#: What a layer is called in ``config.layer_types``.
LAYER_TYPE = "nested_memory"


class Piece(NamedTuple):
    """One forward pass that can be undone.

    Attributes:
        before: State before it; None at the start of a session.
        columns: Columns before it.
        ages: Tokens of the samples before it.
        mixer: What read it.
        x: Its inputs ``[B, T, d]``.
        padding: Which of them are tokens; None for all.
    """

    before: LayerState | None
    columns: int
    ages: int | Tensor
    mixer: Mixer
    x: Tensor
    padding: Padding | None


class NestedMemoryLayer(CacheLayerMixin):
    """State of one layer of Hope: fast weights, convolution tails, windows, or all keys of full attention.

    The class registers itself with transformers as the layer type ``"nested_memory"``, so that a cache that
    transformers builds from a :class:`~nestlearn.models.hope.HopeConfig` consists of these.

    Tensors are never changed in place: what holds a state has a snapshot. A reset layer has no state, and the
    next token starts from the meta-learned initial one. :meth:`crop` goes back to the state before a forward
    pass and reads again, with the mixer alone, what stays of it; passes are remembered from
    :meth:`activate_past_recording` on, until the next crop.

    Attributes:
        state: After the last token; None before the first.
        columns: Columns that went through, padding included.
        ages: Tokens that went through: a number, or int64 ``[B]`` on the CPU where samples differ.
    """

    _layer_type = LAYER_TYPE
    is_compileable = False
    is_croppable = True
    is_sliding: ClassVar[bool] = False
    supports_early_init = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.state: LayerState | None = None
        self.columns = 0
        self.ages: int | Tensor = 0
        self.record_past = False
        self._pieces: list[Piece] = []
        self._device: torch.device | None = None  # where the state is, if that is known

    def commit(self, mixer: Mixer, x: Tensor, padding: Padding | None, after: LayerState) -> None:
        """Take the state after a forward pass.

        Args:
            mixer: What read the piece.
            x: Its inputs ``[B, T, d]``.
            padding: Which of them are tokens; None for all.
            after: The new state.
        """
        if self.record_past:
            self._pieces.append(Piece(self.state, self.columns, self.ages, mixer, x, padding))
        self.state, self._device = after, x.device
        self.columns += x.shape[1]
        self.ages = _later(self.ages, x, padding)
        self.is_initialized = True

    def activate_past_recording(self) -> None:
        """Remember passes from now on, so that :meth:`crop` can undo them: a state for each until a crop."""
        self.record_past = True

    def end_past_recording(self) -> None:
        """Remember nothing from now on, and let go of what is remembered."""
        self.record_past, self._pieces = False, []

    def crop(self, tokens_to_remove: int) -> None:
        """Take tokens back, exactly: as if they had never been read.

        Args:
            tokens_to_remove: Negative or zero: so many columns are taken back. Positive: so many are kept, as
                older versions of transformers mean it. What was remembered so far is let go.

        Raises:
            ValueError: If the passes to undo were not remembered; the state is unchanged.
        """
        keep = min(
            tokens_to_remove if tokens_to_remove > 0 else self.columns + tokens_to_remove, self.columns
        )
        if keep == self.columns:
            self._pieces = []
            return
        piece = next((p for p in reversed(self._pieces) if p.columns <= keep), None)
        if piece is None or keep < 0:
            known = min((p.columns for p in self._pieces), default=self.columns)
            raise ValueError(
                f"cannot go back to {keep} of {self.columns} tokens, only to {known} or more: what a memory "
                "was is gone unless it was remembered. Call activate_past_recording() before, or keep "
                "cache.copy()"
            )
        self.state, self.columns, self.ages = piece.before, piece.columns, piece.ages
        self._pieces, self._device = [], None
        if keep > piece.columns:
            self._repeat(piece, keep - piece.columns)

    def _repeat(self, piece: Piece, columns: int) -> None:
        """Read the first columns of a piece once more."""
        x = piece.x[:, :columns]
        padding = None if piece.padding is None else piece.padding.part(columns)
        _, after = mix_padded(piece.mixer, x, self.state_on(x.device), padding)
        assert after is not None
        recording, self.record_past = self.record_past, False
        self.commit(piece.mixer, x, padding, after)
        self.record_past = recording

    def reset(self) -> None:
        """Forget everything: the next token starts from the meta-learned initial state, not from zeros."""
        self.state, self.columns, self.ages, self._pieces = None, 0, 0, []
        self.is_initialized = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Choose samples by index ``[N]``, as beam search does."""
        self.map_samples(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the samples with these indices (int64) or where this is True (bool)."""
        self.map_samples(lambda t: t[indices.to(t.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        self.map_samples(lambda t: t.repeat_interleave(repeats, dim=0))

    def map_samples(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply a function that chooses or repeats samples along axis 0, to what is remembered as well."""
        if isinstance(self.ages, Tensor):
            self.ages = ages_of(function(self.ages))
        if self.state is not None:
            self.state = map_samples(self.state, function)
        self._pieces = [_of_samples(piece, function) for piece in self._pieces]

    def map_state(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply a function to every tensor of the state."""
        self._device = None
        if self.state is not None:
            self.state = map_state(function, [self.state])

    def detach(self) -> None:
        """Cut the graph, of what is remembered too."""
        self.map_state(torch.Tensor.detach)
        self._pieces = [
            piece._replace(
                before=None if piece.before is None else map_state(torch.Tensor.detach, [piece.before]),
                x=piece.x.detach(),
            )
            for piece in self._pieces
        ]

    def state_on(self, device: torch.device) -> LayerState | None:
        """The state with its tensors on a device; positions, which are whole numbers, stay on the CPU."""
        if self.state is None or self._device == device:
            return self.state
        here: LayerState = map_state(
            lambda t: t.to(device, non_blocking=True) if t.is_floating_point() else t, [self.state]
        )
        return here

    def offload(self) -> None:
        """Move the state to the CPU."""
        self.map_state(lambda t: t.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        """Nothing: a layer's state comes to the device of its inputs when it is read."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what is remembered, which refers to the model."""
        return {**self.__dict__, "_pieces": []}

    def copy(self) -> NestedMemoryLayer:
        """A snapshot that later tokens do not change; it remembers no passes."""
        twin = NestedMemoryLayer()
        twin.state, twin.columns, twin.ages = self.state, self.columns, self.ages
        twin.is_initialized, twin.record_past = self.is_initialized, self.record_past
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> NestedMemoryLayer:
        """The same as :meth:`copy`: tensors of a state are never changed."""
        return self.copy()

    @property
    def batch_size(self) -> int:
        """Samples.

        Raises:
            AttributeError: Before the first token, where transformers asks whether it is known.
        """
        if self.state is None:
            raise AttributeError("a session has no batch size before its first token")
        return len(self.state[-1])

    def get_seq_length(self) -> int:
        """Columns that went through, padding included."""
        return self.columns

    def get_max_length(self) -> int:
        """No maximum: -1."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No maximum, by the name that older versions of transformers have for it."""
        return -1

    def get_mask_sizes(self, query_length: Any, *args: Any) -> tuple[int, int]:
        """Length and offset of the keys that transformers' masks would cover: all columns, from 0."""
        # Older versions give the positions, later versions how many there are.
        length = len(query_length) if isinstance(query_length, Tensor) else int(query_length)
        return self.columns + length, 0

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Refused: see :meth:`update`."""
        self.update()

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refused: a memory has no keys and values to append to.

        Raises:
            ValueError: Always; it is a model of another kind that calls this.
        """
        raise ValueError(
            "this cache holds memories, which have no keys and values to append to: a cache belongs to one "
            "kind of model"
        )


def _later(ages: int | Tensor, x: Tensor, padding: Padding | None) -> int | Tensor:
    if padding is None:
        return ages + x.shape[1]
    return ages_of(padding.lengths + ages)


def _of_samples(piece: Piece, function: Callable[[Tensor], Tensor]) -> Piece:
    before = None if piece.before is None else map_samples(piece.before, function)
    ages = ages_of(function(piece.ages)) if isinstance(piece.ages, Tensor) else piece.ages
    padding = None if piece.padding is None else Padding.of(function(piece.padding.mask))
    return piece._replace(before=before, ages=ages, x=function(piece.x), padding=padding)


__all__ = ["LAYER_TYPE", "NestedMemoryLayer", "Piece"]
