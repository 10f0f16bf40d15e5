"""The search: one study in SQLite, worked on by processes, within a budget in tokens."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

from nestlearn.continual.run import prepare
from nestlearn.optim import NonFiniteGradientError
from nestlearn.tuning.candidate import Candidate, neighbourhood
from nestlearn.tuning.plan import TuningPlan

if TYPE_CHECKING:
    import optuna

STUDY = "study.sqlite3"
_NAME = "nestlearn-tune"
#: Worse than any model that has learned: what a diverged trial gets.
_DIVERGED = 99.0


@dataclass(frozen=True)
class Trial:
    """One trial, for tables and recipes.

    Attributes:
        number: In the order of their beginning; 0 is the defaults.
        state: ``"complete"``, ``"pruned"``, ``"running"`` or ``"failed"``.
        settings: Of the candidate.
        value: Mean validation bits per byte at the end; None unless complete.
        values: Bits per byte by language at the last evaluation.
        tokens: What it has read.
        curve: Tokens and mean bits per byte at each evaluation.
    """

    number: int
    state: str
    settings: dict[str, Any]
    value: float | None
    values: dict[str, float]
    tokens: int
    curve: list[list[float]]


class PrunedError(Exception):
    """A trial is worse than the median of those before at the same place."""


def open_study(folder: Path, plan: TuningPlan) -> optuna.Study:
    """The study in a folder, new or as it was left.

    Trials that were under way when a process ended are begun again; what they had read counts.

    Raises:
        ValueError: If the folder's study has another configuration.
    """
    library = _optuna()
    folder.mkdir(parents=True, exist_ok=True)
    study: optuna.Study = _study(folder, plan, plan.seed)
    identity = json.dumps(plan.identity(), sort_keys=True)
    saved = study.user_attrs.get("identity")
    if saved is None:
        study.set_user_attr("identity", identity)
        for candidate in neighbourhood(plan.defaults):
            study.enqueue_trial(parameters(candidate))
    elif saved != identity:
        old, new = json.loads(saved), json.loads(identity)
        changed = ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))
        raise ValueError(
            f"{folder} has a search with another {changed}: go on with the same settings, or choose another "
            "folder"
        )
    for trial in study.get_trials(deepcopy=False, states=[library.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=library.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def parameters(candidate: Candidate) -> dict[str, Any]:
    """A candidate as the study's parameters."""
    steps = candidate.level_steps
    found: dict[str, Any] = {
        "levels": len(steps),
        "lr": candidate.lr,
        "later_lr_scale": candidate.later_lr_scale,
    }
    if len(steps) > 1:
        found["ratio"] = steps[1] // steps[0]
    found["consolidate"] = candidate.consolidate
    if candidate.consolidate:
        found |= {"strength": candidate.strength, "output_strength": candidate.output_strength}
    return found


def suggested(trial: optuna.Trial) -> Candidate:
    """The candidate that the sampler proposes; the space is in docs/tuning.md."""
    count = trial.suggest_int("levels", 1, 4)
    ratio = trial.suggest_int("ratio", 2, 8) if count > 1 else 1
    settings: dict[str, Any] = {
        "level_steps": tuple(ratio**i for i in range(count)),
        "lr": trial.suggest_float("lr", 1e-3, 3e-2, log=True),
        "later_lr_scale": trial.suggest_float("later_lr_scale", 0.1, 4.0, log=True),
        "consolidate": trial.suggest_categorical("consolidate", [True, False]),
    }
    if settings["consolidate"]:
        settings["strength"] = trial.suggest_float("strength", 0.03, 10.0, log=True)
        settings["output_strength"] = trial.suggest_float("output_strength", 0.01, 3.0, log=True)
    return Candidate(**settings)


def trials_of(study: optuna.Study) -> list[Trial]:
    """All trials that have begun, in their order."""
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running", "FAIL": "failed"}
    return [
        Trial(
            trial.number,
            names[trial.state.name],
            dict(trial.user_attrs.get("settings", {})),
            trial.value if trial.state.name == "COMPLETE" else None,
            **{"values": {}, "tokens": 0, "curve": [], **trial.user_attrs.get("progress", {})},
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in names
    ]


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
        ValueError: For a negative number of workers, and as :func:`open_study`.
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
            RuntimeError: If a process failed.
        """
        if self.workers == 0:
            work(
                self.folder,
                self.plan,
                self.data_dir,
                0,
                self.run_trial,
                lambda: on_change(trials_of(self.study)),
            )
            return trials_of(self.study)
        context = get_context("spawn")
        arguments = (self.folder, self.plan, self.data_dir)
        processes = [
            context.Process(target=_process, args=(*arguments, index, self.run_trial), daemon=True)
            for index in range(self.workers)
        ]
        with _one_thread_each():
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
            raise RuntimeError(f"a search process ended with code {failed[0]}; the study keeps what is done")
        return trials_of(self.study)


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
    optuna = _optuna()
    torch.set_num_threads(1)
    study = _study(folder, plan, plan.seed + index)
    # Two processes must not spend the same tokens; the system frees the lock if one is killed.
    lock = FileLock(folder / ".lock")
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
            study.tell(trial, _DIVERGED)
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


def committed(study: optuna.Study, plan: TuningPlan) -> int:
    """Tokens that are spent, and those that trials under way may still read."""
    trials = trials_of(study)
    return sum(plan.trial_tokens if trial.state == "running" else trial.tokens for trial in trials)


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


def _study(folder: Path, plan: TuningPlan, seed: int) -> Any:
    """The folder's study with a sampler and a pruner of this process.

    A trial that is worse than the median of those before at the same place is given up, from the first
    evaluation in the second language on: before, one of two languages is not learned yet, and the mean of
    both says little about the end.
    """
    optuna = _optuna()
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{folder / STUDY}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    return optuna.create_study(
        study_name=_NAME,
        storage=storage,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=plan.trial_tokens // 2 + 1),
    )


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ImportError("a search needs optuna: pip install 'nestlearn[bench]'") from error
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna


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


__all__ = ["STUDY", "Search", "Trial", "committed", "open_study", "train", "trials_of", "work"]
