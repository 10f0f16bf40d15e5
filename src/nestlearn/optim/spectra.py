"""Inverses and eigenvectors of second moments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def inverse(moment: Tensor, strength: float) -> Tensor:
    """``(I + M / strength)^-1`` of a moment ``M [n, n]``, by Cholesky."""
    device, moment = moment.device, _factorizable(moment)
    eye = torch.eye(moment.shape[0], dtype=moment.dtype, device=moment.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(eye + moment / strength)).to(device)


def eigen(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``[n]``, none below zero, and eigenvectors ``[n, n]`` (columns) of a moment.

    The largest number of each eigenvector is positive. Vectors of nearly equal values are still up to the
    machine and its number of threads: what is saved in this basis has to be saved with it.
    """
    values, vectors = torch.linalg.eigh(_factorizable(moment))
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values.clamp_min(0.0).to(moment.device), (vectors * largest.sign()).to(moment.device)


def turn(tensor: Tensor, bases: Mapping[str, Tensor], *, back: bool = False) -> Tensor:
    """``Q_D^T T Q_C``, or ``Q_D T Q_C^T``.

    Args:
        tensor: A weight's ``[out, in]``.
        bases: ``Q_C`` under ``"input"`` and ``Q_D`` under ``"output"``; a side without one stays as it is.
        back: Out of the basis.
    """
    into, out = bases.get("input"), bases.get("output")
    if into is not None:
        tensor = tensor @ (into.mT if back else into)
    if out is not None:
        tensor = (out if back else out.mT) @ tensor
    return tensor


def _factorizable(moment: Tensor) -> Tensor:
    """On a device that can factorise: MPS cannot, or not before PyTorch 2.11."""
    return moment.cpu() if moment.device.type == "mps" else moment
