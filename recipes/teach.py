"""A model that knows four kinds of text is taught two more: what does each method forget for what it learns?

A Llama of 6 million parameters, trained from scratch on help pages, code, literature and definitions, learns
legal English and then French help pages, once through and with no word of the switch. Every method has at
least three settings, all shown; what is compared is the least that each forgets when all have learned as
much. Writes ``results/teach.json`` after every run, and ``docs/images/teach.svg``.

    python -m recipes.teach                                     # everything; finished runs are kept
    python -m recipes.teach --methods "finetune;levels" --seeds 1

The bases are kept in ``--work``, six minutes of training each.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nestlearn.bench.store import Record, Store
from nestlearn.bench.work import chosen, watched
from recipes.teaching.figure import write_figure
from recipes.teaching.plan import BASE, METHODS, Plan, Run, execute
from recipes.teaching.summary import points, print_tables, summarize

RESULT, WORK = Path("results/teach.json"), Path("out/teach")
FIGURE = Path("docs/images/teach.svg")


def main(
    methods: Annotated[str | None, typer.Option(help="Names, with semicolons; default all.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.", min=1)] = 3,
    split: Annotated[str, typer.Option(help="test, or validation for choices.")] = "test",
    workers: Annotated[int, typer.Option(help="Processes; 0 for none but this one.", min=0)] = 2,
    work: Annotated[Path, typer.Option(help="Folder of the bases.")] = WORK,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
    figure: Annotated[Path, typer.Option(help="Where the picture goes.")] = FIGURE,
) -> None:
    """Ways of learning on, compared."""
    console = Console()
    try:
        if split not in ("test", "validation"):
            raise ValueError(f"Invalid split: {split!r}. Must be test or validation.")
        plan = Plan(chosen(methods, METHODS, "method"), seeds, split, work)
        results = Store(result)
        failures = _perform(plan, results, workers, console)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print(f"stopped; {result} keeps the finished runs, and the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    print_tables(results.summary, console)
    write_figure(results.summary, figure)
    for name, failure in failures.items():
        print(f"{name}: {failure}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _described(run: Run, record: Record) -> str:
    if run.method == BASE:
        return str(run)
    learned, forgotten = points(record)[-1]
    return f"{run}: learned {learned:.3f}, forgotten {forgotten:+.3f}"


def _perform(plan: Plan, results: Store, workers: int, console: Console) -> dict[str, str]:
    """Do what is missing and write the summary; what went wrong, by run."""
    failures = watched(plan, results, execute, _described, workers=workers, console=console)
    results.summary = summarize(plan, results.records)
    results.write()
    return failures


if __name__ == "__main__":
    typer.run(main)
