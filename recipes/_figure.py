"""A suite's picture: a grid of accuracies, mixers down, evaluations across, one block a task."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestlearn.reporting.drawing import FONT, drawing
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.style import THEME

CELL = (46, 24)  # points
MARGINS = (170, 12, 12, 62)  # left, bottom, right, top
GAP = 14  # between two tasks


def write_figure(summary: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw mean accuracies; a cell is white at chance and dark where all answers are right.

    Args:
        summary: Of the results file: by task and mixer.
        title: For the reader of the file.
        path: An ``.svg`` file, replaced if it exists.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    mixers = list(dict.fromkeys(mixer for rows in summary.values() for mixer in rows))
    blocks = {task: list(next(iter(rows.values()))["accuracy"]) for task, rows in summary.items()}
    inner = sum(len(names) for names in blocks.values()) * CELL[0] + GAP * (len(blocks) - 1)
    width, height = inner + MARGINS[0] + MARGINS[2], len(mixers) * CELL[1] + MARGINS[1] + MARGINS[3]
    buffer = io.BytesIO()
    with drawing(text="path") as figure:
        picture = figure(width, height)
        picture.set_facecolor(THEME["paper"][0])
        axes = picture.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for row, mixer in enumerate(mixers):
            middle = MARGINS[3] + (row + 0.5) * CELL[1]
            axes.text(MARGINS[0] - 8, middle, mixer, ha="right", va="center", color=THEME["ink"][0])
        left = float(MARGINS[0])
        for task, names in blocks.items():
            _block(axes, left, task, names, [summary[task].get(mixer) for mixer in mixers])
            left += len(names) * CELL[0] + GAP
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    write_atomically(path, buffer.getvalue())


def _block(axes: Any, left: float, task: str, names: list[str], rows: list[dict[str, Any] | None]) -> None:
    """One task's columns."""
    ink, muted = THEME["ink"][0], THEME["muted"][0]
    centre = left + len(names) * CELL[0] / 2
    axes.text(centre, 18, task, ha="center", va="center", color=ink, fontweight="bold", fontsize=FONT - 2)
    for column, name in enumerate(names):
        x = left + column * CELL[0]
        text = name.replace(" ", "\n")
        axes.text(x + CELL[0] / 2, 44, text, ha="center", va="center", color=muted, fontsize=FONT - 3)
        for row, entry in enumerate(rows):
            if entry is not None:
                _cell(axes, x, MARGINS[3] + row * CELL[1], entry["accuracy"][name])


def _cell(axes: Any, x: float, y: float, figures: Mapping[str, Any]) -> None:
    accuracy, chance = figures["token"]["mean"], figures["chance"]
    strength = max(0.0, (accuracy - chance) / (1 - chance))
    axes.fill(
        [x, x + CELL[0], x + CELL[0], x],
        [y, y, y + CELL[1], y + CELL[1]],
        facecolor=(THEME["run-0"][0], strength),
        edgecolor=THEME["line"][0],
        linewidth=0.7,
    )
    colour = THEME["paper" if strength > 0.55 else "ink"][0]
    place = x + CELL[0] / 2, y + CELL[1] / 2
    axes.text(*place, f"{100 * accuracy:.0f}", ha="center", va="center", color=colour, fontsize=FONT - 2)
