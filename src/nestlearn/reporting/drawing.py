"""What every plot is drawn with: matplotlib without global state, axes, lines and stage marks.

matplotlib is an optional dependency. It is imported when the first plot is drawn, never before.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nestlearn.reporting.style import THEME, RunStyle, compact

__all__ = ["FONT", "Series", "dodge", "drawing", "frame", "line", "mark_stages", "matplotlib_module"]

FONT = 13  # points; a panel is 400 points wide and shown at about that many pixels
_SETTINGS: Mapping[str, Any] = {
    "svg.hashsalt": "nestlearn",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
}


@dataclass(frozen=True, slots=True)
class Series:
    """A line, with the band around it when it is a mean.

    Attributes:
        x: horizontal positions, shape ``(n,)``.
        y: values, shape ``(n,)``.
        low: lower edge of the band, shape ``(n,)``, or None.
        high: upper edge of the band, shape ``(n,)``, or None.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def matplotlib_module(name: str) -> Any:
    """Import a module of matplotlib.

    Args:
        name: the module, such as ``matplotlib.figure``.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "plots need matplotlib, which is not installed: pip install 'nestlearn[report]'",
            name="matplotlib",
        ) from None


@contextmanager
def drawing(text: str = "none") -> Iterator[Any]:
    """Give a function that makes figures; settings made elsewhere play no part and are put back.

    Args:
        text: how SVG holds text: ``"none"`` as text in the page's font, ``"path"`` as outlines.

    Yields:
        ``figure(width, height)`` in points, returning a transparent matplotlib ``Figure``.
    """
    matplotlib = matplotlib_module("matplotlib")
    figure_class = matplotlib_module("matplotlib.figure").Figure

    def figure(width: float, height: float) -> Any:
        return figure_class(figsize=(width / 72, height / 72), dpi=72, facecolor="none")

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_SETTINGS, "svg.fonttype": text})
        yield figure


def frame(figure: Any, box: tuple[float, float, float, float]) -> Any:
    """Add axes to a figure.

    Args:
        figure: a matplotlib ``Figure``.
        box: left, bottom, right and top margins in points.

    Returns:
        Axes with quiet grid lines.
    """
    width, height = (72 * inches for inches in figure.get_size_inches())
    left, bottom, right, top = box
    place = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes = figure.add_axes(place, facecolor="none")
    colour = {name: light for name, (light, _) in THEME.items()}
    axes.grid(axis="y", color=colour["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(color=colour["line"], labelcolor=colour["muted"], labelsize=FONT)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(colour["line"])
    axes.spines["left"].set_visible(False)
    ticker = matplotlib_module("matplotlib.ticker")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    return axes


def line(axes: Any, series: Series, style: RunStyle, *, marks: bool = False) -> Any:
    """Draw a run's line, with its band if it has one and a mark at its end.

    Args:
        axes: where to draw.
        series: the line.
        style: the run's look.
        marks: also mark every point, when there are few.

    Returns:
        The line, for a legend.
    """
    if series.low is not None and series.high is not None:
        axes.fill_between(series.x, series.low, series.high, color=style.colour, alpha=0.18, linewidth=0)
    dashes = (0, style.dashes) if style.dashes else "solid"
    (drawn,) = axes.plot(series.x, series.y, color=style.colour, linewidth=2, linestyle=dashes)
    many = not marks or len(series.x) > 60
    axes.plot(
        series.x[-1:] if many else series.x,
        series.y[-1:] if many else series.y,
        color=style.colour,
        linestyle="none",
        marker=style.marker,
        markersize=6 if many else 4,
        clip_on=False,
        markeredgewidth=0,
    )
    return drawn


def mark_stages(axes: Any, ends: Sequence[float], names: Sequence[str], own: int | None = None) -> None:
    """Mark where each stage ends and name what is learned in it, above the axes.

    Args:
        axes: where to draw; the horizontal axis counts tokens.
        ends: tokens at which each stage ends, shape ``(T,)``.
        names: what is learned in each stage, length ``T``.
        own: index of the stage to shade, if any.
    """
    starts = [0.0, *ends[:-1]]
    for stage, (start, end, name) in enumerate(zip(starts, ends, names, strict=True)):
        mine = stage == own
        if mine:
            axes.axvspan(start, end, color=THEME["band"][0], linewidth=0, zorder=0)
        if start > 0:
            axes.axvline(start, color=THEME["muted"][0], linewidth=0.8, linestyle=(0, (2, 3)))
        axes.text(
            (start + end) / 2,
            1.02,
            name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=FONT,
            fontweight="bold" if mine else "normal",
            color=THEME["ink" if mine else "muted"][0],
        )
    axes.set_xlim(0, max(*ends, 1))
    axes.xaxis.set_major_formatter(lambda tokens, _: compact(tokens))


def dodge(values: Sequence[float], gap: float, low: float) -> list[float]:
    """Move labels apart so that none is closer than ``gap`` to the next, keeping order and centre.

    Args:
        values: where the labels would like to be.
        gap: the least distance, in the same unit.
        low: no label goes below this.

    Returns:
        Where they go, in the order of ``values``.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[list[float]] = []  # centre and size of each run of touching labels
    for i in order:
        groups.append([values[i], 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            centre, size = groups.pop()
            below = groups[-1]
            groups[-1] = [(below[0] * below[1] + centre * size) / (below[1] + size), below[1] + size]
    places = [centre + gap * (k - (size - 1) / 2) for centre, size in groups for k in range(int(size))]
    for k, place in enumerate(places):
        places[k] = max(place, low if k == 0 else places[k - 1] + gap)
    return [place for _, place in sorted(zip(order, places, strict=True))]
