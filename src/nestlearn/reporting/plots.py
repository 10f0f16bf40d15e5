"""The report's plots, each one an ``<svg>`` element.

Plots are drawn small, one panel per picture, so that a page can set them side by side or below each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nestlearn.reporting import readings
from nestlearn.reporting.drawing import FONT, Series, dodge, drawing, frame, line, mark_stages
from nestlearn.reporting.schema import MatchedRecord, Results, Run
from nestlearn.reporting.style import THEME, RunStyle, clean, language_name, run_styles
from nestlearn.reporting.svg import inline_svg

__all__ = ["axis_range", "draw_language", "first_language_plot", "language_plot", "level_plot", "trade_plot"]

_WIDTH, _HEIGHT = 400.0, 300.0  # points
_MARGINS = (34.0, 44.0, 48.0, 26.0)  # left, bottom, right, top, in points
_LONGEST_NAME = 14
_POINTS = 500  # more evaluations than this cannot be told apart
_INK, _MUTED, _LINE = (THEME[name][0] for name in ("ink", "muted", "line"))


def axis_range(runs: Sequence[Run]) -> tuple[float, float]:
    """Return the ends of an axis of bits per byte that is the same for every language.

    The first evaluations of an untrained model (about 8) would squeeze everything that matters, so the axis
    shows what happens once the first language is learned, and at least twice the best value.

    Args:
        runs: the runs to show.

    Returns:
        Bits per byte at the lower and at the upper end.
    """
    values = [
        (p["stage"], value) for run in runs for p in run["curve"] for value in p["bits_per_byte"].values()
    ]
    every = [value for _, value in values]
    later = [value for stage, value in values if stage > 0]
    later += [value for run in runs for row in run["matrix"] for value in row]
    lowest, top = min(every), min(max(every), max(*later, 2 * min(every)))
    return lowest - 0.06 * (top - lowest), top + 0.04 * (top - lowest)


def draw_language(
    axes: Any, series: Mapping[str, Series], styles: Mapping[str, RunStyle], ends: tuple[float, float]
) -> list[Any]:
    """Draw one line per run, with its last value beside it.

    Args:
        axes: matplotlib axes.
        series: bits per byte against tokens, by run.
        styles: looks, by run; they give the order.
        ends: lower and upper end of the vertical axis; lines may enter from above.

    Returns:
        The lines, in the order of ``styles``.
    """
    bottom, top = ends
    axes.set_ylim(bottom, top)
    lines = [line(axes, series[run], styles[run]) for run in reversed(list(styles))]
    height = axes.get_position().height * axes.figure.get_size_inches()[1] * 72
    gap = 1.2 * FONT * (top - bottom) / height
    places = dodge([min(series[run].y[-1], top) for run in styles], gap, bottom + gap / 2)
    for run, place in zip(styles, places, strict=True):
        axes.annotate(
            f"{series[run].y[-1]:.2f}",
            (1, place),
            xycoords=axes.get_yaxis_transform(),
            xytext=(8, 0),
            textcoords="offset points",
            va="center_baseline",
            color=styles[run].colour,
            fontsize=FONT,
            fontweight="bold",
            annotation_clip=False,
        )
    return lines[::-1]


def language_plot(results: Results, index: int) -> str:
    """Draw held-out bits per byte of one language over the whole stream, one line per run.

    Args:
        results: checked results.
        index: index of the language.

    Returns:
        SVG markup; every language of a report has the same vertical axis.
    """
    code, styles, runs = results["languages"][index], run_styles(results["runs"]), results["runs"]
    series = {run: _series(runs[run], code) for run in styles}
    ends = readings.stage_ends(runs[next(iter(styles))], len(results["languages"]))
    names = [language_name(language) for language in results["languages"]]
    with drawing() as figure:
        picture = figure(_WIDTH, _HEIGHT)
        axes = frame(picture, _MARGINS)
        mark_stages(axes, ends, names, own=index)
        draw_language(axes, series, styles, axis_range(list(runs.values())))
        axes.set_xlabel("tokens seen", color=_MUTED, fontsize=FONT, labelpad=2)
        return inline_svg(
            picture,
            f"curve-{index}",
            f"{names[index]}: bits per byte over the stream",
            f"Held-out bits per byte of {names[index]} against tokens. At the end: {_last(series, styles)}.",
        )


def first_language_plot(results: Results) -> str:
    """Draw the first language while it is learned, one line per run.

    Args:
        results: checked results.

    Returns:
        SVG markup.
    """
    code, styles = results["languages"][0], run_styles(results["runs"])
    series = {}
    for run in styles:
        points = readings.thin(readings.stage_points(results["runs"][run], 0), _POINTS)
        series[run] = Series([p["tokens"] for p in points], [p["bits_per_byte"][code] for p in points])
    lowest, highest = min(min(s.y) for s in series.values()), max(max(s.y) for s in series.values())
    name = language_name(code)
    with drawing() as figure:
        picture = figure(_WIDTH, _HEIGHT)
        axes = frame(picture, _MARGINS)
        mark_stages(axes, [max(s.x[-1] for s in series.values())], [name])
        draw_language(axes, series, styles, (0.96 * lowest, min(1.04 * highest, 1.6 * lowest)))
        axes.set_xlabel("tokens seen", color=_MUTED, fontsize=FONT, labelpad=2)
        return inline_svg(
            picture,
            "first",
            f"{name} while it is learned",
            f"Held-out bits per byte of {name} in the first stage. At its end: {_last(series, styles)}.",
        )


def trade_plot(results: Results, row: MatchedRecord, key: str) -> str:
    """Draw what an old language costs while a new one is learned, one path per run.

    Args:
        results: checked results.
        row: which languages, and the level of the new one at which runs are compared.
        key: unique in the page.

    Returns:
        SVG markup; the horizontal axis is reversed, so that learning goes to the right.
    """
    stage, own = (results["languages"].index(row[key]) for key in ("new", "old"))
    styles = run_styles(results["runs"])
    paths = {run: _trade(results["runs"][run], stage, own, row) for run in styles}
    new, old = language_name(row["new"]), language_name(row["old"])
    with drawing() as figure:
        picture = figure(_WIDTH, _HEIGHT)
        axes = frame(picture, (40, 44, 12, 26))
        _trade_limits(axes, paths)
        axes.axhline(0, color=_MUTED, linewidth=0.8)
        axes.vlines(row["at"], 0, axes.get_ylim()[1], color=_MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        for run in reversed(styles):
            line(axes, paths[run], styles[run], marks=True)
        for run, rise in row["rise"].items():
            dot = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.5}
            axes.plot([row["at"]], [rise], linestyle="none", markeredgecolor=styles[run].colour, **dot)
        _trade_words(axes, row["at"], new, old)
        ends = ", ".join(
            f"{styles[run].label} learned to {path.x[-1]:.2f} and lost {path.y[-1]:.2f}"
            for run, path in paths.items()
        )
        return inline_svg(
            picture,
            key,
            f"{old} lost against {new} learned",
            f"Rise of {old} in bits per byte while {new} is learned. {ends}.",
        )


def _trade_limits(axes: Any, paths: Mapping[str, Series]) -> None:
    """Fit the axes to the paths, learning to the right."""
    x = [value for path in paths.values() for value in path.x]
    y = [value for path in paths.values() for value in path.y]
    width, height = max(max(x) - min(x), 0.1), max(max(*y, 0) - min(*y, 0), 0.05)
    axes.set_xlim(max(x) + 0.04 * width, min(x) - 0.06 * width)
    axes.set_ylim(min(*y, 0) - 0.16 * height, max(*y, 0) + 0.08 * height)


def _trade_words(axes: Any, at: float, new: str, old: str) -> None:
    """Name the axes, the line of comparison and the good corner."""
    axes.set_xlabel(f"{new}, bits per byte (learning goes right)", color=_MUTED, fontsize=FONT, labelpad=2)
    axes.text(0, 1.03, f"{old} lost", transform=axes.transAxes, color=_MUTED, fontsize=FONT)
    words = {"color": _MUTED, "fontsize": FONT, "ha": "right"}
    place = axes.get_xaxis_transform()
    axes.text(at, 1.03, f"equal {new}: {at:.2f}", transform=place, **(words | {"ha": "center"}))
    axes.text(1, 0.02, "learned more, forgot less", transform=axes.transAxes, style="italic", **words)


def level_plot(results: Results, run: str, key: str) -> str:
    """Draw when each level of a run updated and when its key memories were committed: one lane each.

    Args:
        results: checked results.
        run: a run with levels.
        key: unique in the page.

    Returns:
        SVG markup; marks that would touch are drawn as one block.
    """
    record, colour = results["runs"][run], run_styles(results["runs"])[run].colour
    lanes = _lanes(record, colour)
    names = [language_name(language) for language in results["languages"]]
    ends = readings.stage_ends(record, len(names))
    with drawing() as figure:
        picture = figure(860, 70 + 48 * len(lanes))
        axes = frame(picture, (124, 44, 104, 26))
        mark_stages(axes, ends, names)
        axes.grid(visible=False)
        axes.set_ylim(len(lanes) - 0.5, -0.5)
        axes.set_yticks(range(len(lanes)), [label for label, _, _ in lanes])
        axes.tick_params(axis="y", labelcolor=_INK)
        for lane, (_, events, ink) in enumerate(lanes):
            axes.axhline(lane, color=_LINE, linewidth=0.7, zorder=0)
            _draw_events(axes, events, lane, ends[-1] / 400, ink)
            count = f"{len(events):,} time{'' if len(events) == 1 else 's'}"
            axes.annotate(
                count, (1.015, lane), xycoords=axes.get_yaxis_transform(), va="center", color=_MUTED
            )
        axes.set_xlabel("tokens seen", color=_MUTED, fontsize=FONT, labelpad=2)
        counts = "; ".join(f"{' '.join(label.split())}: {len(events)} times" for label, events, _ in lanes)
        return inline_svg(picture, key, "When each level updated", f"One lane per level. {counts}.")


def _lanes(run: Run, colour: str) -> list[tuple[str, list[int], str]]:
    """Return label, events and colour of every lane."""
    updates, commits = run.get("updates") or {}, run.get("commits") or []
    lanes = []
    for level in run.get("levels") or []:
        name = clean(level["name"])
        name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        lanes.append((f"{name}\nevery {level['period']:,}", updates.get(level["name"], []), colour))
    if commits:
        lanes.append(("key memories\ncommitted", commits, _INK))
    return lanes


def _draw_events(axes: Any, events: Sequence[float], lane: int, step: float, colour: str) -> None:
    """Draw a lane's events as marks, joining those less than ``step`` tokens apart."""
    blocks: list[list[float]] = []
    for tokens in sorted(events):
        if blocks and tokens - blocks[-1][1] < step:
            blocks[-1][1] = tokens
        else:
            blocks.append([tokens, tokens])
    mark = 0.75 * step
    spans = [(max(0.0, first - mark / 2), last - first + mark) for first, last in blocks]
    axes.broken_barh(spans, (lane - 0.3, 0.6), facecolor=colour, linewidth=0)


def _series(run: Run, code: str) -> Series:
    """Return one language's curve."""
    points = readings.thin(run["curve"], _POINTS)
    return Series([point["tokens"] for point in points], [point["bits_per_byte"][code] for point in points])


def _trade(run: Run, stage: int, own: int, row: MatchedRecord) -> Series:
    """Return the path of a run through a stage: new language against the old one's rise."""
    points = [point["bits_per_byte"] for point in readings.thin(readings.stage_points(run, stage), _POINTS)]
    learned = [point for point in run["curve"] if point["stage"] < stage]
    start = next(  # the end of the old language's own stage: its last evaluation there
        (p["bits_per_byte"][row["old"]] for p in reversed(learned) if p["stage"] == own),
        points[0][row["old"]],
    )
    return Series([point[row["new"]] for point in points], [point[row["old"]] - start for point in points])


def _last(series: Mapping[str, Series], styles: Mapping[str, RunStyle]) -> str:
    """List the last value of every run."""
    return ", ".join(f"{styles[run].label} {one.y[-1]:.2f}" for run, one in series.items())
