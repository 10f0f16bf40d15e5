"""A stream's picture: what was kept by what was learned, one mark a method."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from nestlearn.bench.methods import ENTRIES, JOINT
from nestlearn.bench.summary import Row
from nestlearn.reporting.drawing import FONT, drawing, frame
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.style import THEME

SIZE, BOX = (820, 470), (64, 52, 230, 34)  # points; left, bottom, right, top
MARKS = "osD^vPX<>*hpd8"


def write_figure(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw the accuracy at the end over the accuracy right after each task.

    On the diagonal nothing was forgotten; joint training is a line across.

    Args:
        rows: Of a stream.
        title: Of the stream.
        path: An ``.svg`` file, replaced if it exists.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    shown = [row for row in rows if "learned" in row.figures and row.method != "fresh"]
    buffer = io.BytesIO()
    with drawing(text="path") as figure:
        picture = figure(*SIZE)
        picture.set_facecolor(THEME["paper"][0])
        axes = frame(picture, BOX)
        muted = THEME["muted"][0]
        axes.plot([0, 1], [0, 1], color=THEME["line"][0], linewidth=1)
        for row in rows:
            if row.method == JOINT:
                axes.axhline(row.figures["accuracy"].mean, color=muted, linewidth=1, linestyle=(0, (4, 2)))
        handles = []
        for place, row in enumerate(shown):
            x, y = row.figures["learned"], row.figures["accuracy"]
            handles.append(
                axes.errorbar(
                    x.mean, y.mean, xerr=x.half or 0.0, yerr=y.half or 0.0, linestyle="none", elinewidth=1,
                    marker=MARKS[place % len(MARKS)], markersize=9 if ENTRIES[row.method].ours else 6,
                    color=THEME["run-0" if ENTRIES[row.method].ours else f"run-{1 + place % 5}"][0],
                )
            )  # fmt: skip
        axes.set_xlim(0.0, 1.02)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel("accuracy on each task right after it was learned", color=muted)
        axes.set_ylabel("accuracy on all tasks at the end", color=muted)
        axes.set_title(title, loc="left", fontsize=FONT - 2, color=THEME["ink"][0], fontweight="bold")
        if handles:
            axes.legend(
                handles, [row.method for row in shown], fontsize=FONT - 3, frameon=False, loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
            )  # fmt: skip
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    write_atomically(path, buffer.getvalue())
