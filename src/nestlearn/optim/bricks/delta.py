"""Delta memory: before a gradient is written, what the memory holds along it is erased (Eq. 48, 49)."""

from __future__ import annotations

import torch
from torch import Tensor

from nestlearn.optim.bricks.batches import as_matrix, is_matrix, product_dtype
from nestlearn.optim.bricks.lists import Number, Tensors, add_, lengths, scale_
from nestlearn.optim.bricks.sharded import split_like, whole

SIDES = ("left", "right", "smaller", "whole")


def inverse_square(gradients: Tensors) -> Tensors:
    """``1 / ||g||²`` of each gradient, a scalar; 0 for one too short for its square to be a number."""
    squares = [
        whole(norm).to(torch.promote_types(norm.dtype, torch.float32)).square() for norm in lengths(gradients)
    ]
    # The one in place of what has no inverse keeps the derivative finite.
    fine = [square >= torch.finfo(square.dtype).tiny for square in squares]
    return [
        f / torch.where(f, square, torch.ones_like(square)) for f, square in zip(fine, squares, strict=True)
    ]


def erased(memory: Tensor, key: Tensor, weight: Number = 1.0, side: str = "right") -> Tensor:
    """What memories hold along keys, to be taken from them (Eq. 49).

    One gradient step on ``1/2 ||m kᵀ||²`` (right) or ``1/2 ||kᵀ m||²`` (left).

    Args:
        memory: m, ``[..., out, in]``.
        key: k, like the memory.
        weight: Factor of the result; ``1 / ||k||²`` makes the key one of length one, which has no eigenvalue
            above one, so that ``m - rho erased(m)`` does not overshoot for rho in [0, 1].
        side: ``"right"`` for ``m kᵀk`` (Eq. 49), ``"left"`` for ``k kᵀm`` (Eq. 22 of the paper's shorter
            version), ``"smaller"`` for the one whose Gram matrix is smaller.

    Returns:
        Like the memory.
    """
    rows, columns = memory.shape[-2:]
    # In both orders there are two products; the one between has the smaller side, and takes the weight.
    if side == "right" or (side == "smaller" and columns <= rows):
        if columns < rows:
            return memory @ (key.mT @ key * weight)
        return (memory @ key.mT * weight) @ key
    if rows <= columns:
        return (key @ key.mT * weight) @ memory
    return key @ (key.mT @ memory * weight)


def write_(memories: Tensors, gradients: Tensors, decay: Number, erase: Number, side: str) -> None:
    """``m (decay I - erase kᵀk) + g`` with ``k = g / ||g||`` (Eq. 49).

    What has no two sides is erased element by element: ``m (decay - erase k²) + g``.

    Args:
        memories: m, overwritten.
        gradients: g, of the same shapes.
        decay: In [0, 1].
        erase: In [0, decay]; at 0 this is the heavy ball.
        side: See :func:`erased`; or ``"whole"``, which takes each gradient as one row, the ``[1, n]`` case of
            ``"right"`` whatever its shape: ``m - erase <m, k> k``, without a product of matrices.
    """
    along: Tensors = []
    if isinstance(erase, Tensor) or erase:
        weights = inverse_square(gradients)
        along = [_along(m, g, w, side) for m, g, w in zip(memories, gradients, weights, strict=True)]
    scale_(memories, decay)
    if along:
        add_(memories, along, -erase)
    add_(memories, gradients)


def _along(memory: Tensor, gradient: Tensor, weight: Tensor, side: str) -> Tensor:
    """:func:`erased` with the gradient at length one for a key."""
    if side == "whole":
        return gradient * (whole((memory * gradient).sum(dtype=weight.dtype)) * weight)
    if not is_matrix(memory.shape):
        return memory * (gradient.to(weight.dtype).square() * weight).to(memory.dtype)
    dtype = product_dtype(memory.dtype)
    key, held = as_matrix(whole(gradient)).to(dtype), as_matrix(whole(memory)).to(dtype)
    return split_like(erased(held, key, weight.to(dtype), side).reshape(memory.shape), memory)
