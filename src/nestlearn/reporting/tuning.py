"""A search for levels as a picture: what was found for how many tokens."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.style import THEME, compact

#: Bits per byte above the best that are worth showing.
_SPAN = 0.8


def write_tuning_plot(recipe: Mapping[str, Any], path: Path | str) -> None:
    """Draw every complete trial of a recipe over the tokens spent, the best so far, and the defaults.

    Args:
        recipe: From :func:`nestlearn.tuning.recipe_of`.
        path: The SVG file to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'nestlearn[report]'") from error
    evidence = recipe["evidence"]
    points, spent = [], 0
    for trial in evidence["trials"]:
        spent += trial["tokens"]
        if trial["value"] is not None:
            points.append((spent, trial["value"]))
    best = [min(value for _, value in points[: i + 1]) for i in range(len(points))]
    colours = {name: light for name, (light, _) in THEME.items()}
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    shown = [(at, value) for at, value in points if value < best[-1] + _SPAN]
    axes.plot(*zip(*shown, strict=True), "o", color=colours["muted"], markersize=4, label="a trial")
    axes.step([at for at, _ in points], best, where="post", color=colours["run-0"], label="best so far")
    if evidence["defaults"] and evidence["defaults"]["value"] is not None:
        value = evidence["defaults"]["value"]
        axes.axhline(value, color=colours["run-1"], linestyle="--", linewidth=1, label="defaults")
    axes.set_ylim(best[-1] - 0.02, best[-1] + _SPAN)
    axes.xaxis.set_major_formatter(lambda value, _: compact(value))
    axes.set_xlabel("tokens read by all trials")
    axes.set_ylabel("validation bits per byte")
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_atomically(path, buffer.getvalue())


__all__ = ["write_tuning_plot"]
