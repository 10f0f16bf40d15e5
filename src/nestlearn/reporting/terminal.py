"""The result in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nestlearn.reporting import readings, sentences
from nestlearn.reporting.schema import MatchedRecord, Results, validate
from nestlearn.reporting.style import language_name, number, run_styles, signed

__all__ = ["print_summary", "retention_table"]

_ONE_LINE = 3  # with more languages, headings are codes and the two values of a cell stand below each other
_COLOURS = {"run-0": "bright_blue", "run-1": "dark_orange3", "run-2": "green"}
_ASCII = {"→": "->", "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "•": "*", "’": "'"}


def retention_table(results: Mapping[str, Any]) -> Table:
    """Make the table of what was learned and what was kept, at most 80 columns wide for up to 5 languages.

    One row per run. For each language, held-out bits per byte right after it was learned and at the end of
    the stream; then the mean rise of the earlier languages, the rise at matched acquisition, and the ratio of
    that with levels to that without.

    Args:
        results: the content of ``results.json``.

    Returns:
        A table for a rich console.

    Raises:
        ValueError: a key of the results is missing or malformed; the message names it.
    """
    return _table(validate(results), str)


def print_summary(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the result: a headline, the table, what its last columns mean, and what else to know.

    Args:
        results: the content of ``results.json``.
        console: where to print; standard output by default. Without Unicode, signs are written as ASCII.

    Raises:
        ValueError: a key of the results is missing or malformed; the message names it.
    """
    checked = validate(results)
    console = console or Console()
    plain = str if console.encoding.startswith("utf") else _ascii
    console.print(Text(plain(sentences.headline(checked)), style="bold"))
    console.print()
    console.print(_table(checked, plain))
    first = _first_pair(checked)
    if first is not None:
        new, old = language_name(first["new"]), language_name(first["old"])
        note = (
            f"rise: mean of the earlier languages, at the end; matched: {old}, when {new} was first down to "
        )
        note += f"{first['at']:.2f} (the worst run’s end); ratio: levels / ordinary, matched"
        console.print()
        console.print(Text(plain(note), style="dim"))
    console.print()
    for sentence in sentences.sentences(checked):
        console.print(Text(plain(f"• {sentence}")))


def _table(results: Results, plain: Callable[[str], str]) -> Table:
    """Make the table, with every text put through ``plain``."""
    languages = results["languages"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title_justify="left", title_style="")
    title = "bits per byte" if len(languages) == 1 else "bits per byte, when learned → at the end"
    table.title = Text(plain(title))
    headings = languages if len(languages) > _ONE_LINE else [language_name(code) for code in languages]
    first = _first_pair(results)
    headings = [*headings, *(("rise", "matched", "ratio") if first is not None else ())]
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(Text(plain(heading)), justify="right", no_wrap=True)
    for run, style in run_styles(results["runs"]).items():
        cells = [Text(plain(cell)) for cell in _cells(results, run, first)]
        table.add_row(Text(plain(style.short), style=_COLOURS.get(style.variable, "")), *cells)
    return table


def _cells(results: Results, run: str, first: MatchedRecord | None) -> list[str]:
    """Return the cells of a run's row after its name."""
    matrix = results["runs"][run]["matrix"]
    last = len(matrix) - 1
    between = "→" if last < _ONE_LINE else "\n→"
    cells = [f"{matrix[j][j]:.2f}{between}{matrix[last][j]:.2f}" for j in range(last)]
    cells.append(f"{matrix[last][last]:.2f}")
    if first is not None:
        rise = first["rise"].get(run)
        cells.append(signed(readings.forgetting(results)[run]))
        cells.append(number(None) if rise is None else signed(rise))
        cells.append(number(first.get("ratio")) if run == "nested" else "")
    return cells


def _first_pair(results: Results) -> MatchedRecord | None:
    """Return the comparison that the table shows: ``matched`` if stored, else the first of the stream."""
    return results.get("matched") or next(iter(readings.matched_rows(results)), None)


def _ascii(text: str) -> str:
    """Write signs as ASCII, and whatever else is not as a question mark."""
    for sign, plain in _ASCII.items():
        text = text.replace(sign, plain)
    return text.encode("ascii", "replace").decode()
