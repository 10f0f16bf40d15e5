"""Several seeds together: the figures with their spread, and the picture for the README."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nestlearn.continual import metrics
from nestlearn.reporting import plots, readings
from nestlearn.reporting.drawing import FONT, Series, drawing, frame, mark_stages, matplotlib_module
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.schema import MatchedRecord, Results, Run, validate
from nestlearn.reporting.style import THEME, RunStyle, language_name, run_styles

__all__ = ["aggregate", "write_readme_figure"]

_PANEL = (300.0, 310.0)  # points


def aggregate(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the headline figures of several seeds together.

    Every figure becomes ``{"mean", "min", "max", "std", "n"}``; ``std`` is the sample standard deviation, 0.0
    for one seed, and ``n`` says how many seeds have the figure.

    Args:
        results: one ``results.json`` per seed, with the same languages and the same runs.

    Returns:
        A dictionary that ``json`` can write: ``metric``, ``languages``, ``seeds``; ``runs`` with ``matrix``,
        ``forgetting`` and ``average`` (bits per byte), ``params``, ``tokens`` and ``seconds`` by run;
        ``matched``, one entry per pair of languages with ``at``, ``rise`` by run, ``ratio`` and
        ``ratio_in_stage`` (None if no seed has one) and ``ratio_of_means``; ``first_language`` with
        ``bits_per_byte`` by run and, as ``to_transformer``, their ratios to the Transformer's.

    Raises:
        ValueError: there are no results, they differ in languages or runs, or one of them is malformed.
    """
    checked = _same(results)
    first = checked[0]
    seeds_of = {name: [one["runs"][name] for one in checked] for name in first["runs"]}
    return {
        "metric": first["metric"],
        "languages": list(first["languages"]),
        "seeds": [one["seed"] for one in checked],
        "runs": {name: _run(seeds, len(first["languages"])) for name, seeds in seeds_of.items()},
        "matched": _matched(checked),
        "first_language": _first_language(checked),
    }


def write_readme_figure(results: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Draw every language over the stream, one line per run: the mean over seeds with the range shaded.

    The picture brings its own background, so that it can be read on a white page and on a dark one.

    Args:
        results: one ``results.json`` per seed, with the same languages and the same runs.
        path: a ``.svg`` or ``.png`` file, replaced if it exists.

    Raises:
        ValueError: another suffix, or results that do not belong together.
        ModuleNotFoundError: matplotlib is not installed.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in {"svg", "png"}:
        raise ValueError(f"the figure must be a .svg or .png file, got {path.name!r}")
    checked = _same(results)
    buffer = io.BytesIO()
    with drawing(text="path") as figure:
        picture = _readme_picture(figure, checked)
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        picture.savefig(buffer, format=form, dpi=72 if form == "svg" else 160, metadata=metadata)
    write_atomically(path, buffer.getvalue())


def _same(results: Sequence[Mapping[str, Any]]) -> list[Results]:
    """Check results one by one and against each other."""
    if not results:
        raise ValueError("there are no results to put together")
    checked = [validate(one) for one in results]
    first = checked[0]
    for one in checked[1:]:
        if one["languages"] != first["languages"]:
            raise ValueError(f"results differ in languages: {first['languages']} and {one['languages']}")
        if set(one["runs"]) != set(first["runs"]):
            raise ValueError(f"results differ in runs: {sorted(first['runs'])} and {sorted(one['runs'])}")
    return checked


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, min, max, sample standard deviation and number of values."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "std": std,
        "n": len(values),
    }


def _run(seeds: Sequence[Run], stages: int) -> dict[str, Any]:
    """Put one run's figures together."""
    return {
        "matrix": [
            [_spread([one["matrix"][i][j] for one in seeds]) for j in range(stages)] for i in range(stages)
        ],
        "forgetting": _spread([metrics.forgetting(one["matrix"]) for one in seeds]),
        "average": _spread([metrics.average(one["matrix"]) for one in seeds]),
        "params": _spread([one["params"] for one in seeds]),
        "tokens": _spread([one["tokens"] for one in seeds]),
        "seconds": _spread([one["seconds"] for one in seeds]),
    }


