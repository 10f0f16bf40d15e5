"""Output maps: how what a memory holds becomes an update (Eq. 52)."""

from __future__ import annotations

import torch
from torch import Tensor

from nestlearn.optim.bricks.batches import is_matrix
from nestlearn.optim.bricks.lists import Tensors, lengths
from nestlearn.optim.bricks.orthogonal import orthogonalized
from nestlearn.optim.bricks.sharded import whole

OUTPUTS = ("identity", "orthogonal")

#: Root mean square of an update at rate one, about AdamW's in training (Liu et al., 2025).
UPDATE_RMS = 0.2


def through(values: Tensors, name: str) -> Tensors:
    """Values through an output map.

    Args:
        values: What the memories hold, one per parameter.
        name: ``"identity"``, or ``"orthogonal"``: matrices by Newton-Schulz, times ``0.2 sqrt(longer side)``,
            so that AdamW's learning rates fit (``match_rms_adamw`` of ``torch.optim.Muon``); everything else
            at a root mean square of 0.2.

    Returns:
        One update per value.
    """
    if name == "identity":
        return values
    updates = [o.to(v.dtype, copy=True) for o, v in zip(orthogonalized(values), values, strict=True)]
    for update in updates:
        if is_matrix(update.shape):
            update.mul_(UPDATE_RMS * longer_side(update) ** 0.5)
    at_rms_([update for update in updates if not is_matrix(update.shape)], UPDATE_RMS)
    return updates


def longer_side(value: Tensor) -> int:
    """Of a matrix, or of a kernel as ``[out, rest]``."""
    return max(value.shape[0], value.shape[1:].numel())


def at_rms_(values: Tensors, size: float) -> None:
    """Bring values to a given root mean square; zero stays zero.

    Args:
        values: Any tensors, overwritten.
        size: The root mean square of each.
    """
    for value, length in zip(values, map(whole, lengths(values)), strict=True):
        factor = size * value.numel() ** 0.5 / torch.where(length > 0, length, torch.ones_like(length))
        value.mul_(factor)
