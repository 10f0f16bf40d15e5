"""What a trace says: declared and observed updates, and sentences about what does not agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nestlearn.levels.order import frequency_key, frequency_words
from nestlearn.observing.watch import Watched

#: Updates by which a count may differ from the declared one: a period may begin or end off the beat.
SLACK = 1


@dataclass(frozen=True)
class Row:
    """One component.

    Attributes:
        name: Its name.
        kind: Its kind.
        declared: Its declared frequency, in words.
        due: Updates that were due.
        updates: Updates that happened.
        twice: Steps in which it was updated more than once.
        outside: Changes that no optimizer made.
        idle: Tensors that never changed.
        moved: Whether values differ from those at the start.
        problem: A sentence, or None.
    """

    name: str
    kind: str
    declared: str
    due: int
    updates: int
    twice: int
    outside: int
    idle: tuple[str, ...]
    moved: bool
    problem: str | None


class TraceError(ValueError):
    """A program does not do what was declared."""


@dataclass(frozen=True)
class TraceReport:
    """What a trace saw.

    Attributes:
        steps: Steps of the loop.
        tokens: Tokens that it read; 0 where nothing told them.
        rows: The components.
        constants: Buffers that were taken for constants, and changed.
        unseen: Looks at components with periods in tokens while nothing told the tokens.
    """

    steps: int
    tokens: int
    rows: tuple[Row, ...]
    constants: tuple[str, ...] = ()
    unseen: int = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not agree with what was declared, in sentences."""
        found = [row.problem for row in self.rows if row.problem is not None]
        found += [
            f"buffer {name!r} was taken for a constant and changes: it is a memory that is not known "
            "(nestlearn.levels.register)"
            for name in self.constants
        ]
        if self.unseen:
            found.append("periods are declared in tokens, and nothing tells them: give trace(tokens=...)")
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing and no error."""
        found = []
        for entry in self.rows:
            if entry.idle and entry.updates:
                names = ", ".join(entry.idle[:3]) + (" ..." if len(entry.idle) > 3 else "")
                found.append(f"{len(entry.idle)} tensors of {entry.name!r} never changed: {names}")
            if entry.outside:
                found.append(f"{entry.name!r} was changed {_times(entry.outside)} by no optimizer")
        return tuple(found)

    def raise_for_problems(self) -> None:
        """Refuse what does not agree, for tests.

        Raises:
            TraceError: With all sentences.
        """
        if self.problems:
            raise TraceError("; ".join(self.problems))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "problems": list(self.problems), "notes": list(self.notes)}

    def __str__(self) -> str:
        lines = [f"{self.steps:,} steps, {self.tokens:,} tokens"]
        for entry in self.rows:
            lines.append(f"{entry.name}: {entry.declared}; due {entry.due:,}, updated {entry.updates:,}")
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines if self.problems else [*lines, "as declared"])


def row(watched: Watched, steps: int) -> Row:
    """What was seen of a component in so many steps."""
    component = watched.component
    declared = frequency_words(frequency_key(component, None), None)
    moved = watched.moved()
    updates = len(watched.updates)
    return Row(
        component.name,
        component.kind,
        declared,
        watched.due,
        updates,
        watched.twice,
        watched.outside,
        tuple(watched.idle) if component.kind == "parameters" and component.period is not None else (),
        moved,
        _problem(watched, declared, steps, moved=moved),
    )


def _problem(watched: Watched, declared: str, steps: int, *, moved: bool) -> str | None:
    name, updates, due = watched.name, len(watched.updates), watched.due
    if watched.twice and watched.component.kind == "parameters":
        return f"{name!r} is updated twice per step, in {watched.twice:,} of {steps:,} steps"
    if watched.component.period is None:
        return f"{name!r} is not to be updated, and was {_times(updates)}" if updates else None
    if due and not updates:
        return f"{name!r} is frozen: declared {declared}, due {_times(due)}, never updated"
    if due and not moved:
        return f"{name!r} is frozen: it was updated {_times(updates)}, and its values are as before"
    return _pace(watched, declared, steps)


def _pace(watched: Watched, declared: str, steps: int) -> str | None:
    """Whether a component is updated too often or too rarely."""
    updates, due = len(watched.updates), watched.due
    # Key memories also change when a context ends, which no clock says.
    slack = SLACK if watched.component.kind != "key_memory" else SLACK + due
    begin = f"{watched.name!r} is declared {declared}, and was updated"
    if updates > due + slack:
        always = ": every step" if updates >= steps > 1 else ""
        return f"{begin} {_times(updates)} instead of {due:,}{always}"
    if updates < due - slack:
        return f"{begin} only {_times(updates)} instead of {due:,}"
    return None


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


__all__ = ["SLACK", "Row", "TraceError", "TraceReport", "row"]