def _matched(checked: Sequence[Results]) -> list[dict[str, Any]]:
    """Put the comparisons at matched acquisition together, pair by pair."""
    tables = [readings.matched_rows(one) for one in checked]
    for table in tables:
        if _compared(table) != _compared(tables[0]):
            raise ValueError(
                f"results differ in what they compare: {_compared(tables[0])}, {_compared(table)}"
            )
    together = []
    for rows in zip(*tables, strict=True):
        rise = {run: _spread([row["rise"][run] for row in rows]) for run in rows[0]["rise"]}
        ratios = [ratio for row in rows if (ratio := row.get("ratio")) is not None]
        inside = [ratio for row in rows if (ratio := row.get("ratio_in_stage")) is not None]
        nested, finetune = (rise[run]["mean"] if run in rise else 0.0 for run in ("nested", "finetune"))
        together.append(
            {
                "new": rows[0]["new"],
                "old": rows[0]["old"],
                "at": _spread([row["at"] for row in rows]),
                "rise": rise,
                "ratio": _spread(ratios) if ratios else None,
                "ratio_in_stage": _spread(inside) if inside else None,
                "ratio_of_means": nested / finetune if finetune > 0 and "nested" in rise else None,
            }
        )
    return together


def _compared(rows: Sequence[MatchedRecord]) -> list[tuple[str, str, list[str]]]:
    """Return which languages and runs are compared."""
    return [(row["new"], row["old"], sorted(row["rise"])) for row in rows]


def _first_language(checked: Sequence[Results]) -> dict[str, Any]:
    """Put the comparisons with the Transformer at the end of stage 0 together."""
    first = [readings.first_language(one) for one in checked]
    return {
        "language": first[0].language,
        "bits_per_byte": {
            run: _spread([one.bits_per_byte[run] for one in first]) for run in first[0].bits_per_byte
        },
        "to_transformer": {run: _spread([1 + one.excess[run] for one in first]) for run in first[0].excess},
    }


def _readme_picture(figure: Any, checked: Sequence[Results]) -> Any:
    """Draw the panels side by side."""
    languages, styles = checked[0]["languages"], run_styles(checked[0]["runs"])
    names = [language_name(code) for code in languages]
    width, height = _PANEL
    picture = figure(width * len(languages) + 24, height)
    _background(picture)
    records = [one["runs"][run] for one in checked for run in styles]
    ends = readings.stage_ends(records[0], len(languages))
    handles = []
    for index, code in enumerate(languages):
        right = width * (len(languages) - 1 - index)
        axes = frame(picture, (50 + width * index, 48, 56 + right, 88))
        mark_stages(axes, ends, names, own=index)
        series = {run: _mean_series([one["runs"][run] for one in checked], code) for run in styles}
        handles = plots.draw_language(axes, series, styles, plots.axis_range(records))
        axes.set_title(f"Held-out {names[index]}", loc="left", fontsize=FONT + 3, fontweight="bold", pad=26)
        axes.set_xlabel("tokens seen", color=THEME["muted"][0], labelpad=2)
        if index == 0:
            axes.set_ylabel("bits per byte (lower is better)", color=THEME["muted"][0])
    _readme_legend(picture, handles, styles)
    return picture


def _background(picture: Any) -> None:
    """Put a light card with round corners behind everything."""
    width, height = picture.get_size_inches()
    card = matplotlib_module("matplotlib.patches").FancyBboxPatch(
        (0, 0),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.15",
        transform=picture.dpi_scale_trans,
        facecolor=THEME["paper"][0],
        linewidth=0,
        zorder=-1,
    )
    picture.add_artist(card)


def _readme_legend(picture: Any, handles: Sequence[Any], styles: Mapping[str, RunStyle]) -> None:
    """Name the runs above the panels."""
    labels = [style.label for style in styles.values()]
    place = {"loc": "upper left", "bbox_to_anchor": (0.01, 0.995), "ncols": len(labels)}
    picture.legend(
        handles, labels, frameon=False, fontsize=FONT, handlelength=3, labelcolor="linecolor", **place
    )


def _mean_series(seeds: Sequence[Run], code: str) -> Series:
    """Average one language's curve over seeds, at the first seed's evaluations."""
    tokens = [point["tokens"] for point in seeds[0]["curve"]]
    values = np.array(
        [
            np.interp(
                tokens, [p["tokens"] for p in one["curve"]], [p["bits_per_byte"][code] for p in one["curve"]]
            )
            for one in seeds
        ]
    )
    mean = values.mean(axis=0).tolist()
    if len(seeds) == 1:
        return Series(tokens, mean)
    return Series(tokens, mean, values.min(axis=0).tolist(), values.max(axis=0).tolist())
