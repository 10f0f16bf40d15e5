"""The study of a search: its space, its sampler and pruner, and its trials, in SQLite."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from nestlearn.tuning.candidate import Candidate, neighbourhood
from nestlearn.tuning.plan import TuningPlan

if TYPE_CHECKING:
    import optuna

STUDY = "study.sqlite3"
#: Held by the process that searches in the folder; the system frees it if that is killed.
BUSY = ".searching"
#: Worse than any model that has learned: what the sampler is told of a trial that diverged.
DIVERGED = 99.0
_NAME = "nestlearn-tune"
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running", "FAIL": "failed"}


@dataclass(frozen=True)
class Trial:
    """One trial, for tables and recipes.

    Attributes:
        number: In the order of their beginning; 0 is the defaults.
        state: ``"complete"``, ``"pruned"``, ``"running"``, ``"diverged"``, or ``"failed"`` where its process
            ended before it did.
        settings: Of the candidate.
        value: Mean validation bits per byte at the end; None unless complete.
        values: Bits per byte by language at the last evaluation.
        tokens: What it has read; up to the next evaluation where that is not known.
        curve: Tokens and mean bits per byte at each evaluation.
    """

    number: int
    state: str
    settings: dict[str, Any]
    value: float | None
    values: dict[str, float]
    tokens: int
    curve: list[list[float]]


def open_study(folder: Path, plan: TuningPlan) -> optuna.Study:
    """The study in a folder, new or as it was left.

    Trials that were under way when a process ended are begun again; what they had read counts.

    Raises:
        ValueError: If the folder's study has another configuration, or another process works on it.
    """
    library = optuna_library()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / BUSY, timeout=0):
            return taken_over(load_study(folder, plan, plan.seed), folder, plan, library)
    except Timeout:
        raise busy(folder) from None


def busy(folder: Path) -> ValueError:
    """What to say of a folder where another process searches."""
    return ValueError(f"another process searches in {folder}: wait for it, or choose another folder")


def taken_over(study: optuna.Study, folder: Path, plan: TuningPlan, library: Any) -> optuna.Study:
    """The study, begun if it is new, with its abandoned trials waiting again."""
    identity = json.dumps(plan.identity(), sort_keys=True)
    saved = study.user_attrs.get("identity")
    if saved is None:
        for candidate in neighbourhood(plan.defaults):
            study.enqueue_trial(parameters(candidate), skip_if_exists=True)
        study.set_user_attr("identity", identity)  # last: what is cut before it is begun again
    elif saved != identity:
        old, new = json.loads(saved), json.loads(identity)
        changed = ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))
        raise ValueError(
            f"{folder} has a search with another {changed}: go on with the same settings, or choose another "
            "folder"
        )
    for trial in study.get_trials(deepcopy=False, states=[library.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=library.trial.TrialState.FAIL)
        # One that was cut before it had any settings has those that it was to get.
        study.enqueue_trial(trial.params or trial.system_attrs.get("fixed_params", {}))
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
    saved = study.user_attrs.get("identity")
    interval, whole = _lengths(json.loads(saved)) if saved else (0, 0)
    frozen = study.get_trials(deepcopy=False)
    return [_trial(trial, interval, whole) for trial in frozen if trial.state.name in _STATES]


def _trial(frozen: Any, interval: int, whole: int) -> Trial:
    """One of the study's trials. What was cut is charged up to the evaluation that it did not reach."""
    state, value = _STATES[frozen.state.name], frozen.value
    if state == "complete" and value == DIVERGED:
        state = "diverged"
    progress = {"values": {}, "tokens": 0, "curve": [], **frozen.user_attrs.get("progress", {})}
    if state in {"diverged", "failed"}:
        progress["tokens"] = min(progress["tokens"] + interval, whole)
    settings = dict(frozen.user_attrs.get("settings", {}))
    return Trial(frozen.number, state, settings, value if state == "complete" else None, **progress)


def _lengths(identity: dict[str, Any]) -> tuple[int, int]:
    """Tokens between two evaluations, and of a whole trial, of a study's configuration."""
    each = identity["batch_size"] * identity["context"]
    return identity["steps"] // identity["evaluations"] * each, identity["steps"] * each


def committed(study: optuna.Study, plan: TuningPlan) -> int:
    """Tokens that are spent, and those that trials under way may still read."""
    trials = trials_of(study)
    return sum(plan.trial_tokens if trial.state == "running" else trial.tokens for trial in trials)


def load_study(folder: Path, plan: TuningPlan, seed: int) -> Any:
    """The folder's study with a sampler and a pruner of this process.

    A trial that is worse than the median of those before at the same place is given up, from the first
    evaluation in the second language on: before, one of two languages is not learned yet, and the mean of
    both says little about the end.
    """
    optuna = optuna_library()
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


def optuna_library() -> Any:
    """Optuna, with a word of what to install where it is missing, and without its notes.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import optuna  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ImportError("a search needs optuna: pip install 'nestlearn[bench]'") from error
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna


__all__ = [
    "BUSY",
    "DIVERGED",
    "STUDY",
    "Trial",
    "busy",
    "committed",
    "load_study",
    "open_study",
    "optuna_library",
    "parameters",
    "suggested",
    "taken_over",
    "trials_of",
]
