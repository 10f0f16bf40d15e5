"""The search: one study, worked on by processes, within a budget in tokens."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from nestlearn.continual.run import prepare
from nestlearn.optim import NonFiniteGradientError
from nestlearn.streams import load_or_train_tokenizer, load_parallel_help
from nestlearn.tuning.candidate import Candidate
from nestlearn.tuning.plan import TuningPlan
from nestlearn.tuning.study import (
    BUSY,
    DIVERGED,
    STUDY,
    Trial,
    busy,
    committed,
    load_study,
    open_study,
    optuna_library,
    suggested,
    taken_over,
    trials_of,
)

if TYPE_CHECKING:
    import optuna


class PrunedError(Exception):
    """A trial is worse than the median of those before at the same place."""


class Search:
    """A search in a folder.

    Args:
        folder: Where ``study.sqlite3`` is.
        plan: What is searched on.
        workers: Processes of one thread each; 0 for none but this one.
        data_dir: See :func:`nestlearn.streams.load_parallel_help`.
        run_trial: Trains a candidate; takes the plan, the candidate, a function that is called at every
            evaluation, and ``data_dir``. For tests.

    Raises:
        ValueError: For a negative number of workers, languages that cannot be had, and as
            :func:`open_study`.
    """

    def __init__(
        self,
        folder: Path,
        plan: TuningPlan,
        *,
        workers: int = 2,
        data_dir: Path | None = None,
        run_trial: Runner | None = None,
    ) -> None:
        if isinstance(workers, bool) or workers < 0:
            raise ValueError(f"workers must be 0 or more, got {workers!r}")
        self.folder, self.plan, self.workers, self.data_dir = folder, plan, workers, data_dir
        self.run_trial = run_trial or train
        if run_trial is None:  # once and with one clear error, before several processes would
            corpus = load_parallel_help(plan.languages, data_dir=data_dir)
            load_or_train_tokenizer(corpus, plan.languages, plan.size.vocab_size)
        self.study = open_study(folder, plan)

    @property
    def spent(self) -> int:
        """Tokens that all trials have read."""
        return sum(trial.tokens for trial in trials_of(self.study))

    def run(
        self, on_change: Callable[[list[Trial]], None] = lambda _: None, every: float = 1.0
    ) -> list[Trial]:
        """Search until the budget is spent.

        Args:
            on_change: Called with all trials now and then.
            every: Seconds between two calls.

        Returns:
            All trials.

        Raises:
            KeyboardInterrupt: After Ctrl-C; the study keeps everything, and the same search goes on.
            ValueError: If another process searches in the folder, or a process of this search failed.
        """
        try:
            with FileLock(self.folder / BUSY, timeout=0):
                # Also what an earlier call of this search has left.
                taken_over(self.study, self.folder, self.plan, optuna_library())
                self._run(on_change, every)
        except Timeout:
            raise busy(self.folder) from None
        return trials_of(self.study)

    def _run(self, on_change: Callable[[list[Trial]], None], every: float) -> None:
        """Spend the budget in this process or in others."""
        arguments = (self.folder, self.plan, self.data_dir)
        if self.workers == 0:
            work(*arguments, 0, self.run_trial, lambda: on_change(trials_of(self.study)))
            return
        context = get_context("spawn")
        processes = [
            context.Process(target=_process, args=(*arguments, index, self.run_trial), daemon=True)
            for index in range(self.workers)
        ]
        with _one_thread_each(), _deaf():
            for process in processes:
                process.start()
        try:
            while any(process.is_alive() for process in processes):
                time.sleep(every)
                on_change(trials_of(self.study))
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                process.join()
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed:
            raise ValueError(f"a search process ended with code {failed[0]}; the study keeps what is done")


#: Trials that may fail before a search without a single success gives up.
_FAILURES = 3
#: Called at an evaluation with tokens and bits per byte by language; raises to end the trial.
Evaluated = Callable[[int, dict[str, float]], None]
Runner = Callable[[TuningPlan, Candidate, Evaluated, Path | None], None]


def train(plan: TuningPlan, candidate: Candidate, evaluated: Evaluated, data_dir: Path | None) -> None:
    """Learn both languages with a candidate's settings."""

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "evaluation" and event["step"]:
            evaluated(event["tokens"], event["bits_per_byte"])

    prepare(plan.comparison, candidate, data_dir=data_dir, on_event=on_event).trainer.run()


def work(
    folder: Path,
    plan: TuningPlan,
    data_dir: Path | None,
    index: int,
    run_trial: Runner = train,
    on_trial: Callable[[], None] = lambda: None,
) -> None:
    """What a process does: trials, as long as the budget pays for another one."""
    optuna = optuna_library()
    torch.set_num_threads(1)
    study = load_study(folder, plan, plan.seed + index)
    # Two processes must not spend the same tokens; the system frees the lock if one is killed.
    lock, failures = FileLock(folder / ".lock"), 0
    while _wanted():
        with lock:
            if committed(study, plan) + plan.trial_tokens > plan.budget:
                return
            trial = study.ask()
            candidate = suggested(trial)
            trial.set_user_attr("settings", candidate.settings())
        try:
            value = _judge(trial, plan, candidate, data_dir, run_trial)
        except PrunedError:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except NonFiniteGradientError:
            study.tell(trial, DIVERGED)
        except Exception as error:  # of this trial alone, until it is of several
            failures += 1
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if failures >= _FAILURES and not any(t.value for t in trials_of(study)):
                raise
        else:
            study.tell(trial, value)
        on_trial()


def _process(*arguments: Any) -> None:
    """A process of a search: Ctrl-C is its parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(*arguments)


def _wanted() -> bool:
    """Whether the process that began this one is still there."""
    parent = parent_process()
    return parent is None or parent.is_alive()


def _judge(
    trial: optuna.Trial, plan: TuningPlan, candidate: Candidate, data_dir: Path | None, run_trial: Runner
) -> float:
    """Train one candidate.

    Returns:
        Mean validation bits per byte of both languages at the end.

    Raises:
        PrunedError: If it is worse than the median at the same place.
    """
    curve: list[list[float]] = []

    def evaluated(tokens: int, values: dict[str, float]) -> None:
        mean = sum(values.values()) / len(values)
        curve.append([tokens, mean])
        # One attribute: every one is a transaction on the disk.
        trial.set_user_attr("progress", {"tokens": tokens, "values": values, "curve": curve})
        trial.report(mean, tokens)
        if tokens < plan.trial_tokens and trial.should_prune():
            raise PrunedError

    run_trial(plan, candidate, evaluated, data_dir)
    return float(curve[-1][1])


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started now use one thread."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started now do not hear Ctrl-C, also while they import."""
    try:
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread, which alone hears it
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


__all__ = ["STUDY", "Search", "Trial", "committed", "open_study", "train", "trials_of", "work"]
