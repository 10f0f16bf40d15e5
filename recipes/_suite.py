"""A suite's command: every mixer on every task, settings and rates chosen first, then the reported seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nestlearn.bench.store import Record, Store
from recipes._figure import write_figure
from recipes._plan import Plan, Suite, criterion
from recipes._runs import Run
from recipes._store import by_name, complete


def perform(plan: Plan, store: Store, *, workers: int, console: Console) -> dict[str, str]:
    """Choose settings and rates, do the reported runs and write the summary; what went wrong, by run."""
    failures: dict[str, str] = {}
    stages: dict[str, Callable[[], list[Run]]] = {
        "settings": plan.settings,
        "learning rates": lambda: plan.tuning(store),
        "seeds": lambda: plan.reported(store),
    }
    for title, runs in stages.items():
        wanted = runs()
        there = sum(run in store for run in wanted)
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[latest]}"), console=console,
        )  # fmt: skip
        with bar:
            line = bar.add_task(title, total=len(wanted), completed=there, latest="")

            def done(run: Run, record: Record, line: Any = line, bar: Progress = bar) -> None:
                latest = f"{run.mixer} on {run.task}: {criterion(run.problem, record):.3f}"
                bar.update(line, advance=1, latest=f"{latest}, {record['cpu_seconds']:.0f} s")

            failures |= complete(wanted, store, workers=workers, on_done=done)
    store.summary = plan.summary(store)
    store.write()
    return failures


def print_tables(summary: Mapping[str, Any], title: str, console: Console) -> None:
    """One table a task: share of right answers, mean over the seeds (lowest to highest)."""
    for task, mixers in summary.items():
        table = Table(title=f"{title}: {task}")
        columns = _columns(next(iter(mixers.values()))["accuracy"])
        chosen = any(row["settings"] for row in mixers.values())
        for column in ("mixer", *(name for name, _, _ in columns), *["settings"] * chosen, "lr", "CPU s"):
            table.add_column(column, justify="left" if column == "mixer" else "right")
        for mixer, row in mixers.items():
            cells = [row["accuracy"][evaluation][figure] for _, evaluation, figure in columns]
            texts = (f"{c['mean']:.3f} ({c['min']:.2f}-{c['max']:.2f})" for c in cells)
            settings = ", ".join(f"{name}={value}" for name, value in row["settings"].items())
            table.add_row(mixer, *texts, *[settings] * chosen, f"{row['lr']:g}", f"{row['cpu_seconds']:.0f}")
        first = next(iter(next(iter(mixers.values()))["accuracy"].values()))
        table.caption = f"chance {first['chance']:.3f}"
        console.print(table)


def _columns(accuracy: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Title, evaluation and figure of every column: all questions, or each phase where there are several."""
    columns = []
    for evaluation, figures in accuracy.items():
        phases = [name for name in figures if name not in {"length", "chance", "token", "sequence", "last"}]
        columns += [(f"{evaluation} {phase}", evaluation, phase) for phase in phases]
        if not phases:
            columns.append((evaluation, evaluation, "token"))
    return columns


def command(suite: Suite) -> Callable[..., None]:
    """The recipe's command line."""

    def main(
        mixers: Annotated[str | None, typer.Option(help="Names, with commas; default all.")] = None,
        tasks: Annotated[str | None, typer.Option(help="Names, with commas; default all.")] = None,
        seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.")] = 3,
        steps: Annotated[int | None, typer.Option(help="Updates, instead of each task's own.")] = None,
        workers: Annotated[int, typer.Option(help="Processes; 0 for none but this one.")] = 2,
        result: Annotated[Path, typer.Option(help="Where the figures go.")] = suite.result,
        figure: Annotated[Path, typer.Option(help="Where the picture goes.")] = suite.figure,
    ) -> None:
        console = Console()
        try:
            failures = _main(suite, mixers, tasks, seeds, steps, workers, result, figure, console)
        except ValueError as error:
            print(error, file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print(f"stopped; {result} keeps the finished runs, and the same command goes on", file=sys.stderr)
            raise typer.Exit(130) from None
        for name, failure in failures.items():
            print(f"{name}: {failure}", file=sys.stderr)
        if failures:
            raise typer.Exit(1)

    main.__doc__ = suite.title
    return main


def _main(
    suite: Suite,
    mixers: str | None,
    tasks: str | None,
    seeds: int,
    steps: int | None,
    workers: int,
    result: Path,
    figure: Path,
    console: Console,
) -> dict[str, str]:
    """Check what is asked for, do it and show it."""
    if not seeds >= 1:
        raise ValueError(f"Invalid seeds: {seeds}. Must be at least 1.")
    names = by_name(mixers, suite.mixers, "mixer")
    available = suite.available()
    missing = [name for name in names if name not in available]
    if mixers is None:
        names = available
        if missing:
            console.print(f"left out, as the model does not have them: {', '.join(missing)}", highlight=False)
    elif missing:
        raise ValueError(f"mixer {missing[0]}: {suite.refusal(missing[0])}")
    plan = Plan(suite, names, by_name(tasks, suite.problems, "task"), seeds, steps)
    store = Store(result)
    failures = perform(plan, store, workers=workers, console=console)
    print_tables(store.summary, suite.title, console)
    if store.summary:
        write_figure(store.summary, suite.title, figure)
    return failures
