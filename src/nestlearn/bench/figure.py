"""A stream's picture: what was kept by what was learned, one mark a method."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestlearn.bench.base import FRESH, JOINT, BenchStream
from nestlearn.bench.summary import Row
from nestlearn.reporting.drawing import FONT, Series, drawing, frame, line
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.style import THEME, RunStyle

#: Tasks of a running mean.
SMOOTHED = 10
SIZE, BOX = (820, 470), (64, 52, 230, 34)  # points; left, bottom, right, top
MARKS = "osD^vPX<>*hpd8"


def write_figure(rows: Sequence[Row], stream: BenchStream, path: Path) -> None:
    """Draw the figure at the end over the one right after each task.

    On the diagonal nothing was forgotten; joint training is a line across. Of a stream of many tasks: how
    well each was learned.

    Args:
        rows: Of the stream.
        stream: The stream.
        path: An ``.svg`` file, replaced if it exists.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    buffer = io.BytesIO()
    with drawing(text="path") as figure:
        picture = figure(*SIZE)
        picture.set_facecolor(THEME["paper"][0])
        axes = frame(picture, BOX)
        draw = _by_task if any(row.by_task for row in rows) else _kept_by_learned
        handles = draw(axes, rows, stream)
        axes.set_title(stream.title, loc="left", fontsize=FONT - 2, color=THEME["ink"][0], fontweight="bold")
        if handles:
            axes.legend(
                list(handles.values()), list(handles), fontsize=FONT - 3, frameon=False, loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
            )  # fmt: skip
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Title": stream.title})
    write_atomically(path, buffer.getvalue())


def _kept_by_learned(axes: Any, rows: Sequence[Row], stream: BenchStream) -> dict[str, Any]:
    """One mark a method; what is best stands at the upper right."""
    measures, muted = stream.measures, THEME["muted"][0]
    shown = [row for row in rows if measures.learned in row.figures and row.method not in (FRESH, JOINT)]
    joint = [row.figures[measures.final].mean for row in rows if row.method == JOINT]
    low, high = _range(shown, joint, stream)
    axes.plot([low, high], [low, high], color=THEME["line"][0], linewidth=1)
    for across in joint:
        axes.axhline(across, color=muted, linewidth=1, linestyle=(0, (4, 2)))
    handles = {row.method: _mark(axes, row, place, stream) for place, row in enumerate(shown)}
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    if not measures.rising:
        axes.invert_xaxis()
        axes.invert_yaxis()
    axes.set_xlabel(f"{measures.unit} on each task right after it was learned", color=muted)
    axes.set_ylabel(f"{measures.unit} on all tasks at the end", color=muted)
    return handles


def _by_task(axes: Any, rows: Sequence[Row], stream: BenchStream) -> dict[str, Any]:
    """How well each of many tasks was learned, a running mean: whether the network still can."""
    handles = {}
    for place, row in enumerate(row for row in rows if len(row.by_task) >= SMOOTHED):
        ends = range(SMOOTHED, len(row.by_task) + 1)
        means = [sum(row.by_task[end - SMOOTHED : end]) / SMOOTHED for end in ends]
        ours = stream.entries[row.method].ours
        variable = "run-0" if ours else f"run-{1 + place % 5}"
        style = RunStyle(row.method, row.method, row.method, variable, (), MARKS[place % len(MARKS)])
        handles[row.method] = line(axes, Series(list(ends), means), style)
    axes.set_xlabel("task", color=THEME["muted"][0])
    axes.set_ylabel(
        f"{stream.measures.unit} on a task right after it, mean of {SMOOTHED}", color=THEME["muted"][0]
    )
    return handles


def _range(shown: Sequence[Row], joint: Sequence[float], stream: BenchStream) -> tuple[float, float]:
    """Of both axes: all accuracies, or those bits per byte that occur."""
    if stream.measures.rising:
        return 0.0, 1.02
    names = (stream.measures.final, stream.measures.learned)
    values = [row.figures[name].mean for row in shown for name in names] + list(joint)
    edge = 0.08 * (max(values) - min(values)) + 0.01
    return min(values) - edge, max(values) + edge


def _mark(axes: Any, row: Row, place: int, stream: BenchStream) -> Any:
    x, y = row.figures[stream.measures.learned], row.figures[stream.measures.final]
    ours = stream.entries[row.method].ours
    return axes.errorbar(
        x.mean, y.mean, xerr=x.half or 0.0, yerr=y.half or 0.0, linestyle="none", elinewidth=1,
        marker=MARKS[place % len(MARKS)], markersize=9 if ours else 6,
        color=THEME["run-0" if ours else f"run-{1 + place % 5}"][0],
    )  # fmt: skip
