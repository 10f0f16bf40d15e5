"""What one level does to its weights, from a sample of their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nestlearn.levels.description import Named

#: Values that are looked at of every tensor: norms and cosines need no more.
SAMPLES = 4096
#: Weight of the past in the mean gradient of a context.
_MEMORY = 0.9


@torch.no_grad()
def sketch(tensors: Iterable[Tensor]) -> Tensor:
    """Evenly spread values of all tensors in one vector, float32.

    Values of a tensor that is not taken whole are scaled up, so that the norm of the vector is about that of
    all values.
    """
    taken = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        stride = -(-flat.numel() // SAMPLES)
        values = flat[::stride].float() if stride > 1 else flat.float().clone()
        taken.append(values * (flat.numel() / values.numel()) ** 0.5 if stride > 1 else values)
    return torch.cat(taken) if taken else torch.zeros(0)


@torch.no_grad()
def without_gradient(gradients: Iterable[Tensor | None]) -> float | None:
    """Share of the rows of matrices, units as a rule, whose gradient is zero; None without gradients."""
    rows = dead = 0
    for gradient in gradients:
        if gradient is not None and gradient.dim() > 1 and not gradient.is_sparse:
            zero = (gradient == 0).flatten(1).all(dim=1)
            rows, dead = rows + len(zero), dead + int(zero.sum())
    return dead / rows if rows else None


class Diary:
    """One level's history: drift, size and direction of its updates.

    Args:
        tensors: Its weights, at the start of the stream.
        window: Updates over which it is looked whether they cancel each other.

    Attributes:
        last_update: Position of the last update.
        updates: How many there were.
    """

    def __init__(self, tensors: Named, window: int) -> None:
        weights = sketch(t for _, t in tensors)
        self.window, self.updates, self.last_update = window, 0, 0
        self._start, self._last, self._begin = weights, weights, weights
        self._length = torch.zeros(())
        self._gradient: Tensor | None = None
        self._earlier: Tensor | None = None

    def gradients(self, tensors: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> dict[str, float]:
        """Take in the gradients of a pass: their agreement with those of the context before.

        Returns:
            ``agreement``: the cosine; nothing if there was no context before, or there are no gradients.
        """
        pairs = [(t, g) for t, g in zip(tensors, gradients, strict=True) if g is None or not g.is_sparse]
        gradient = sketch(torch.zeros_like(t) if g is None else g for t, g in pairs)
        if not bool(gradient.any()):
            return {}
        if self._gradient is None:
            self._gradient = gradient
        else:
            self._gradient = self._gradient.lerp(gradient, 1 - _MEMORY)
        if self._earlier is None:
            return {}
        return {"agreement": float(torch.cosine_similarity(gradient, self._earlier, dim=0))}

    def end_context(self) -> None:
        """From here on, gradients are compared with those of the context that has ended."""
        if self._gradient is not None:
            self._earlier, self._gradient = self._gradient, None

    def update(self, tensors: Iterable[Tensor], tokens: int) -> dict[str, float]:
        """Take in an update that has just been made.

        Returns:
            ``update_ratio``: its length over that of the weights. ``drift``: distance from the start of the
            stream over the length of the weights there. At the end of a window, ``cancel``: share of the way
            that was gone in vain.
        """
        weights = sketch(tensors)
        step = (weights - self._last).norm()
        self._length = self._length + step
        self.updates, self.last_update, self._last = self.updates + 1, tokens, weights
        values = {
            "update_ratio": _over(step, weights.norm()),
            "drift": _over((weights - self._start).norm(), self._start.norm()),
        }
        if self.updates % self.window == 0:
            values["cancel"] = 1.0 - _over((weights - self._begin).norm(), self._length)
            self._begin, self._length = weights, torch.zeros(())
        return values

    def state_dict(self) -> dict[str, Any]:
        """Everything that later values depend on."""
        return {
            "updates": self.updates,
            "last_update": self.last_update,
            "start": self._start,
            "last": self._last,
            "begin": self._begin,
            "length": self._length,
            "gradient": self._gradient,
            "earlier": self._earlier,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: If it is another level's.
        """
        if state["start"].shape != self._start.shape:
            raise ValueError("the diagnostics are those of another model or other levels")
        self.updates, self.last_update = int(state["updates"]), int(state["last_update"])
        self._start, self._last, self._begin = state["start"], state["last"], state["begin"]
        self._length, self._gradient, self._earlier = state["length"], state["gradient"], state["earlier"]


def _over(numerator: Tensor, denominator: Tensor) -> float:
    value = float(denominator)
    return float(numerator) / value if value else 0.0


__all__ = ["SAMPLES", "Diary", "sketch", "without_gradient"]
