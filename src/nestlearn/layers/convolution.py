"""Causal depth-wise convolution with a state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalConvolution(nn.Module):
    """Depth-wise convolution over the last ``width`` tokens, then SiLU (SPEC 4.5, 6.22).

    Args:
        channels: Channels, each with a kernel of its own.
        width: Tokens that a kernel sees, this one included; 0 leaves the input as it is.

    Shapes: ``[B, T, channels]`` in and out; the state is the tail ``[B, width - 1, channels]``.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        if width:
            self.weight = nn.Parameter(torch.empty(channels, 1, width))
            self.bias = nn.Parameter(torch.zeros(channels))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start near the identity: the last tap is one, the others small."""
        if self.width:
            nn.init.normal_(self.weight, std=0.1)
            nn.init.zeros_(self.bias)
            with torch.no_grad():
                self.weight[:, :, -1] += 1.0

    def forward(self, x: Tensor, tail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve a piece of a sequence.

        Args:
            x: ``[B, T, channels]``.
            tail: The last ``width - 1`` inputs before ``x``, or None at the start of a sequence.

        Returns:
            The output ``[B, T, channels]`` and the new tail.

        Raises:
            ValueError: If the tail belongs to another batch size or configuration.
        """
        expected = (x.shape[0], max(self.width - 1, 0), x.shape[2])
        if tail is not None and tuple(tail.shape) != expected:
            raise ValueError(
                f"convolution state is {tuple(tail.shape)}, this layer and batch need {expected}: "
                "a state belongs to one configuration and one batch size"
            )
        if not self.width:
            return x, x[:, :0].clone()
        if tail is None:
            tail = x.new_zeros(x.shape[0], self.width - 1, x.shape[2])
        padded = torch.cat([tail.mT, x.mT], dim=2)  # [B, channels, T], the convolution's own layout
        y = F.silu(F.conv1d(padded, self.weight, self.bias, groups=x.shape[2])).mT
        # A copy: a view would keep the whole piece alive with the session.
        rest = padded[:, :, padded.shape[2] - (self.width - 1) :].mT
        return y, rest.clone(memory_format=torch.contiguous_format)
