"""The order of Definition 2: which component is faster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Ordered(Protocol):
    """What the order looks at."""

    @property
    def name(self) -> str:
        """Unique name."""

    @property
    def period(self) -> int | None:
        """Units between two updates; 0 for infinitely often, None for never."""

    @property
    def unit(self) -> str | None:
        """``"token"`` or ``"step"``."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Components whose state at a time its own state at that time needs."""


T = TypeVar("T", bound=Ordered)
#: Sorts by falling frequency: how finite it is, in which unit, and the period.
Key = tuple[int, int, int]


def frequency_key(component: Ordered, tokens_per_step: int | None) -> Key:
    """What sorts components from fast to slow.

    Periods in steps are turned into tokens where the tokens of a step are known. Where they are not, a step
    is taken to be longer than every period in tokens: those are within a sequence, which is part of a step.
    """
    if component.period is None:
        return (2, 0, 0)
    if component.period == 0:
        return (0, 0, 0)
    if component.unit == "token":
        return (1, 0, component.period)
    if tokens_per_step is not None:
        return (1, 0, component.period * tokens_per_step)
    return (1, 1, component.period)


def ordered(components: Iterable[T], tokens_per_step: int | None) -> list[tuple[Key, list[T]]]:
    """Levels from fast to slow (Definition 2).

    A is faster than B if it is updated more often, or as often and B's update needs A's new state. What is
    as often and independent shares a level. Where a component would fit several levels of its frequency (it
    needs nothing there and nothing needs it), it takes the slowest, beside the parameters.

    Args:
        components: With unique names.
        tokens_per_step: Tokens that one step of the optimizer consumes, if known.

    Raises:
        ValueError: If components need each other in a circle.
    """
    classes: dict[Key, list[T]] = defaultdict(list)
    for component in components:
        classes[frequency_key(component, tokens_per_step)].append(component)
    levels = []
    for key in sorted(classes):
        heights = _heights(classes[key])
        for height in sorted(set(heights.values()), reverse=True):
            levels.append((key, [c for c in classes[key] if heights[c.name] == height]))
    return levels


def _heights(members: Sequence[T]) -> dict[str, int]:
    """Length of the longest chain of members that wait for each of them."""
    waiting: dict[str, list[str]] = {member.name: [] for member in members}
    for member in members:
        for name in member.needs:
            if name in waiting:
                waiting[name].append(member.name)
    heights: dict[str, int] = {}

    def height(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            raise ValueError(f"components need each other in a circle: {' -> '.join((*path, name))}")
        if name not in heights:
            heights[name] = max((1 + height(other, (*path, name)) for other in waiting[name]), default=0)
        return heights[name]

    for name in waiting:
        height(name, ())
    return heights


def frequency_words(key: Key, tokens_per_step: int | None) -> str:
    """A level's frequency for people."""
    kind, steps, period = key
    if kind == 0:
        return "recomputed for every token"
    if kind == 2:
        return "never"
    unit = "step" if steps else "token"
    words = f"every {unit}" if period == 1 else f"every {period:,} {unit}s"
    if not steps and tokens_per_step and period % tokens_per_step == 0:
        count = period // tokens_per_step
        words += " (every step)" if count == 1 else f" (every {count:,} steps)"
    return words


__all__ = ["Key", "Ordered", "frequency_key", "frequency_words", "ordered"]
