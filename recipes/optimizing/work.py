"""Doing the runs of a plan: side by side, each kept in a file as soon as it is there."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from functools import partial

from recipes._store import Store
from recipes.optimizing.plan import Plan, Record, Run, execute

Keep = Callable[[Run, Callable[[], Record]], None]


def perform(run: Run) -> Record:
    """A run's record, with what it cost."""
    started = time.process_time()
    record = execute(run)
    return {**asdict(run), **record, "cpu_seconds": round(time.process_time() - started, 1)}


def complete(
    plan: Plan, results: Store, *, workers: int, on_done: Callable[[Run, Record, int], None]
) -> dict[str, str]:
    """Do the runs that are missing; which ones those are depends on the results of others.

    Args:
        plan: The plan.
        results: Where each record goes as soon as it is there.
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

    def wanted() -> list[Run]:
        return [run for run in plan.wanted(results.records) if run.key not in failed]

    def keep(run: Run, result: Callable[[], Record]) -> None:
        try:
            record = result()
        except Exception as error:
            failed.add(run.key)
            failures[_name(run)] = f"{type(error).__name__}: {error}"
        else:
            results.add(run, record)
            on_done(run, record, len(wanted()))

    if workers == 0:
        _here(wanted, keep)
    else:
        _in_processes(wanted, workers, keep)
    return failures


def _here(wanted: Callable[[], list[Run]], keep: Keep) -> None:
    while runs := wanted():
        run = runs[0]
        keep(run, partial(perform, run))


def _in_processes(wanted: Callable[[], list[Run]], workers: int, keep: Keep) -> None:
    """Always as many runs as processes, so that what a result asks for can come next."""
    waiting: dict[Future[Record], Run] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            while True:
                under_way = {run.key for run in waiting.values()}
                for run in [run for run in wanted() if run.key not in under_way][: workers - len(waiting)]:
                    waiting[pool.submit(perform, run)] = run
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    keep(waiting.pop(future), future.result)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _name(run: Run) -> str:
    return f"{run.entry} on {run.task}, rate {run.lr:g}, seed {run.seed}"
