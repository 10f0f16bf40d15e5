"""When a level needs a look: rules on its diagnostics, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Latest values of a level's diagnostics.
Values = Mapping[str, float]


@dataclass(frozen=True)
class Alarm:
    """Something that a level does and should not.

    Attributes:
        tokens: Position in the stream.
        level: Name of the level.
        kind: In one word.
        sentence: For people.
    """

    tokens: int
    level: str
    kind: str
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """The alarm as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """One kind of alarm.

    Attributes:
        kind: In one word.
        measure: The diagnostic that it looks at.
        raised: Whether a value raises it.
        cleared: Whether a value ends it, so that it may be raised again.
        sentence: What to say, with the value.
    """

    kind: str
    measure: str
    raised: Callable[[float], bool]
    cleared: Callable[[float], bool]
    sentence: Callable[[float], str]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


#: Limits are where a healthy run of the demo never comes; see docs/inspecting.md.
RULES = (
    Rule(
        "saturates",
        "cancel",
        lambda value: value > 0.9,
        lambda value: value < 0.8,
        lambda value: f"saturates: its updates cancel {_percent(value)} of each other",
    ),
    Rule(
        "rewrites",
        "update_ratio",
        lambda value: value > 0.3,
        lambda value: value < 0.15,
        lambda value: f"rewrites itself: one update moves {_percent(value)} of the length of its weights",
    ),
    Rule(
        "interferes",
        "agreement",
        lambda value: value < -0.3,
        lambda value: value > -0.1,
        lambda value: (
            f"unlearns: its gradients point against those of the context before (cosine {value:.2f})"
        ),
    ),
    Rule(
        "full",
        "fill",
        lambda value: value > 0.95,
        lambda value: value < 0.9,
        lambda value: f"is full: its key memories hold back {_percent(value)} of an update",
    ),
    Rule(
        "dead",
        "dead",
        lambda value: value > 0.5,
        lambda value: value < 0.4,
        lambda value: f"has dead units: {_percent(value)} of its units get no gradient",
    ),
    Rule(
        "idle",
        "idle",
        lambda value: value > 3.0,
        lambda value: value <= 1.5,
        lambda value: f"sleeps: {value:.1f} periods have passed since its last update",
    ),
)


class Alarms:
    """Raises each kind of alarm once per level, until it has been cleared.

    Attributes:
        raised: All alarms so far.
    """

    def __init__(self) -> None:
        self.raised: list[Alarm] = []
        self._standing: set[tuple[str, str]] = set()

    def check(self, tokens: int, level: str, values: Values) -> list[Alarm]:
        """Alarms that these values raise now."""
        found = []
        if (
            any(not math.isfinite(value) for value in values.values())
            and (level, "diverged") not in self._standing
        ):
            self._standing.add((level, "diverged"))
            found.append(Alarm(tokens, level, "diverged", f"level {level!r} has diverged: it is not finite"))
        for rule in RULES:
            value = values.get(rule.measure)
            if value is None or not math.isfinite(value):
                continue
            key = (level, rule.kind)
            if key in self._standing and rule.cleared(value):
                self._standing.discard(key)
            elif key not in self._standing and rule.raised(value):
                self._standing.add(key)
                found.append(Alarm(tokens, level, rule.kind, f"level {level!r} {rule.sentence(value)}"))
        self.raised += found
        return found

    def state_dict(self) -> dict[str, Any]:
        """Alarms, and those that stand."""
        return {
            "raised": [alarm.to_json() for alarm in self.raised],
            "standing": [list(key) for key in sorted(self._standing)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.raised = [Alarm(**entry) for entry in state["raised"]]
        self._standing = {(level, kind) for level, kind in state["standing"]}


__all__ = ["RULES", "Alarm", "Alarms", "Rule"]
