"""The delta rule for weights: a step on a squared inner objective (Eq. 55 to 57)."""

from __future__ import annotations

import torch
from torch import Tensor

from nestlearn.optim.bricks.lists import Number, number


def proximal(weight: Tensor, gradient: Tensor, moment: Tensor, rate: Number, erase: Number = 1.0) -> Tensor:
    """``(W - rate G)(I + rate erase C)^-1``: the exact minimum of Eq. 56 for a batch.

    Args:
        weight: W, ``[out, in]``.
        gradient: G, like W.
        moment: C, the inputs' second moment ``mean x xᵀ``, ``[in, in]``.
        rate: eta.
        erase: Weight of the part that forgets.

    Returns:
        The new weight, like W.
    """
    rate, erase = number(rate), number(erase)
    system = moment * (rate * erase) + torch.eye(moment.shape[0], dtype=moment.dtype, device=moment.device)
    moved = (weight - rate * gradient).to(moment.dtype)
    return torch.cholesky_solve(moved.mT, torch.linalg.cholesky(system)).mT.to(weight.dtype)


def explicit(weight: Tensor, gradient: Tensor, moment: Tensor, rate: Number, erase: Number = 1.0) -> Tensor:
    """``W (I - rate erase C) - rate G``: one gradient step on the objective of :func:`proximal`.

    Args:
        weight: W, ``[out, in]``.
        gradient: G, like W.
        moment: C, ``[in, in]``.
        rate: eta.
        erase: Weight of the part that forgets.

    Returns:
        The new weight, like W.
    """
    rate, erase = number(rate), number(erase)
    forgotten = (weight.to(moment.dtype) @ moment).to(weight.dtype)
    return weight - (rate * erase) * forgotten - rate * gradient
