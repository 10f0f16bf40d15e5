"""Features that nobody trains."""

from __future__ import annotations

import torch
from torch import nn


def random_features(
    inputs: int, size: int, *, gain: float = 2.0, shift: float = 0.3, seed: int = 0
) -> nn.Sequential:
    """``relu(W x + b)`` with weights that are drawn and stay: inputs ``[B, ...]`` to features ``[B, size]``.

    A linear head on them reaches classes that no linear head on the inputs does (Rahimi & Recht 2008; in
    class-incremental learning McDonnell et al. 2023, arXiv 2307.02251), and nothing in them can be forgotten.

    Args:
        inputs: Numbers of an input.
        size: Features.
        gain: Standard deviation of the weights in units of ``sqrt(2 / inputs)``.
        shift: Standard deviation of the biases.
        seed: Of the draw.

    Raises:
        ValueError: For sizes below 1, or a gain or shift that is negative.
    """
    if min(inputs, size) < 1:
        raise ValueError(f"inputs and size must be at least 1, got {inputs} and {size}")
    if not min(gain, shift) >= 0.0:
        raise ValueError(f"gain and shift must not be negative, got {gain} and {shift}")
    layer = nn.utils.skip_init(nn.Linear, inputs, size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.normal_(0.0, gain * (2.0 / inputs) ** 0.5, generator=generator)
        layer.bias.normal_(0.0, shift, generator=generator)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU()).requires_grad_(False)
