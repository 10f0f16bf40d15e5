"""Matrices of one shape in one batch: a product of many small matrices costs less than many products."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nestlearn.optim.bricks.lists import Tensors


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the products of memories in ``dtype``: bfloat16, and float64 for float64.

    A product steers an update or damps a memory; its last bits do not matter, and most processors multiply
    matrices in bfloat16 several times faster.
    """
    return torch.float64 if dtype == torch.float64 else torch.bfloat16


def is_matrix(shape: torch.Size) -> bool:
    """Whether a parameter maps vectors to vectors: as ``[out, rest]`` it has several rows and columns.

    The kernel of a depth-wise convolution, ``[channels, 1, width]``, does not: its rows never meet.
    """
    depthwise = len(shape) > 2 and shape[1] == 1
    return len(shape) > 1 and not depthwise and min(shape[0], shape[1:].numel()) > 1


def as_matrix(value: Tensor) -> Tensor:
    """``[out, rest]``: a convolution's kernel as the matrix that it multiplies patches by."""
    return value.flatten(1)


def by_shape(values: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of the matrices of each shape, dtype and device; what is no matrix is in none."""
    places: dict[object, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        if is_matrix(value.shape):
            key = (value.shape[0], value.shape[1:].numel(), value.dtype, value.device)
            places[key].append(index)
    yield from places.values()


def stacked(values: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """``[n, rows, columns]`` of n matrices of one shape."""
    if any(value.requires_grad for value in values):
        return torch.stack([as_matrix(value) for value in values]).to(dtype)
    first = values[0]
    shape = (len(values), first.shape[0], first.shape[1:].numel())
    batch = torch.empty(shape, dtype=dtype, device=first.device)
    places = [place.view(value.shape) for place, value in zip(batch.unbind(), values, strict=True)]
    torch._foreach_copy_(places, list(values))
    return batch


def unstacked(batch: Tensor, values: Sequence[Tensor]) -> Tensors:
    """The matrices of a batch, or a single one, each in the shape of its value."""
    matrices = batch.unbind() if batch.dim() > 2 else (batch,)
    return [matrix.reshape(value.shape) for matrix, value in zip(matrices, values, strict=True)]
