"""What several tests use."""

from __future__ import annotations

from torch import Tensor


def relative_error(expected: Tensor, got: Tensor) -> float:
    """Root mean square of the difference over root mean square of the expected tensor."""
    difference = (expected.detach() - got.detach()).flatten().square().mean().sqrt()
    return (difference / (expected.detach().flatten().square().mean().sqrt() + 1e-8)).item()
