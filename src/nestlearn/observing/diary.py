"""What one level does to its weights, from a sample of their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nestlearn.levels.description import Named
from nestlearn.observing.sampling import sampled

#: Values that are looked at of every tensor: norms and cosines need no more.
SAMPLES = 4096
#: Weight of the past in the mean gradient of a context.
_MEMORY = 0.9


@torch.no_grad()
def sketch(tensors: Iterable[Tensor]) -> Tensor:
    """Values of all tensors at fixed drawn places in one vector, float32.

    Values of a tensor that is not taken whole are scaled up, so that the norm of the vector is about that of
    all values.
    """
    taken = []
    for tensor in tensors:
        values = sampled(tensor, SAMPLES).float()
        scale = (tensor.numel() / max(1, values.numel())) ** 0.5
        taken.append(values * scale if scale > 1.0 else values)
    return torch.cat(taken) if taken else torch.zeros(0)


@torch.no_grad()
def without_gradient(gradients: Iterable[Tensor | None]) -> float | None:
    """Share of the rows of matrices, units as a rule, whose gradient is zero; None without gradients."""
    rows = dead = 0
    for gradient in gradients:
        if gradient is not None and gradient.dim() > 1 and gradient.layout == torch.strided:
            zero = (gradient == 0).flatten(1).all(dim=1)
            rows, dead = rows + len(zero), dead + int(zero.sum())
    return dead / rows if rows else None


class Diary:
    """One level's history: drift, size and direction of its updates.

    Args:
        tensors: Its weights, at the start of the stream.
        window: Updates over which it is looked whether they cancel each other.
        tokens: Position in the stream.

    Attributes:
        last_update: Position of the last update.
        updates: How many there were.
    """

    def __init__(self, tensors: Named, window: int, tokens: int = 0) -> None:
        weights = sketch(t for _, t in tensors)
        self.window, self.updates, self.last_update = window, 0, tokens
        self._start, self._last, self._begin = weights, weights, weights
        self._length = torch.zeros(())
        self._gradient: Tensor | None = None
        self._earlier: Tensor | None = None

    def gradients(self, tensors: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> dict[str, float]:
        """Take in the gradients of a pass: their agreement with those of the context before.

        Returns:
            ``agreement``: the cosine; nothing if there was no context before, or there are no gradients.
        """
        pairs = zip(tensors, gradients, strict=True)
        gradient = sketch(torch.zeros_like(t) if g is None else dense(g) for t, g in pairs)
        if not bool(gradient.any()):
            return {}
        if self._gradient is None:
            self._gradient = gradient
        else:
            self._gradient = self._gradient.lerp(gradient, 1 - _MEMORY)
        if self._earlier is None:
            return {}
        return {"agreement": float(torch.cosine_similarity(gradient, self._earlier, dim=0))}

    def rebase(self, tensors: Iterable[Tensor]) -> None:
        """The weights were set by somebody: what comes is measured from here."""
        weights = sketch(tensors)
        if not self.updates:
            self._start = weights
        self._last, self._begin, self._length = weights, weights, torch.zeros(())

    def end_context(self) -> None:
        """From here on, gradients are compared with those of the context that has ended."""
        if self._gradient is not None:
            self._earlier, self._gradient = self._gradient, None

    def update(self, tensors: Iterable[Tensor], tokens: int) -> dict[str, float]:
        """Take in an update that has just been made.

        Returns:
            ``update_ratio``: its length over that of the weights. ``drift``: distance from the start of the
            stream over the length of the weights there. At the end of a window, ``cancel``: share of the way
            that was gone in vain. There is no drift from weights that were zero.
        """
        weights = sketch(tensors)
        step = (weights - self._last).norm()
        self._length = self._length + step
        self.updates, self.last_update, self._last = self.updates + 1, tokens, weights
        values = {"update_ratio": _over(step, weights.norm())}
        if bool(self._start.any()):
            values["drift"] = _over((weights - self._start).norm(), self._start.norm())
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


def dense(gradient: Tensor) -> Tensor:
    """A gradient whose numbers all have a place."""
    return gradient if gradient.layout == torch.strided else gradient.to_dense()


def _over(numerator: Tensor, denominator: Tensor) -> float:
    value = float(denominator)
    return float(numerator) / value if value else 0.0


__all__ = ["SAMPLES", "Diary", "sketch", "without_gradient"]
