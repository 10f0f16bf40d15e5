"""Attention by its definition: every query with every key, under an explicit mask."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.layers import Softmax


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """Pairs ``(x_i, x_{i + e/2})`` of ``[..., T, e]`` turned by ``position / 10000^(2 i / e)``."""
    half = x.shape[-1] // 2
    out = x.clone()
    for t, position in enumerate(positions.tolist()):
        for i in range(half):
            angle = position * 10000.0 ** (-i / half)
            a, b = x[..., t, i], x[..., t, i + half]
            out[..., t, i] = a * math.cos(angle) - b * math.sin(angle)
            out[..., t, i + half] = a * math.sin(angle) + b * math.cos(angle)
    return out


def attention(
    softmax: Softmax,
    streams: tuple[Tensor, Tensor, Tensor],
    mask: Tensor,
    extra: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Softmax attention under a mask, ``[B, H, T, e]``.

    Args:
        softmax: Temperature and persistent keys.
        streams: Key, value and query of the tokens, each ``[B, H, T, e]``.
        mask: ``[T, T]``, True where a query sees a token.
        extra: A second key and value for each token, seen where the token is.
    """
    key, value, query = streams
    at = torch.arange(key.shape[2])
    plain = F.normalize(query, dim=-1) * softmax.sharpness**2
    groups = [(key, value), *([extra] if extra else [])]
    logits = [
        (turned(plain, at) @ turned(F.normalize(k, dim=-1), at).mT).masked_fill(~mask, -math.inf)
        for k, _ in groups
    ]
    values = [v for _, v in groups]
    if softmax.persistent_tokens:
        logits.append(plain @ F.normalize(softmax.persistent_key, dim=-1).mT)
        values.append(softmax.persistent_value.expand(key.shape[0], -1, -1, -1))
    return torch.cat(logits, dim=-1).softmax(-1) @ torch.cat(values, dim=2)


def sees(length: int, window: int | None) -> Tensor:
    """Causal mask ``[T, T]``: itself and the ``window - 1`` before."""
    t, s = torch.arange(length)[:, None], torch.arange(length)
    return (s <= t) & (s > t - (window or length))
