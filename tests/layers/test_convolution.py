"""The causal convolution and its state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nestlearn.layers import CausalConvolution
from tests.helpers import relative_error

B, T, D = 2, 11, 5


def layer(width: int) -> CausalConvolution:
    torch.manual_seed(width)
    made = CausalConvolution(D, width).double()
    if width:
        torch.nn.init.normal_(made.bias)
    return made


def inputs(seed: int = 0, length: int = T) -> torch.Tensor:
    return torch.randn(B, length, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, 2, 4, 20])
def test_it_is_a_weighted_sum_of_the_last_inputs_then_silu(width: int) -> None:
    conv, x = layer(width), inputs()
    y, tail = conv(x)
    for t in range(T):
        total = conv.bias.clone().expand(B, D)
        for back in range(min(width, t + 1)):
            total = total + x[:, t - back] * conv.weight[:, 0, width - 1 - back]
        assert relative_error(F.silu(total), y[:, t]) < 1e-12
    padded = torch.cat([torch.zeros(B, width - 1, D, dtype=torch.float64), x], dim=1)
    assert torch.equal(tail, padded[:, padded.shape[1] - (width - 1) :])


def test_a_width_of_zero_is_the_identity() -> None:
    x = inputs()
    y, tail = layer(0)(x)
    assert torch.equal(x, y)
    assert tail.shape == (B, 0, D)
    assert list(layer(0).parameters()) == []


@pytest.mark.parametrize("width", [0, 1, 2, 4, 20])
@pytest.mark.parametrize("sizes", [[1] * T, [4, 7], [1, 9, 1], [T]])
def test_pieces_equal_one_pass(width: int, sizes: list[int]) -> None:
    conv, x = layer(width), inputs()
    whole, end = conv(x)
    tail, parts = None, []
    for piece in x.split(sizes, dim=1):
        y, tail = conv(piece, tail)
        parts.append(y)
    assert relative_error(whole, torch.cat(parts, dim=1)) < 1e-12
    assert torch.equal(end, tail)


@pytest.mark.parametrize("width", [1, 4])
def test_it_starts_near_the_identity(width: int) -> None:
    conv = CausalConvolution(64, width)
    assert torch.equal(conv.bias, torch.zeros(64))
    assert (conv.weight[:, 0, -1] - 1).abs().mean() < 0.2
    assert width == 1 or conv.weight[:, 0, :-1].abs().mean() < 0.2
