"""Doing the runs of a plan: side by side, each kept in a file as soon as it is there."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from functools import partial
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nestlearn.bench.store import Keeper, Keyed, Record

R = TypeVar("R", bound=Keyed)
Result = Callable[[], Record]


class Plan(Protocol[R]):
    """Says what is to be done next."""

    def wanted(self, records: Mapping[str, Record]) -> list[R]:
        """The runs that are known to be needed and not there, in the order in which to do them."""


def perform(execute: Callable[[R], Record], run: R) -> Record:
    """A run's record, with what it cost; where it worked is nobody's business."""
    started = time.process_time()
    record = execute(run)
    own = {name: value for name, value in asdict(run).items() if name != "work"}  # type: ignore[call-overload]
    return {**own, **record, "cpu_seconds": round(time.process_time() - started, 1)}


def complete(
    plan: Plan[R],
    results: Keeper,
    execute: Callable[[R], Record],
    *,
    workers: int,
    on_done: Callable[[R, Record, int], None],
) -> dict[str, str]:
    """Do the runs that are missing; which ones those are depends on the results of others.

    Args:
        plan: The plan; its runs are dataclasses with a name for people.
        results: Where each record goes as soon as it is there.
        execute: Does a run, in a process that knows nothing of this one.
        workers: Processes of one thread each; 0 does the runs here.
        on_done: Called after every finished run, with the number of those known to be missing.

    Returns: What went wrong, by run; the others were done.

    Raises:
        ValueError: ``workers`` below 0.
    """
    if not workers >= 0:
        raise ValueError(f"Invalid workers: {workers}. Must not be negative.")
    failed: set[str] = set()
    failures: dict[str, str] = {}
    do = partial(perform, execute)

    def wanted() -> list[R]:
        return [run for run in plan.wanted(results.records) if run.key not in failed]

    def keep(run: R, result: Result) -> None:
        try:
            record = result()
        except Exception as error:
            failed.add(run.key)
            failures[str(run)] = f"{type(error).__name__}: {error}"
        else:
            results.add(run, record)
            on_done(run, record, len(wanted()))

    if workers == 0:
        while runs := wanted():
            keep(runs[0], partial(do, runs[0]))
    else:
        _in_processes(do, wanted, workers, keep)
    return failures


def watched(
    plan: Plan[R],
    results: Keeper,
    execute: Callable[[R], Record],
    describe: Callable[[R, Record], str],
    *,
    workers: int,
    console: Console,
) -> dict[str, str]:
    """:func:`complete` with a bar, or a line a run where nobody watches.

    Args:
        plan: See :func:`complete`.
        results: Likewise.
        execute: Likewise.
        describe: What is said of a finished run.
        workers: See :func:`complete`.
        console: Where it is shown.

    Returns: As :func:`complete`.
    """
    bar = Progress(
        TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[latest]}"), console=console,
    )  # fmt: skip
    with bar:
        line = bar.add_task("", total=len(plan.wanted(results.records)), latest="")
        done = 0

        def on_done(run: R, record: Record, missing: int) -> None:
            nonlocal done
            done += 1
            text = describe(run, record)
            bar.update(line, completed=done, total=done + missing, latest=text)
            if not console.is_terminal:
                console.print(f"{text}, {record['cpu_seconds']:.0f} s", highlight=False)

        return complete(plan, results, execute, workers=workers, on_done=on_done)


def chosen(names: str | None, table: Iterable[str], kind: str) -> list[str]:
    """Names out of a list with semicolons, as the names have commas, in the table's order; None for all.

    Raises:
        ValueError: For a name that the table does not have.
    """
    known = list(table)
    wanted = known if names is None else [name.strip() for name in names.split(";")]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"no {kind} {unknown[0]!r}: there are {'; '.join(known)}")
    return [name for name in known if name in wanted]


def _in_processes(
    do: Callable[[R], Record],
    wanted: Callable[[], list[R]],
    workers: int,
    keep: Callable[[R, Result], None],
) -> None:
    """Always as many runs as processes, so that what a result asks for can come next."""
    waiting: dict[Future[Record], R] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_end_with_parent) as pool:
        try:
            while True:
                under_way = {run.key for run in waiting.values()}
                for run in [run for run in wanted() if run.key not in under_way][: workers - len(waiting)]:
                    waiting[pool.submit(do, run)] = run
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    keep(waiting.pop(future), future.result)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """A worker whose parent was ended, by whatever signal, works for nobody: it ends too."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
