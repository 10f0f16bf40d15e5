"""Feature maps of gradients (Eq. 51)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rms(value: Tensor) -> Tensor:
    """Root of the mean square of all elements, a scalar; an empty tensor has 0."""
    length: Tensor = value.norm()
    root: float = max(value.numel(), 1) ** 0.5
    return length / root


def odd_polynomial(gradient: Tensor, coefficients: Sequence[float]) -> Tensor:
    """``g (c_0 + c_1 ĝ² + c_2 ĝ⁴ + ...)`` with ``ĝ = g / rms(g)``, element by element.

    Only odd powers keep the sign, and none depends on the gradient's unit. With ``(1,)`` it is g itself.

    Args:
        gradient: g, of any shape.
        coefficients: c_0, c_1, ..., at least one.

    Returns:
        Like the gradient.
    """
    if len(coefficients) == 1:
        return gradient * coefficients[0]
    scale = rms(gradient)
    square = (gradient / torch.where(scale > 0, scale, torch.ones_like(scale))).square()
    polynomial = torch.full_like(square, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        polynomial = polynomial * square + coefficient
    return gradient * polynomial
