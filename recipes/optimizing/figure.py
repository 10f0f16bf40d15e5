"""Two pictures: every comparison with its range over the seeds, and scores by learning rate."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestlearn.reporting.drawing import FONT, Series, drawing, frame, line
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.style import THEME, RunStyle
from recipes.optimizing.summary import COLUMNS

WIDTH, LABELS, VALUES, ROW, HEAD = 820, 230, 66, 19, 52  # points
GAP = 22  # between two tasks
#: A figure further from the best than this many times is an arrow at the edge.
FAR: Mapping[str, float] = {"language": 1.5, "digits": 10.0, "valley": 4.0, "orthogonal": 1e6}
LOGARITHMIC = ("digits", "orthogonal")
#: The rates of what is compared with M3 have one unit; the others are drawn behind.
STYLES: Mapping[str, tuple[str, tuple[float, ...], str]] = {
    "AdamW": ("run-1", (), "s"),
    "AdamW, beta 0.95": ("run-1", (4, 1.4), "D"),
    "Muon": ("run-2", (), "^"),
    "Muon, heavyball": ("run-2", (4, 1.4), "v"),
    "M3": ("run-0", (), "o"),
    "M3, denominator": ("run-0", (4, 1.4), "P"),
    "M3, paper": ("run-3", (), "X"),
}
PANEL = (410, 330)  # of the second picture


def write_figures(summary: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw what there is.

    Args:
        summary: Of the results file.
        path: An ``.svg`` file for the comparisons; the one by learning rate is ``NAME-rates.svg`` beside it.

    Returns:
        The files that were written.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    written = []
    compared = {task: content for task, content in summary["tasks"].items() if _points(task, content)}
    tuned = {task: compared[task] for task in ("language", "digits") if task in compared}
    rates = path.with_name(f"{path.stem}-rates{path.suffix}")
    for file, draw, contents in ((path, _comparisons, compared), (rates, _rates, tuned)):
        if contents:
            write_atomically(file, draw(contents))
            written.append(file)
    return written


def style(entry: str) -> RunStyle:
    """How an optimizer is drawn."""
    variable, dashes, marker = STYLES.get(entry, ("muted", (), "o"))
    return RunStyle(entry, entry, entry, variable, dashes, marker)


def _points(task: str, content: Mapping[str, Any]) -> list[tuple[str, dict[str, float] | None]]:
    """Optimizers with what is compared, the best first, those that did not arrive last."""
    figure = COLUMNS[task][0][0]
    points = [(entry, row["figures"][figure]) for entry, row in content["rows"].items()]
    return sorted(points, key=lambda point: point[1]["mean"] if point[1] else float("inf"))


def _comparisons(contents: Mapping[str, Any]) -> bytes:
    heights = {task: HEAD + ROW * len(content["rows"]) for task, content in contents.items()}
    total = sum(heights.values()) + GAP * len(heights)
    buffer = io.BytesIO()
    with drawing(text="path") as figure:
        picture = figure(WIDTH, total)
        picture.set_facecolor(THEME["paper"][0])
        top = 0.0
        for task, content in contents.items():
            box = (LABELS, total - top - heights[task], VALUES, top + 26)
            _dots(frame(picture, box), task, content)
            top += heights[task] + GAP
        title = "Optimizers compared: mean and range over the seeds"
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    return buffer.getvalue()


def _dots(axes: Any, task: str, content: Mapping[str, Any]) -> None:
    """One task: a dot with its range for every optimizer."""
    points = _points(task, content)
    digits = COLUMNS[task][0][2]
    known = [figures for _, figures in points if figures]
    if known:
        far = min(FAR[task] * known[0]["mean"], 1.15 * max(figures["max"] for figures in known))
        near = min(figures["min"] for figures in known)
        if task in LOGARITHMIC:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(_decimal)
            axes.xaxis.set_minor_formatter(_decimal)
        axes.set_xlim(near / (1.15 if task in LOGARITHMIC else 1.02), far)
        axes.tick_params(
            which="both", color=THEME["line"][0], labelcolor=THEME["muted"][0], labelsize=FONT - 2
        )
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=THEME["line"][0], linewidth=0.7)
    axes.set_yticks([])
    title = f"{content['title']}: {COLUMNS[task][0][1]}"
    axes.set_title(title, loc="left", x=0.0, fontsize=FONT - 1, color=THEME["ink"][0], fontweight="bold")
    for row, (entry, figures) in enumerate(points):
        axes.text(
            -0.02, row, entry, transform=axes.get_yaxis_transform(), ha="right", va="center",
            color=style(entry).colour, fontsize=FONT - 2,
        )  # fmt: skip
        value = "–" if figures is None else f"{figures['mean']:.{digits}f}"
        axes.text(
            1.02, row, value, transform=axes.get_yaxis_transform(), ha="left", va="center",
            color=THEME["ink"][0], fontsize=FONT - 2,
        )  # fmt: skip
        if figures is not None:
            _dot(axes, row, entry, figures, far)


def _decimal(value: float, _: int) -> str:
    """A tick's number, if it is 1, 2 or 5 times a power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _dot(axes: Any, row: int, entry: str, figures: Mapping[str, float], far: float) -> None:
    colour = style(entry).colour
    if figures["mean"] >= far:
        axes.plot([far], [row], marker=">", color=colour, clip_on=False, markersize=6)
        return
    ends = [figures["min"], min(figures["max"], far)]
    axes.plot(ends, [row, row], color=colour, linewidth=2, alpha=0.5, solid_capstyle="round")
    axes.plot([figures["mean"]], [row], marker="o", color=colour, markersize=6, markeredgewidth=0)


def _rates(contents: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    width = PANEL[0] * len(contents)
    with drawing(text="path") as figure:
        picture = figure(width, PANEL[1])
        picture.set_facecolor(THEME["paper"][0])
        for column, (task, content) in enumerate(contents.items()):
            box = (column * PANEL[0] + 52, 46, width - (column + 1) * PANEL[0] + 14, 28)
            axes = frame(picture, box)
            _curves(axes, task, content["rows"])
            axes.set_title(
                content["title"], loc="left", fontsize=FONT - 1, color=THEME["ink"][0], fontweight="bold"
            )
            axes.set_xlabel("learning rate in units of the best", color=THEME["muted"][0])
            axes.set_ylabel(content["unit"], color=THEME["muted"][0])
        title = "Score on validation data by learning rate"
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    return buffer.getvalue()


def _curves(axes: Any, task: str, rows: Mapping[str, Any]) -> None:
    """One task: a line for every optimizer, those of M3, Muon and AdamW in front."""
    lines, best = {}, float("inf")
    for entry in sorted(rows, key=lambda name: name in STYLES):
        lr = rows[entry]["lr"]
        if lr is None:
            continue
        known = [(rate / lr, score) for rate, score in rows[entry]["rates"] if score is not None]
        x, y = zip(*known, strict=True)
        best = min(best, *y)
        if entry in STYLES:
            lines[entry] = line(axes, Series(x, y), style(entry), marks=True)
        else:
            axes.plot(x, y, color=THEME["line"][0], linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if best < float("inf"):
        axes.set_ylim(best - 0.04 * best, best * (1.45 if task == "language" else 6.0))
    if task in LOGARITHMIC:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_decimal)
        axes.yaxis.set_minor_formatter(_decimal)
        axes.tick_params(which="both", color=THEME["line"][0], labelcolor=THEME["muted"][0], labelsize=FONT)
    axes.legend(list(lines.values()), list(lines), fontsize=FONT - 4, frameon=False, loc="upper left")
