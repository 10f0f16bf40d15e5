"""What Hope's models are given, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor
from transformers.cache_utils import Cache

from nestlearn.layers import Mixer, Padding
from nestlearn.models.hope.cache_layer import NestedMemoryLayer


def given_cache(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    """The cache by either of its names.

    Raises:
        ValueError: If both are given.
    """
    if past_key_values is not None and cache is not None:
        raise ValueError("give either past_key_values or cache, which are two names of one thing")
    return past_key_values if cache is None else cache


def check_packing(attention_mask: Tensor | None, others: Mapping[str, Any]) -> None:
    """Refuse several sequences in one row, which a memory would take for one.

    Args:
        attention_mask: Without one, positions say where a sequence begins.
        others: What else a model is given.

    Raises:
        ValueError: If positions start again, or the beginnings of sequences are given.
    """
    positions: Any = others.get("position_ids")
    again = attention_mask is None and positions is not None and positions.shape[-1] > 1
    if "cu_seq_lens_q" in others or (again and bool((positions.diff(dim=-1) <= 0).any())):
        raise ValueError(
            "several sequences are packed into one row, and a memory would read them as one: give each a row "
            "of its own, with padding and an attention_mask"
        )


def padding_of(attention_mask: Tensor | None, x: Tensor, columns: int) -> Padding | None:
    """The padding of a piece ``[B, T, d]``, from a mask of its columns or of all columns so far.

    Args:
        attention_mask: ``[B, T]`` or ``[B, columns + T]``; None for no padding.
        x: The piece.
        columns: Columns before the piece.

    Raises:
        ValueError: If the mask has another shape, or hides a token between others.
    """
    if attention_mask is None:
        return None
    shape, length = tuple(attention_mask.shape), x.shape[1]
    if len(shape) != 2 or shape[0] != x.shape[0] or shape[1] not in (length, columns + length):
        known = f"{length}" if not columns else f"{length} or {columns + length}"
        raise ValueError(
            f"attention_mask is {shape}, expected ({x.shape[0]}, {known}): one number for each column, of "
            "the piece or of all so far, zero at padding"
        )
    return Padding.of(attention_mask[:, -length:])


def layers_of(cache: Cache, mixers: Sequence[Mixer], x: Tensor) -> list[NestedMemoryLayer]:
    """The layers of a cache, new ones where it is empty.

    Args:
        cache: Of any class, if it is empty or its layers are ours.
        mixers: The model's, in order.
        x: The piece ``[B, T, d]`` that will be read.

    Raises:
        ValueError: If the cache belongs to another model or batch size.
    """
    if not cache.layers:
        cache.layers = [NestedMemoryLayer() for _ in mixers]
        if getattr(cache, "recording", False):  # asked for before there was a layer to remember
            for layer in cache.layers:
                layer.activate_past_recording()
    found = [_kind(layer) for layer in cache.layers]
    needed = [mixer.state_type.__name__ for mixer in mixers]
    if len(found) != len(needed) or any(f not in (None, n) for f, n in zip(found, needed, strict=True)):
        raise ValueError(
            f"past_key_values has {len(found)} layers ({', '.join(map(str, found))}), this model "
            f"{len(needed)} ({', '.join(needed)}): a cache belongs to one model"
        )
    layers = cast(list[NestedMemoryLayer], list(cache.layers))
    sizes = {layer.batch_size for layer in layers if layer.state is not None} - {x.shape[0]}
    if sizes:
        raise ValueError(
            f"past_key_values is of {sizes.pop()} sessions, the batch of {x.shape[0]}: choose them with "
            "batch_select_indices, or give each batch a cache of its own"
        )
    return layers


def columns_of(logits_to_keep: int | Tensor) -> slice | Tensor:
    """Which positions to put out: the last so many, 0 for all, or those with these indices."""
    return slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep


def _kind(layer: object) -> str | None:
    """What a layer of a cache holds; None for nothing yet."""
    if not isinstance(layer, NestedMemoryLayer):
        return type(layer).__name__
    return None if layer.state is None else type(layer.state).__name__


__all__ = ["check_packing", "columns_of", "given_cache", "layers_of", "padding_of"]
