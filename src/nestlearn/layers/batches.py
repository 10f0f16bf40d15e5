"""Samples of states: chosen, repeated, and put together to another batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.layers.attention import AttentionState, WindowState
from nestlearn.layers.self_modifying import MixerState
from nestlearn.layers.state import map_state
from nestlearn.layers.titans import GateState, LayeredState
from nestlearn.layers.titans_context import ContextState

LayerState = MixerState | AttentionState | WindowState | ContextState | GateState | LayeredState


def select_samples(state: LayerState, index: Tensor) -> LayerState:
    """The samples with these indices ``[N]`` (int64), each as often as it is named."""
    return map_samples(state, lambda t: t.index_select(0, index.to(t.device)))


def map_samples(state: LayerState, function: Callable[[Tensor], Tensor]) -> LayerState:
    """Apply a function that chooses or repeats samples along axis 0."""
    mapped: LayerState = map_state(function, [state])
    return _at_boundary(mapped)


def join_samples(states: Sequence[LayerState]) -> LayerState:
    """One state of several of one layer, whose batch is all of theirs, in order.

    Raises:
        ValueError: If they belong to different models, types or devices.
    """
    longest = max((s.key.shape[2] for s in states if isinstance(s, AttentionState)), default=0)
    states = [_resized(s, longest) if isinstance(s, AttentionState) else s for s in states]
    joined: LayerState = map_state(_cat, states)
    return joined


def trimmed(state: LayerState) -> LayerState:
    """The state without places that none of its samples uses: full attention without its longer samples."""
    return _resized(state, int(state.filled.max())) if isinstance(state, AttentionState) else state


def _resized(state: AttentionState, places: int) -> AttentionState:
    """The same tokens at the end of so many places."""
    more = places - state.key.shape[2]
    if more == 0:
        return state
    key, value = (F.pad(t[:, :, max(-more, 0) :], (0, 0, max(more, 0), 0)) for t in (state.key, state.value))
    return state._replace(key=key.contiguous(), value=value.contiguous())


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


def ages_of(samples: Any) -> int | Tensor:
    """Tokens of samples ``[B]`` as one number where they are the same."""
    same = len(samples) > 0 and bool((samples == samples[:1]).all())
    return int(samples[0]) if same else samples


__all__ = ["LayerState", "ages_of", "join_samples", "map_samples", "select_samples", "trimmed"]
