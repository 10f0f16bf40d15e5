"""The picture: what each method forgot by what it had learned, one line a setting."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestlearn.reporting.drawing import FONT, Series, drawing, frame, line
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.style import THEME, RunStyle

SIZE, BOX = (820, 460), (64, 52, 190, 34)  # points; left, bottom, right, top
#: Colour, dashes and marker.
STYLES: Mapping[str, tuple[str, tuple[float, ...], str]] = {
    "levels": ("run-0", (), "o"),
    "finetune": ("run-1", (), "s"),
    "lora": ("run-2", (), "^"),
    "replay": ("run-3", (), "D"),
    "ewc": ("run-4", (), "v"),
    "average": ("run-5", (), "P"),
    "l2": ("run-5", (4, 1.4), "X"),
    "mlp": ("muted", (4, 1.4), "s"),
    "levels, gradient descent": ("run-0", (1, 1.4), "o"),
    "levels, feed-forward only": ("run-0", (4, 1.4), "o"),
    "levels, nothing protected": ("muted", (), "o"),
}


def write_figure(summary: Mapping[str, Any], path: Path) -> None:
    """Draw the cells that there are.

    Args:
        summary: Of the results file.
        path: An ``.svg`` file, replaced if it exists.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if not summary["cells"]:
        return
    buffer = io.BytesIO()
    with drawing(text="path") as figure:
        picture = figure(*SIZE)
        picture.set_facecolor(THEME["paper"][0])
        axes = frame(picture, BOX)
        lines = {}
        for row in summary["cells"]:
            name = row["method"]
            style = RunStyle(name, name, name, *STYLES[name])
            x, y = zip(*row["curve"], strict=True)
            lines[name] = line(axes, Series(x, y), style, marks=True)
        muted = THEME["muted"][0]
        axes.set_xlabel("learned of legal English and French, bits per byte", color=muted)
        axes.set_ylabel("forgotten of four old domains, bits per byte", color=muted)
        axes.set_title(
            "While the second new domain is learned; lower right is better", loc="left",
            fontsize=FONT - 1, color=THEME["ink"][0], fontweight="bold",
        )  # fmt: skip
        axes.legend(
            list(lines.values()), list(lines), fontsize=FONT - 3, frameon=False, loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
        )  # fmt: skip
        title = "Forgotten by learned, for every method and setting"
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    write_atomically(path, buffer.getvalue())
