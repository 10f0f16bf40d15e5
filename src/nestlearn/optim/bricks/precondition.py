"""Values: what a gradient stands for once its size elsewhere is known (Eq. 38, 101 to 111)."""

from __future__ import annotations

import torch
from torch import Tensor

from nestlearn.optim.bricks.lists import Number, Tensors, add_, divided, roots


def divided_by_root(
    values: Tensors,
    squares: Tensors,
    eps: float,
    weights: Tensors | None = None,
    *,
    scales: Tensors | None = None,
    damping: float = 0.0,
) -> Tensors:
    """``(value / scale) / (sqrt(squares / weight) + eps)``: the diagonal closed form (Eq. 105).

    With damping k: ``(1 + k) (value / scale) / (root + k rms(root) + (1 + k) eps)`` of each tensor's roots.

    Args:
        values: What to divide.
        squares: Sums or averages of squared gradients.
        eps: Added to the root.
        weights: Total weights of the averages, scalars; None for sums.
        scales: Likewise of the values.
        damping: ``k``.
    """
    divisors = roots(squares)
    for i, divisor in enumerate(divisors):
        # All scalars go into the divisor: one pass over it, in place of one over every operand.
        scale: Number = 1.0 if scales is None else scales[i]
        factor = scale / (1.0 + damping)
        if weights is not None:
            factor = factor / weights[i].sqrt()
        shift = scale * eps
        if damping:
            (size,) = roots([squares[i].mean()])
            # In the size's dtype: the scalars are of double precision, which not every device has.
            shift = damping * _like(factor, size) * size + _like(shift, size)
        if damping or weights is not None or scales is not None:
            divisor.mul_(factor)
        divisor.add_(shift)
    return divided(values, divisors)


def _like(value: Number, other: Tensor) -> Number:
    return value.to(other.dtype) if isinstance(value, Tensor) else value


def shifted_roots(squares: Tensors, eps: float, weights: Tensors) -> Tensors:
    """``sqrt(squares) + eps sqrt(weight)``: the divisor of :func:`divided_by_root` up to a factor."""
    divisors = roots(squares)
    for divisor, weight in zip(divisors, weights, strict=True):
        divisor.add_(eps * weight.sqrt())
    return divisors


def write_factors_(left: Tensor, right: Tensor, gradient: Tensor, decay: float) -> None:
    """Averages of ``g gᵀ`` and ``gᵀ g``, the Kronecker factors of Eq. 106's outer product.

    Args:
        left: ``[out, out]``, overwritten. A factor of shape ``[0, 0]`` is left out.
        right: ``[in, in]``, overwritten.
        gradient: ``[out, in]``.
        decay: Decay of the averages.
    """
    for factor, rows in ((left, gradient), (right, gradient.mT)):
        if factor.numel():
            add_([factor.mul_(decay)], [rows @ rows.mT], 1 - decay)


def inverse_root(factor: Tensor, power: float, eps: float) -> Tensor:
    """``factor ** -power`` of a symmetric positive matrix, by its eigenvectors.

    Args:
        factor: ``[n, n]``.
        power: For example 1/4.
        eps: Added to the eigenvalues, in units of the largest.

    Returns:
        Like ``factor``; the unit matrix if that is zero.
    """
    wide = factor.to(torch.promote_types(factor.dtype, torch.float32))
    values, vectors = torch.linalg.eigh(wide)
    largest = values[-1:]
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    powers = (values.clamp(min=0) / largest + eps).pow(-power) * largest.pow(-power)
    powers = torch.where(values[-1:] > 0, powers, torch.ones_like(powers))
    root: Tensor = (vectors * powers) @ vectors.mT
    return root.to(factor.dtype)


def between(value: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``left value right``; a side of shape ``[0, 0]`` is the unit matrix."""
    if left.numel():
        value = left @ value
    return value @ right if right.numel() else value
