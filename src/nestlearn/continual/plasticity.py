"""Signs that a network can still learn: units that live, features that differ, weights that are small.

The three that Dohare et al. (2024, Nature 632; arXiv 2306.13812) follow along a stream. Units are those of
``nn.ReLU`` modules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["dead_units", "effective_rank", "plasticity", "stable_rank", "weight_norm"]


def plasticity(network: nn.Module, inputs: Tensor) -> dict[str, float]:
    """All three measures.

    Args:
        network: Has ``nn.ReLU`` modules.
        inputs: ``[n, ...]``; as many as the last hidden layer has units or more, for the rank is not above n.

    Returns:
        ``dead``: :func:`dead_units`. ``rank``: :func:`effective_rank` of the last hidden layer over its
        number of units. ``weight``: :func:`weight_norm`.

    Raises:
        ValueError: See there.
    """
    layers = _hidden(network, inputs)
    last = layers[-1]
    rank = effective_rank(last) / last.shape[1]
    return {"dead": _dead(layers), "rank": rank, "weight": weight_norm(network)}


def dead_units(network: nn.Module, inputs: Tensor) -> float:
    """Share of the hidden units that are 0 on all inputs, of those of all layers.

    Args:
        network: Has ``nn.ReLU`` modules.
        inputs: ``[n, ...]``.

    Raises:
        ValueError: If no ``nn.ReLU`` module is called, or there are no inputs.
    """
    return _dead(_hidden(network, inputs))


def effective_rank(features: Tensor) -> float:
    """``exp(-sum_i p_i log p_i)`` with ``p = s / sum(s)`` of the singular values s (Roy & Vetterli 2007).

    From 1, where all rows are multiples of one, to the smaller side, where all singular values are equal; 0
    for zeros.

    Args:
        features: ``[n, units]``.

    Raises:
        ValueError: If they are no matrix with entries, or not finite.
    """
    shares = _shares(features)
    return float(torch.special.entr(shares).sum().exp()) if len(shares) else 0.0


def stable_rank(features: Tensor, share: float = 0.99) -> int:
    """How many of the largest singular values make up ``share`` of their sum; 0 for zeros.

    srank of Kumar et al. (2020, arXiv 2010.14498), which Dohare et al. call stable rank; not the ratio of
    squared norms that has the name elsewhere.

    Args:
        features: ``[n, units]``.
        share: Above 0 and not above 1.

    Raises:
        ValueError: As :func:`effective_rank`, or for a share outside its range.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must lie above 0 and not above 1, got {share}")
    reached = _shares(features).cumsum(0)
    # The whole of it is not more than what rounding makes of the whole.
    return int((reached < share * reached[-1] * (1.0 - 1e-12)).sum()) + 1 if len(reached) else 0


def weight_norm(network: nn.Module) -> float:
    """Mean absolute value of all parameters, biases included.

    Raises:
        ValueError: If there are none.
    """
    parameters = [p.detach() for p in network.parameters()]
    if not sum(p.numel() for p in parameters):
        raise ValueError("the network has no parameters")
    total = sum(float(p.abs().sum(dtype=torch.float64)) for p in parameters)
    return total / sum(p.numel() for p in parameters)


def _dead(layers: list[Tensor]) -> float:
    dead = sum(int((values == 0).all(dim=0).sum()) for values in layers)
    return dead / sum(values.shape[1] for values in layers)


@torch.no_grad()
def _hidden(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """What every ReLU says ``[n, units]``, in the order of the calls."""
    if not len(inputs):
        raise ValueError("there are no inputs to measure on")
    found: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], values: Tensor) -> None:
        found.append(values.detach().flatten(1).clone())

    hooks = [m.register_forward_hook(keep) for m in network.modules() if isinstance(m, nn.ReLU)]
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if not found:
        raise ValueError("no nn.ReLU module was called: hidden units are looked for there")
    return found


def _shares(features: Tensor) -> Tensor:
    """Singular values over their sum, falling; none for zeros."""
    if features.dim() != 2 or not features.numel():
        raise ValueError(f"features must be a matrix with entries, got shape {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features must be finite")
    values = torch.linalg.svdvals(features.detach().double())
    shares: Tensor = values[values > 0.0] / values.sum()
    return shares
