"""What ``nestlearn bench`` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from nestlearn.bench.cells import Cell, Search, execute
from nestlearn.bench.page import write_page
from nestlearn.bench.plan import Plan
from nestlearn.bench.store import Record, StreamStores
from nestlearn.bench.streams import STREAMS
from nestlearn.bench.summary import Row, ordered, plain, rows
from nestlearn.bench.work import chosen, watched


def run_continual(
    *,
    stream: str | None,
    method: str | None,
    seeds: int | None,
    workers: int,
    result: Path,
    page: Path,
) -> None:
    """See ``nestlearn bench continual --help``.

    Raises:
        ValueError: An unknown name, or results of another kind.
    """
    console = Console()
    plan = Plan(chosen(stream, STREAMS, "stream"), chosen(method, _methods(), "method"), seeds)
    results = StreamStores(result)
    try:
        failures = watched(plan, results, execute, _described, workers=workers, console=console)
    except KeyboardInterrupt:
        print(f"stopped; {result} keeps what is finished, and the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    for name in plan.streams:
        if own := rows(name, results.records):
            console.print(_table(name, own, plan.methods))
    write_page(results.records, page)
    for name, failure in failures.items():
        print(f"{name}: {failure}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _methods() -> list[str]:
    """The methods of all streams, in their order."""
    return list(dict.fromkeys(name for stream in STREAMS.values() for name in stream.entries))


def show_names() -> None:
    """Print the streams, and the methods of each."""
    for own in STREAMS.values():
        print(f"{own.name}: {own.title}", f"  {'; '.join(own.entries)}", sep="\n")


def _described(work: Search | Cell, record: Record) -> str:
    if isinstance(work, Search):
        return f"{work}: {', '.join(f'{name} {plain(value)}' for name, value in record['best'].items())}"
    return f"{work}: {record[STREAMS[work.stream].measures.final]:.3f}"


def _table(name: str, own: Sequence[Row], methods: Sequence[str]) -> Table:
    """A stream's figures, the best first."""
    measures = STREAMS[name].measures
    table = Table(title=STREAMS[name].title, title_justify="left")
    for head in ("method", "seeds", *measures.columns.values(), "stored"):
        table.add_column(head, justify="left" if head == "method" else "right")
    for row in ordered(own, measures):
        if row.method in methods:
            entries = [str(row.figures.get(column, "")) for column in measures.columns]
            stored = f"{row.figures['stored_bytes'].mean / 1e6:.2f} MB"
            table.add_row(row.method, str(row.seeds), *entries, stored)
    return table
