"""SmolLM2-135M-Instruct learns legal English, then French help pages: what does it still know?

It is first accustomed to plain text with a little of four old domains, which every method may also look at.
Writes ``results/smollm2.json`` after every run, ``docs/smollm2.md`` and ``docs/images/smollm2.svg``.

    python -m recipes.smollm2 --methods levels --workers 1 --threads 2    # ours: half an hour on two cores
    python -m recipes.smollm2                                             # everything; finished runs are kept
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nestlearn.bench.store import Record, Store
from nestlearn.bench.work import chosen, watched
from nestlearn.reporting.files import write_atomically
from recipes.smollm.cells import BASE, METHODS, Plan, Run, execute
from recipes.smollm.report import report
from recipes.teaching.figure import write_figure
from recipes.teaching.summary import matched_learning, points

RESULT, PAGE, WORK = Path("results/smollm2.json"), Path("docs/smollm2.md"), Path("out/smollm2")
FIGURE = Path("docs/images/smollm2.svg")


def main(
    methods: Annotated[str | None, typer.Option(help="Names, with semicolons; default all.")] = None,
    split: Annotated[str, typer.Option(help="test, or validation for choices.")] = "test",
    workers: Annotated[int, typer.Option(help="Processes; 0 for none but this one.", min=0)] = 2,
    threads: Annotated[int, typer.Option(help="Of each process.", min=1)] = 1,
    work: Annotated[Path, typer.Option(help="Folder of the accustomed model.")] = WORK,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
    page: Annotated[Path, typer.Option(help="Where the report goes.")] = PAGE,
    figure: Annotated[Path, typer.Option(help="Where the picture goes.")] = FIGURE,
) -> None:
    """Teach SmolLM2 two domains, by several methods."""
    console = Console(stderr=True)
    try:
        if split not in ("test", "validation"):
            raise ValueError(f"Invalid split: {split!r}. Must be test or validation.")
        plan = Plan(chosen(methods, METHODS, "method"), split, work, threads)
        results = Store(result)
        failures = watched(plan, results, execute, _described, workers=workers, console=console)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print(f"stopped; {result} keeps the finished runs, and the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    if _named(plan, results.records):
        results.summary = summarize(plan, results.records)
        results.write()
        write_figure(results.summary, figure)
        write_atomically(page, report(results.summary, _named(plan, results.records)) + "\n")
        console.print(f"{page} and {result} are written", highlight=False)
    for name, failure in failures.items():
        print(f"{name}: {failure}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def summarize(plan: Plan, records: Mapping[str, Record]) -> dict[str, Any]:
    """Every finished cell's curve, and ratios to ordinary fine-tuning at matched learning."""
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    for run in plan.all():
        if run.key in records:
            own = points(records[run.key])
            rows.append({"method": run.method, "settings": dict(run.settings), "curve": own})
            curves.setdefault(run.method, []).append(own)
    rows.sort(key=lambda row: METHODS.index(row["method"]))
    both = "finetune" in curves and "levels" in curves
    return {"split": plan.split, "cells": rows, "matched": [matched_learning(curves)] if both else []}


def _named(plan: Plan, records: Mapping[str, Record]) -> dict[str, Record]:
    return {str(run): records[run.key] for run in plan.all() if run.key in records}


def _described(run: Run, record: Record) -> str:
    if run.method == BASE:
        return "accustomed to plain text"
    learned, forgotten = points(record)[-1]
    return f"{run}: learned {learned:.3f}, forgotten {forgotten:+.3f}"


if __name__ == "__main__":
    typer.run(main)
