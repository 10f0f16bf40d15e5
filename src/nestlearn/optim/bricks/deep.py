"""A memory of gradients that is a small network, trained by its inner objective (Eq. 50).

The network reads the features of one element of the gradient and is shared by all elements of a parameter,
so that its size does not depend on the parameter's::

    f(u) = s·u + w₂·tanh(W₁ u)

It is odd: a zero gradient is remembered as zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Network(NamedTuple):
    """Weights of f: ``skip`` ``[F]``, ``inner`` ``[H, F]``, ``outer`` ``[H]``."""

    skip: Tensor
    inner: Tensor
    outer: Tensor


def initial(features: int, hidden: int, like: Tensor) -> Network:
    """The network that reads the mean of its features: what it does beyond that is learned.

    Args:
        features: F.
        hidden: H.
        like: Gives device and dtype.
    """
    skip = torch.full((features,), 1.0 / features, device=like.device, dtype=like.dtype)
    # Fixed frequencies spread over the features: no random numbers are drawn from the caller's generator.
    angle = torch.arange(1, hidden * features + 1, device=like.device, dtype=torch.float32)
    inner = torch.sin(angle * 1.618).view(hidden, features).to(like.dtype)
    return Network(skip, inner, torch.zeros(hidden, device=like.device, dtype=like.dtype))


def read(network: Network, keys: Tensor) -> Tensor:
    """``f(u)`` for every column u.

    Args:
        network: The weights.
        keys: ``[F, N]``.

    Returns:
        ``[N]``.
    """
    return network.skip @ keys + network.outer @ torch.tanh(network.inner @ keys)


def loss(network: Network, keys: Tensor, values: Tensor) -> Tensor:
    """The inner objective: half the mean squared error of ``f(u)`` (Eq. 50 with an L2 objective).

    Args:
        network: The weights.
        keys: ``[F, N]``.
        values: ``[N]``.
    """
    return 0.5 * (read(network, keys) - values).square().mean()


def write(
    network: Network, keys: Tensor, values: Tensor, rate: float | Tensor, decay: float | Tensor
) -> Network:
    """One gradient step on :func:`loss`, and a decay towards :func:`initial`.

    The gradient's length is at most one, so a step moves the network by at most ``rate``.

    Args:
        network: The weights.
        keys: ``[F, N]``.
        values: ``[N]``.
        rate: Inner learning rate.
        decay: Share kept of what was learned.

    Returns:
        The new weights.
    """
    hidden = torch.tanh(network.inner @ keys)
    error = (network.skip @ keys + network.outer @ hidden - values) / max(values.numel(), 1)
    back = network.outer[:, None] * (1 - hidden.square()) * error
    gradients = Network(keys @ error, back @ keys.mT, hidden @ error)
    square = torch.stack([g.square().sum() for g in gradients]).sum()
    step = rate / square.clamp(min=1.0).sqrt()
    start = initial(network.inner.shape[1], network.inner.shape[0], network.inner)
    moved = [
        origin + decay * (weight - origin) - step * gradient
        for origin, weight, gradient in zip(start, network, gradients, strict=True)
    ]
    return Network(*moved)
