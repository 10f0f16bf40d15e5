"""Attention to the last tokens only: a state of constant size, and a cost that grows with the length."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.layers.softmax import Softmax
from nestlearn.memory import unit


class Window(NamedTuple):
    """The last ``window - 1`` keys and values of every sample.

    Keys are kept without positions: they are turned again relative to the tokens that read them, so that
    nothing in the state grows with a session's age, and samples of different ages may be one batch.

    Attributes:
        key: Unit keys, the newest last, ``[B, H, window - 1, e]``; zeros where there was no token yet.
        value: Their values, of the same shape.
        filled: How many of them are tokens, ``[B]`` int64 on the CPU.
    """

    key: Tensor
    value: Tensor
    filled: Tensor


def attend_window(
    softmax: Softmax,
    streams: tuple[Tensor, Tensor, Tensor],
    state: Window | None,
    window: int,
) -> tuple[Tensor, Window]:
    """Every token attends to itself and the ``window - 1`` tokens before it.

    A long piece is divided into blocks of ``window`` queries, each with the ``2 window - 1`` keys that one of
    them sees: the cost is linear in the length.

    Args:
        softmax: Temperature, positions and persistent keys.
        streams: Key, value and query, each ``[B, H, T, e]``.
        state: Window before the piece, or None at the start of a sequence.
        window: Tokens that a token sees, itself included.

    Returns:
        ``[B, H, T, e]`` and the window after the piece.

    Raises:
        ValueError: If the state belongs to another configuration or batch size.
    """
    key, value, query = unit(streams[0]), streams[1], streams[2]
    fresh = state is None
    state = _checked(state, key, window)
    filled = state.filled
    after = Window(
        recent(state.key, key), recent(state.value, value), (filled + key.shape[2]).clamp(max=window - 1)
    )
    length = key.shape[2]
    block, left = (length, _filled(state, fresh)) if length <= window else (window, window - 1)
    count = -(-length // block)
    missing = count * block - length
    key, value = (
        _blocks(F.pad(behind(old, new, left), (0, 0, 0, missing)), left, block)
        for old, new in ((state.key, key), (state.value, value))
    )
    query = _blocks(F.pad(softmax.scaled(query), (0, 0, 0, missing)), 0, block)
    mask = band(left, block, window, filled, count).to(key.device)
    y = softmax.attend(query, softmax.turned(query, left), softmax.turned(key, 0), value, mask)
    y = y.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)
    return y[:, :, :length], after


def behind(old: Tensor, new: Tensor, left: int) -> Tensor:
    """``[..., T, e]`` behind the last ``left`` tokens of ``[..., S, e]``."""
    return torch.cat([old[..., old.shape[-2] - left :, :], new], dim=-2)


def empty_window(key: Tensor, window: int) -> Window:
    """The window before the first token, for keys like ``[B, H, T, e]``."""
    empty = key.new_zeros(*key.shape[:2], window - 1, key.shape[3])
    return Window(empty, empty, torch.zeros(len(key), dtype=torch.long))


def recent(old: Tensor, new: Tensor) -> Tensor:
    """The newest tokens of ``[..., S, e]`` and then ``[..., T, e]``, as many as there were old ones.

    A copy: a view would keep the whole piece alive with the session.
    """
    size, length = old.shape[-2], new.shape[-2]
    if length >= size:
        return new[..., length - size :, :].clone()
    return torch.cat([old[..., length:, :], new], dim=-2)


def band(left: int, block: int, window: int, filled: Tensor, count: int) -> Tensor:
    """What each query of each block sees of its keys.

    Args:
        left: Keys before a block's first query.
        block: Queries of a block.
        window: Keys that a query sees at most, its own included.
        filled: ``[B]``, how many of the first block's ``left`` keys are tokens.
        count: Blocks; the keys before the others are all tokens.

    Returns:
        True where a key is seen, ``[block, left + block]`` for all alike or ``[B * count, 1, block, ...]``.
    """
    at = torch.arange(left + block)
    seen = (at <= at[left:, None]) & (at > at[left:, None] - window)
    if left == 0 or (not torch.compiler.is_compiling() and bool((filled >= left).all())):
        return seen
    there = at >= left - filled[:, None]
    first = (seen & there[:, None])[:, None]
    others = seen.expand(len(filled), count - 1, -1, -1)
    return torch.cat([first, others], dim=1).flatten(0, 1)[:, None]


def _filled(state: Window, fresh: bool) -> int:
    """Keys that a short piece, which is one block, has to look back at: as many as the oldest sample has."""
    if fresh:
        return 0
    # A graph that is being traced has no values to look at.
    return state.key.shape[2] if torch.compiler.is_compiling() else int(state.filled.max())


def _blocks(x: Tensor, left: int, block: int) -> Tensor:
    """``[B, H, left + count * block, e]`` as overlapping blocks ``[B * count, H, left + block, e]``."""
    return x.unfold(2, left + block, block).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _checked(state: Window | None, key: Tensor, window: int) -> Window:
    batch, heads, _, width = key.shape
    if state is None:
        return empty_window(key, window)
    expected = (batch, heads, window - 1, width)
    if tuple(state.key.shape) != expected or tuple(state.filled.shape) != expected[:1]:
        raise ValueError(
            f"window state is {tuple(state.key.shape)}, this layer and batch need {expected}: a state "
            "belongs to one configuration and one batch size"
        )
    return state


__all__ = ["Window", "attend_window", "band", "behind", "empty_window", "recent"]
