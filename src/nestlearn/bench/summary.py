"""What the finished cells say: means and confidence intervals by stream and method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from nestlearn.bench.base import JOINT, ORDINARY, Measures
from nestlearn.bench.cells import Search
from nestlearn.bench.plan import Plan
from nestlearn.bench.store import Record
from nestlearn.bench.streams import STREAMS

#: 0.975 quantiles of Student's t for 1 to 9 degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
COSTS = ("stored_bytes", "operations", "seconds")


@dataclass(frozen=True)
class Figure:
    """A mean over seeds.

    Attributes:
        mean: Of the seeds.
        half: Half of its 95 % confidence interval (Student's t); None for one seed.
    """

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.half is None else f" ± {self.half:.3f}")


@dataclass(frozen=True)
class Row:
    """A method on a stream.

    Attributes:
        method: Name.
        seeds: How many.
        settings: That were found.
        figures: By their names in the stream's measures, costs, and ``over_joint``: the final figure over
            joint training's.
        by_task: Of many tasks, how well each was learned; empty where the figures say enough.
    """

    method: str
    seeds: int
    settings: Mapping[str, Any]
    figures: Mapping[str, Figure]
    by_task: tuple[float, ...] = ()


@dataclass(frozen=True)
class Searched:
    """What a search did.

    Attributes:
        method: Name.
        space: The values of every setting.
        trials: How many were tried.
        seconds: CPU seconds.
        best: What was found.
    """

    method: str
    space: Mapping[str, Sequence[Any]]
    trials: int
    seconds: float
    best: Mapping[str, Any]


def figure(values: Sequence[float]) -> Figure:
    """Mean and half a confidence interval.

    Raises:
        ValueError: For no value, or more than ten.
    """
    if not 1 <= len(values) <= len(STUDENT) + 1:
        raise ValueError(f"there must be 1 to {len(STUDENT) + 1} values, got {len(values)}")
    if len(values) == 1:
        return Figure(values[0], None)
    return Figure(mean(values), STUDENT[len(values) - 2] * stdev(values) / math.sqrt(len(values)))


def rows(stream: str, records: Mapping[str, Record]) -> list[Row]:
    """The rows of a stream, of methods with at least one finished cell."""
    own = STREAMS[stream]
    plan = Plan([stream], list(own.entries))
    names = (*own.measures.columns, *COSTS, *own.measures.plasticity)
    finished = {}
    for _, method in plan.pairs():
        cells = [cell for cell in plan.cells(Search(stream, method), records) if cell.key in records]
        if cells:
            finished[method] = cells
    final = own.measures.final
    joint = [records[cell.key][final] for cell in finished.get(JOINT, [])]
    ordinary = {cell.seed: records[cell.key] for cell in finished.get(ORDINARY, [])}
    found = []
    for method, cells in finished.items():
        done = [
            {**records[cell.key], **own.against(records[cell.key], ordinary[cell.seed])}
            if cell.seed in ordinary
            else records[cell.key]
            for cell in cells
        ]
        figures = {
            name: figure([record[name] for record in done])
            for name in names
            if all(name in record for record in done)
        }
        if joint and mean(joint) > 0.0:
            figures["over_joint"] = figure([record[final] / mean(joint) for record in done])
        parts = [record["by_task"] for record in done if "by_task" in record]
        by_task = tuple(mean(values) for values in zip(*parts, strict=True))
        found.append(Row(method, len(cells), cells[0].settings, figures, by_task))
    return found


def searches(stream: str, records: Mapping[str, Record]) -> list[Searched]:
    """What was searched on a stream."""
    found = []
    for method, entry in STREAMS[stream].entries.items():
        record = records.get(Search(stream, method).key)
        if record is not None:
            space = entry.space
            found.append(Searched(method, space, len(record["trials"]), record["seconds"], record["best"]))
    return found


def ordered(own: Sequence[Row], measures: Measures) -> list[Row]:
    """Rows, the best first."""
    sign = -1.0 if measures.rising else 1.0
    return sorted(own, key=lambda row: sign * row.figures[measures.final].mean)


def plain(value: Any) -> str:
    """A setting as people write it."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)
