"""A run in the terminal: where it is, what it knows, what its levels do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nestlearn.reporting.style import compact

_BARS = "▁▂▃▄▅▆▇█"
#: Points of a curve in a line of text.
WIDTH = 24
#: Alarms that are shown.
_ALARMS = 6


def status(run: Mapping[str, Any]) -> RenderableType:
    """What a run has done so far.

    Args:
        run: From :func:`nestlearn.observing.read_run`.
    """
    parts: list[RenderableType] = [Text(_headline(run))]
    if run["tasks"]:
        parts.append(_tasks(run["tasks"]))
    if run["levels"]:
        parts.append(_levels(run))
    alarms = run["alarms"][-_ALARMS:]
    parts += [Text(f"! at {compact(entry['tokens'])}: {entry['sentence']}") for entry in alarms]
    if len(run["alarms"]) > _ALARMS:
        parts.append(Text(f"  and {len(run['alarms']) - _ALARMS} alarms before"))
    return Group(*parts)


def curve(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as a line of bars, thinned out to ``width``; the lowest is the lowest bar."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    count = min(width, len(values))
    picked = [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]
    low, high = min(picked), max(picked)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in picked)


def _headline(run: Mapping[str, Any]) -> str:
    state = "finished" if run["finished"] else "under way"
    stage = f", {run['stages'][-1]['name']}" if run["stages"] else ""
    loss = f", loss {run['loss'][-1][1]:.3f}" if run["loss"] else ""
    return f"{run['title']}: {state}, {compact(run['end'])} tokens{stage}{loss}"


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head, side in (
        ("task", "left"),
        ("best", "right"),
        ("now", "right"),
        ("", "left"),
        ("measure", "left"),
    ):
        table.add_column(head, justify=side)  # type: ignore[arg-type]
    for task in tasks:
        values = [value for _, value in task["points"] if math.isfinite(value)]
        if not values:
            continue
        best = min(values) if task["lower_is_better"] else max(values)
        table.add_row(task["name"], f"{best:.3f}", f"{values[-1]:.3f}", curve(values), task["measure"])
    return table


def _levels(run: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("level", "period", "updates", "drift", "update", "agreement", "fill"):
        table.add_column(head, justify="left" if head == "level" else "right")
    for level in run["levels"]:
        own = run["diagnostics"].get(level["name"], {})
        period = "" if level["period"] is None else compact(level["period"])
        values = [_last(own, measure) for measure in ("drift", "update_ratio", "agreement", "fill")]
        table.add_row(level["name"], period, f"{len(level['updates']):,}", *values)
    return table


def _last(series: Mapping[str, Sequence[Sequence[float]]], measure: str) -> str:
    points = series.get(measure)
    return f"{points[-1][1]:.3g}" if points else ""


__all__ = ["WIDTH", "curve", "status"]
