"""Seeing tensors change: versions of what a component holds, and samples of its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from nestlearn.levels.description import Named
from nestlearn.levels.found import Found

#: Identity and version of a tensor: a state may be replaced by another tensor instead of being overwritten.
Mark = tuple[int, int]
#: Values that are compared of a tensor.
_SAMPLES = 256


def marks(tensors: Named) -> dict[str, Mark]:
    """What tells whether tensors have changed since, without a look at their values."""
    return {name: (id(tensor), tensor._version) for name, tensor in tensors}


def changed(before: Mapping[str, Mark], after: Mapping[str, Mark]) -> list[str]:
    """Names of tensors that are new, were written to, or are gone (a sum that was used up)."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


@torch.no_grad()
def samples(tensors: Iterable[Tensor]) -> list[Tensor]:
    """A few evenly spread values of each tensor, ``[at most 256]``, copied."""
    taken = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // _SAMPLES)
        taken.append(flat[::stride][:_SAMPLES].clone())
    return taken


class Watched:
    """One component under watch.

    Args:
        found: What an inspection found.
        name: The component.

    Attributes:
        updates: Positions in the stream at which it changed.
        passes: Passes of the model in which each of its tensors was last written to by an optimizer.
        touched: Names of its tensors that have changed at all.
    """

    def __init__(self, found: Found, name: str) -> None:
        self.name, self.component, self._found = name, found.components[name], found
        self.updates: list[int] = []
        self.passes: dict[str, int] = {}
        self.touched: set[str] = set()
        self.outside = 0
        self.twice = 0
        self.due = 0
        held = found.live(name)
        self._marks = marks(held)
        self._start = samples(tensor for _, tensor in held) if self.component.kind == "parameters" else []

    def look(self) -> list[str]:
        """Tensors that have changed since the last look."""
        now = marks(self._found.live(self.name))
        names = changed(self._marks, now)
        self._marks = now
        self.touched.update(names)
        return names

    def moved(self) -> bool:
        """Whether sampled values differ from those at the start; True where none were taken."""
        now = samples(tensor for _, tensor in self._found.live(self.name)) if self._start else []
        pairs = zip(self._start, now, strict=True)
        return not self._start or any(not torch.equal(old, new) for old, new in pairs)

    @property
    def idle(self) -> list[str]:
        """Tensors that have never changed."""
        return [name for name in self.component.tensors if name not in self.touched]


__all__ = ["Watched", "changed", "marks", "samples"]
