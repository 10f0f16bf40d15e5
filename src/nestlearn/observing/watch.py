"""Seeing tensors change: versions of what a component holds, and samples of its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from nestlearn.levels.description import Named
from nestlearn.levels.found import Found
from nestlearn.observing.sampling import sampled

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
    """A few values of each tensor, ``[at most 256]``, copied."""
    return [sampled(tensor, _SAMPLES) for tensor in tensors]


@torch.no_grad()
def digests(tensors: Iterable[Tensor]) -> list[Tensor]:
    """A few values of each tensor and the sum of all, copied."""
    return [torch.cat([sampled(t, _SAMPLES).double(), t.sum(dtype=torch.float64)[None]]) for t in tensors]


class Watched:
    """One component under watch.

    Args:
        found: What an inspection found.
        name: The component.
        opaque: Whether it may be written to without a new version, as fused optimizers and ``.data`` do; a
            few of its values are then compared after every step.

    Attributes:
        updates: Positions in the stream at which it changed.
        passes: Passes of the model in which each of its tensors was last written to by an optimizer.
        touched: Names of its tensors that have changed at all.
    """

    def __init__(self, found: Found, name: str, *, opaque: bool = False) -> None:
        self.name, self.component, self._found = name, found.components[name], found
        self.updates: list[int] = []
        self.passes: dict[str, int] = {}
        self.touched: set[str] = set()
        self.outside = 0
        self.twice = 0
        self.due = 0
        held = found.live(name)
        self._marks = marks(held)
        self._start = digests(tensor for _, tensor in held) if self.component.kind == "parameters" else []
        self._values = self._sampled(held) if opaque else None

    def look(self) -> list[str]:
        """Tensors that have changed since the last look."""
        held = self._found.live(self.name)
        now = marks(held)
        names = changed(self._marks, now)
        self._marks = now
        if self._values is not None:
            values = self._sampled(held)
            old = self._values
            names += [n for n in values if n not in names and not _same(old.get(n), values[n])]
            self._values = values
        self.touched.update(names)
        return names

    def moved(self) -> bool:
        """Whether values differ from those at the start; True where none were taken."""
        now = digests(tensor for _, tensor in self._found.live(self.name)) if self._start else []
        pairs = zip(self._start, now, strict=True)
        return not self._start or any(not torch.equal(old, new) for old, new in pairs)

    @staticmethod
    def _sampled(held: Named) -> dict[str, Tensor]:
        return dict(zip([name for name, _ in held], samples(tensor for _, tensor in held), strict=True))

    @property
    def idle(self) -> list[str]:
        """Tensors that have never changed."""
        return [name for name in self.component.tensors if name not in self.touched]


def _same(old: Tensor | None, new: Tensor) -> bool:
    return old is not None and torch.equal(old, new)


def opaque(optimizer: Optimizer) -> bool:
    """Whether an optimizer may write without a new version: fused ones do, and others' may use ``.data``."""
    known = type(optimizer).__module__.split(".")[0] in {"torch", "nestlearn"}
    return not known or any(group.get("fused") for group in optimizer.param_groups)


__all__ = ["Watched", "changed", "digests", "marks", "opaque", "samples"]
