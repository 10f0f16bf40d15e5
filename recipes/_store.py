"""The processes that do the runs of a suite."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any

import torch

from nestlearn.bench.store import Record, Store
from recipes._runs import Run, execute

Waiting = dict[Future[Record], Run]

_stop: Any = None  # in a worker process: the event that asks it to stop


def complete(
    runs: Iterable[Run], store: Store, *, workers: int, on_done: Callable[[Run, Record], None]
) -> dict[str, str]:
    """Do the runs that the store does not have.

    Args:
        runs: The runs.
        store: Where each record goes as soon as it is there.
        workers: Processes of one thread each; 0 does the runs here.
        on_done: Called after every finished run.

    Returns:
        What went wrong, by the name of the run; the other runs were done.

    Raises:
        ValueError: ``workers`` below 0.
        KeyboardInterrupt: After the workers have stopped; what was finished is kept.
    """
    if not workers >= 0:
        raise ValueError(f"Invalid workers: {workers}. Must not be negative.")
    missing = {run.key: run for run in runs if run not in store}.values()
    failures: dict[str, str] = {}

    def keep(run: Run, result: Callable[[], Record]) -> None:
        try:
            record = result()
        except Exception as error:
            failures[f"{run.mixer} on {run.task}, seed {run.seed}"] = f"{type(error).__name__}: {error}"
            return
        store.add(run, record)
        on_done(run, record)

    if workers == 0:
        for run in missing:
            keep(run, lambda run=run: execute(run))  # type: ignore[misc]
    elif missing:
        _in_processes(missing, workers, keep)
    return failures


def _in_processes(
    runs: Iterable[Run], workers: int, keep: Callable[[Run, Callable[[], Record]], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(stop,)) as pool:
        try:
            waiting = _submit(pool, runs)
            for future in as_completed(waiting):
                keep(waiting[future], future.result)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _submit(pool: ProcessPoolExecutor, runs: Iterable[Run]) -> Waiting:
    """Start the processes, deaf to Ctrl-C from their first moment, and give them the runs."""
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return {pool.submit(_work, run): run for run in runs}
    finally:
        signal.signal(signal.SIGINT, heard)


def _prepare(stop: Any) -> None:
    """Once in every worker process."""
    global _stop  # noqa: PLW0603
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _work(run: Run) -> Record:
    return execute(run, _stop.is_set)


def by_name(names: str | None, table: Mapping[str, Any], kind: str) -> list[str]:
    """Names of a table's entries out of a list with commas; None for all.

    Raises:
        ValueError: A name that the table does not have, or none at all.
    """
    if names is None:
        return list(table)
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in table]
    if unknown or not chosen:
        raise ValueError(f"no {kind} {', '.join(unknown) or repr(names)}: there are {', '.join(table)}")
    return chosen
