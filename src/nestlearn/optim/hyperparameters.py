"""What values an optimizer's numbers may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Range:
    """Numbers from ``least`` to ``most``.

    Attributes:
        least: Smallest value.
        most: Largest value.
        below: Whether ``most`` itself is excluded.
        whole: Whether only whole numbers are allowed.
        optional: Whether None is, too.
    """

    least: float = 0.0
    most: float = math.inf
    below: bool = False
    whole: bool = False
    optional: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is a number of the range; NaN and infinity are in none."""
        if isinstance(value, Tensor):
            if value.numel() != 1 or value.is_complex():
                return False
            value = value.item()
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        value = float(value)
        if not math.isfinite(value):
            return False
        return self.least <= value and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.most == math.inf:
            return f"{kind} from {self.least:g} on"
        return f"{kind} in [{self.least:g}, {self.most:g}{')' if self.below else ']'}"


@dataclass(frozen=True)
class Several:
    """A tuple of numbers of one range.

    Attributes:
        each: The range.
        count: How many; None for any number but none.
    """

    each: Range
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.count or 'one or more'} values, each {self.each}"


Allowed = Range | Several | tuple[object, ...]

RATE = Range()
DECAY = Range(0.0, 1.0, below=True)
DECAYS = Several(DECAY)
PAIR = Several(DECAY, 2)
SHARE = Range(0.0, 1.0)
COUNT = Range(1, whole=True)
SWITCH = (True, False)


def check(settings: Mapping[str, Any], allowed: Mapping[str, Allowed]) -> None:
    """Refuse values that an optimizer cannot work with.

    Args:
        settings: Hyper-parameters by name; a tuple or list is checked number by number.
        allowed: The range of each, or the values to choose from.

    Raises:
        ValueError: Naming the first value that is not allowed.
    """
    for name, limits in allowed.items():
        value = settings[name]
        if isinstance(limits, tuple):
            if not any(
                value is choice or (type(value) is type(choice) and value == choice) for choice in limits
            ):
                raise ValueError(f"{name} must be one of {', '.join(map(repr, limits))}; got {value!r}")
            continue
        if isinstance(limits, Several):
            several = isinstance(value, (tuple, list)) and len(value) == (limits.count or len(value) or -1)
            fine = several and all(limits.each.holds(number) for number in value)
        else:
            fine = limits.holds(value)
        if not fine:
            raise ValueError(f"{name} must be {limits}; got {value!r}")
