"""Attention against its definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.layers import Attention, AttentionState
from nestlearn.layers.rotary import rotary, rotate
from tests.helpers import relative_error

B, T, D, H = 2, 9, 16, 2
E = D // H


def layer(conv_size: int = 4) -> Attention:
    torch.manual_seed(0)
    made = Attention(D, H, conv_size=conv_size).double()
    torch.nn.init.uniform_(made.softmax.sharpness, 1.0, 3.0)
    return made


def inputs(length: int = T, seed: int = 0) -> Tensor:
    return torch.randn(B, length, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotated(x: Tensor, position: int) -> Tensor:
    """Pairs ``(x_i, x_{i + e/2})`` turned by ``position / theta^(2 i / e)``, for ``[e]``."""
    out = x.clone()
    for i in range(E // 2):
        angle = position * 10000.0 ** (-2 * i / E)
        a, b = x[i], x[i + E // 2]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + E // 2] = a * math.sin(angle) + b * math.cos(angle)
    return out


def by_hand(att: Attention, x: Tensor) -> Tensor:
    """Token by token and head by head; no convolution."""
    out = torch.zeros_like(x)
    streams = [proj(x).view(B, -1, H, E) for proj in (att.key_proj, att.value_proj, att.query_proj)]
    for b in range(B):
        for h in range(H):
            k, v, q = (s[b, :, h] for s in streams)
            for t in range(x.shape[1]):
                query = rotated(F.normalize(q[t], dim=0), t) * att.softmax.sharpness[h, 0, 0] ** 2
                logits = torch.stack([query @ rotated(F.normalize(k[s], dim=0), s) for s in range(t + 1)])
                out[b, t, h * E : (h + 1) * E] = logits.softmax(0) @ v[: t + 1]
    return att.out_proj(out * F.silu(att.gate_proj(x)))


def test_it_is_softmax_attention_with_rotated_unit_queries_and_keys() -> None:
    att, x = layer(conv_size=0), inputs()
    assert relative_error(by_hand(att, x), att(x)[0]) < 1e-5  # rotations are computed in float32


@pytest.mark.parametrize("conv_size", [0, 1, 4])
@pytest.mark.parametrize("sizes", [[1] * T, [4, 5], [8, 1], [2, 6, 1]])
def test_pieces_equal_one_pass(conv_size: int, sizes: list[int]) -> None:
    att, x = layer(conv_size), inputs()
    whole, end = att(x)
    state: AttentionState | None = None
    parts = []
    for piece in x.split(sizes, dim=1):
        y, state = att(piece, state)
        parts.append(y)
    assert relative_error(whole, torch.cat(parts, dim=1)) < 1e-12
    for expected, got in zip(end, state, strict=True):
        assert relative_error(expected, got) < 1e-12


def test_only_the_distance_between_tokens_matters() -> None:
    """Rotations cancel: a hundred positions later, all logits are the same."""
    q, k = (torch.randn(1, H, 5, E, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    logits = []
    for past in (0, 100):
        cos, sin = rotary(past, 5, E, 10000.0, q)
        logits.append(rotate(q, cos, sin) @ rotate(k, cos, sin).mT)
    assert relative_error(*logits) < 1e-5


def test_logits_are_bounded_by_the_inverse_temperature() -> None:
    att = layer(conv_size=0)
    for scale in (1e-3, 1e6):
        assert torch.isfinite(att(inputs() * scale)[0]).all()


def test_the_inverse_temperature_starts_at_sixteen() -> None:
    att = Attention(D, H)
    assert torch.equal(att.softmax.sharpness**2, torch.full((H, 1, 1), 16.0))
    torch.nn.init.zeros_(att.softmax.sharpness)
    att.softmax.reset_parameters()
    assert torch.equal(att.softmax.sharpness**2, torch.full((H, 1, 1), 16.0))
