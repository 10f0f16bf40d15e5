"""Newton-Schulz: a memory read through the nearest semi-orthogonal matrix (Eq. 42 to 44, 52)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nestlearn.optim.bricks.batches import as_matrix, by_shape, product_dtype, stacked, unstacked
from nestlearn.optim.bricks.lists import Tensors
from nestlearn.optim.bricks.sharded import split_like, whole

#: Coefficients of Muon's quintic (Jordan et al., 2024). Its singular values end between 0.68 and 1.14.
QUINTIC = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    matrices: Tensor, steps: int = 5, coefficients: Sequence[float] = QUINTIC, eps: float = 1e-7
) -> Tensor:
    """Bring all singular values near one: ``X = a X + (b A + c A²) X`` with ``A = X Xᵀ``.

    Starts from ``X / ||X||_F``. The polynomial is odd: zero stays zero, and singular vectors stay.

    Args:
        matrices: ``[rows, columns]`` or ``[n, rows, columns]``.
        steps: Iterations.
        coefficients: a, b, c.
        eps: Smallest length to divide by.

    Returns:
        Like ``matrices``.
    """
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    sum_of_product = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        gram = sum_of_product(gram, gram, gram, beta=b, alpha=c)
        x = sum_of_product(x, gram, x, beta=a)
    return x.mT if tall else x


def orthogonalized(
    values: Sequence[Tensor], steps: int = 5, coefficients: Sequence[float] = QUINTIC, eps: float = 1e-7
) -> Tensors:
    """Every matrix through :func:`newton_schulz`, those of one shape together.

    Args:
        values: Matrices; ``[out, ...]`` counts as ``[out, rest]``. What is no matrix stays as it is.
        steps: Iterations.
        coefficients: Of the polynomial.
        eps: Smallest length to divide by.

    Returns:
        In the order and shapes of the values; matrices in :func:`~.batches.product_dtype`.
    """
    results = list(values)
    for indices in by_shape(values):
        own = [whole(values[i]) for i in indices]
        dtype = product_dtype(own[0].dtype)
        # A batch of one would be multiplied more slowly than the matrix itself.
        batch = stacked(own, dtype) if len(own) > 1 else as_matrix(own[0]).to(dtype)
        found = newton_schulz(batch, steps, coefficients, eps)
        for i, result in zip(indices, unstacked(found, own), strict=True):
            results[i] = split_like(result, values[i])
    return results
