"""Linear memories of gradients: every element remembers a decaying sum (Eq. 33, 34)."""

from __future__ import annotations

from nestlearn.optim.bricks.lists import Number, Tensors, add_, added, blend_, powers, scale_


def accumulate_(memories: Tensors, gradients: Tensors, decay: Number, write: Number = 1.0) -> None:
    """Heavy ball: one gradient step on ``<m, -g>`` with weight decay (Eq. 33, 34).

    ``m = decay m + write g``

    Args:
        memories: The momenta m, overwritten.
        gradients: The gradients g, of the same shapes.
        decay: What is kept of a memory per step.
        write: Step size of the write.
    """
    scale_(memories, decay)
    add_(memories, gradients, write)


def average_(memories: Tensors, gradients: Tensors, decay: Number) -> None:
    """Moving average: ``m = decay m + (1 - decay) g``.

    Args:
        memories: The momenta m, overwritten.
        gradients: The gradients g, of the same shapes.
        decay: What is kept of a memory per step.
    """
    blend_(memories, gradients, 1 - decay)


def look_ahead(memories: Tensors, gradients: Tensors, decay: Number) -> Tensors:
    """Nesterov's read of a heavy ball that has just been written: ``g + decay m``."""
    return added(gradients, memories, decay)


def corrections(decay: Number, steps: Tensors) -> Tensors:
    """``1 - decay ** t``: the total weight of what a moving average has seen after t steps.

    Args:
        decay: Decay of the average.
        steps: Scalars t, one per parameter.
    """
    weights = powers(decay, steps)
    return [1.0 - weight for weight in weights]
