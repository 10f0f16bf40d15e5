"""A suite: every mixer on every task, learning rates chosen first, then the seeds that are reported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from recipes._figure import write_figure
from recipes._runs import SHAPE, Problem, Run
from recipes._store import Record, Store, by_name, complete

TUNING_SEED = 1000  # not one of the seeds that are reported
RATES = (3e-3, 6e-3)


@dataclass(frozen=True)
class Suite:
    """What is compared.

    Attributes:
        title: Above the tables and the figure.
        mixers: Fields of :class:`HopeConfig` by the name of the entry.
        problems: Tasks by name.
        result: Default place of the results.
        figure: Default place of the figure.
        shape: Fields of :class:`HopeConfig` that are the same for all.
        evaluation_tokens: Tokens of each evaluation, roughly.
    """

    title: str
    mixers: Mapping[str, Mapping[str, Any]]
    problems: Mapping[str, Problem]
    result: Path
    figure: Path
    shape: Mapping[str, Any] = field(default_factory=lambda: dict(SHAPE))
    evaluation_tokens: int = 32_768

    def run(self, mixer: str, task: str, lr: float, seed: int, split: str, steps: int | None) -> Run:
        """One run of the suite."""
        problem = self.problems[task]
        problem = problem if steps is None else replace(problem, steps=steps)
        fields = problem.of(mixer, self.mixers[mixer])
        return Run(mixer, fields, task, problem, lr, seed, split, self.evaluation_tokens, self.shape)

    def available(self) -> list[str]:
        """Mixers that the model has."""
        return [name for name in self.mixers if self.refusal(name) is None]

    def refusal(self, mixer: str) -> str | None:
        """Why the model does not have a mixer, or None."""
        try:
            self.run(mixer, next(iter(self.problems)), 1e-3, 0, "test", None).config()
        except Exception as error:  # the strict configuration has errors of its own
            return " ".join(str(error).split())
        return None


@dataclass(frozen=True)
class Plan:
    """What of a suite is done."""

    suite: Suite
    mixers: Sequence[str]
    tasks: Sequence[str]
    seeds: int
    steps: int | None
    rates: Sequence[float] = RATES

    def tuning(self) -> list[Run]:
        """A run for each mixer, task and learning rate, on validation samples."""
        return [
            self.suite.run(mixer, task, lr, TUNING_SEED, "validation", self.steps)
            for task in self.tasks
            for mixer in self.mixers
            for lr in self.rates
        ]

    def best(self, store: Store) -> dict[tuple[str, str], float]:
        """The best learning rate by mixer and task, of those whose runs are there."""
        found: dict[tuple[str, str], tuple[float, float, float]] = {}
        for run in (run for run in self.tuning() if run in store):
            record, place = store[run], (run.mixer, run.task)
            loss = record["loss"][-1] if record["loss"] else float("inf")
            score = (criterion(run.problem, record), -loss, run.lr)
            found[place] = max(score, found.get(place, score))
        return {place: score[-1] for place, score in found.items()}

    def reported(self, store: Store) -> list[Run]:
        """The runs with the best learning rates, on test samples."""
        best = self.best(store)
        return [
            self.suite.run(mixer, task, best[mixer, task], seed, "test", self.steps)
            for task in self.tasks
            for seed in range(self.seeds)
            for mixer in self.mixers
            if (mixer, task) in best
        ]

    def summary(self, store: Store) -> dict[str, dict[str, Any]]:
        """Mean and range over the seeds by task and mixer."""
        found: dict[tuple[str, str], list[Record]] = {}
        rates = self.best(store)
        for run in (run for run in self.reported(store) if run in store):
            found.setdefault((run.task, run.mixer), []).append(store[run])
        summary: dict[str, dict[str, Any]] = {}
        for (task, mixer), records in found.items():
            summary.setdefault(task, {})[mixer] = _summary(rates[mixer, task], records)
        return summary


def criterion(problem: Problem, record: Record) -> float:
    """Mean accuracy on what is not longer than the training's longest sequences."""
    longest = max(task.length for task in problem.curriculum)
    within = [e["token"] for e in record["accuracy"].values() if e["length"] <= longest]
    return float(mean(within or [e["token"] for e in record["accuracy"].values()]))


def _summary(lr: float, records: list[Record]) -> dict[str, Any]:
    accuracy: dict[str, Any] = {}
    for name, first in records[0]["accuracy"].items():
        accuracy[name] = {"length": first["length"], "chance": first["chance"]}
        for figure in (f for f in first if f not in {"length", "chance"}):
            values = [record["accuracy"][name][figure] for record in records]
            accuracy[name][figure] = {"mean": round(mean(values), 4), "min": min(values), "max": max(values)}
    return {
        "lr": lr,
        "seeds": len(records),
        "parameters": records[0]["parameters"],
        "cpu_seconds": round(mean(record["cpu_seconds"] for record in records), 1),
        "accuracy": accuracy,
    }


def perform(plan: Plan, store: Store, *, workers: int, console: Console) -> dict[str, str]:
    """Choose the learning rates, do the reported runs and write the summary; what went wrong, by run."""
    failures: dict[str, str] = {}
    for title, runs in (("learning rates", plan.tuning), ("seeds", lambda: plan.reported(store))):
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
        for column in ("mixer", *(name for name, _, _ in columns), "lr", "CPU s"):
            table.add_column(column, justify="left" if column == "mixer" else "right")
        for mixer, row in mixers.items():
            cells = [row["accuracy"][evaluation][figure] for _, evaluation, figure in columns]
            texts = (f"{c['mean']:.3f} ({c['min']:.2f}-{c['max']:.2f})" for c in cells)
            table.add_row(mixer, *texts, f"{row['lr']:g}", f"{row['cpu_seconds']:.0f}")
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
