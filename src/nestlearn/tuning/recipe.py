"""What a search found, with its evidence, as a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nestlearn.levels import Level
from nestlearn.tuning.candidate import Candidate
from nestlearn.tuning.plan import TuningPlan
from nestlearn.tuning.study import Trial

FORMAT = "nestlearn-levels-1"


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the lowest bits per byte.

    Raises:
        ValueError: If none is complete.
    """
    complete = [trial for trial in trials if trial.value is not None]
    if not complete:
        ended = sum(trial.state in {"failed", "diverged"} for trial in trials)
        why = f"; {ended} failed or diverged: try lower rates" if ended else ""
        raise ValueError(f"no trial is complete yet{why}: go on with the search, with a larger budget")
    return min(complete, key=lambda trial: (trial.value, trial.number))


def defaults_of(plan: TuningPlan, trials: Sequence[Trial]) -> Trial | None:
    """The trial of the defaults: one that is complete, if there is one."""
    tried = [trial for trial in trials if trial.settings == plan.defaults.settings()]
    return min(tried, key=lambda trial: (trial.value is None, trial.number), default=None)


def candidate_of(settings: Mapping[str, Any]) -> Candidate:
    """The candidate with a trial's settings."""
    return Candidate(**{**settings, "level_steps": tuple(settings["level_steps"])})


def recipe_of(plan: TuningPlan, trials: Sequence[Trial]) -> dict[str, Any]:
    """The best levels and how they were found, as JSON values.

    Keys ``levels`` (fields of :class:`nestlearn.Level`), ``later_lr_scale``, ``tokens_per_step``, ``model``
    (its configuration), and ``evidence``: plan, versions, all trials, tokens spent, the value of the
    defaults and of the best.

    Raises:
        ValueError: If no trial is complete.
    """
    best = best_of(trials)
    candidate = candidate_of(best.settings)
    defaults = defaults_of(plan, trials)
    return {
        "format": FORMAT,
        "levels": [asdict(level) for level in candidate.levels(plan.tokens_per_step)],
        "later_lr_scale": candidate.later_lr_scale,
        "tokens_per_step": plan.tokens_per_step,
        "model": candidate.model_config(plan.size, plan.size.vocab_size, plan.tokens_per_step).to_diff_dict(),
        "evidence": {
            "measure": "mean validation bits per byte of both languages at the end of the second",
            "best": {"trial": best.number, "value": best.value, "settings": best.settings},
            "defaults": None if defaults is None else {"trial": defaults.number, "value": defaults.value},
            "tokens": sum(trial.tokens for trial in trials),
            "plan": json.loads(json.dumps(asdict(plan))),
            "versions": {name: version(name) for name in ("nestlearn", "torch", "optuna")},
            "trials": [asdict(trial) for trial in trials],
        },
    }


def write_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    """Write a recipe, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(recipe, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_recipe(path: Path | str) -> tuple[Level, ...]:
    """The levels of a recipe, fast to slow.

    Raises:
        ValueError: If the file is no recipe.
    """
    try:
        recipe = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(recipe, dict) or recipe.get("format") != FORMAT:
        raise ValueError(f"{path} is no recipe of levels: it needs format {FORMAT!r}")
    try:
        levels = tuple(Level(**{**entry, "betas": tuple(entry["betas"])}) for entry in recipe["levels"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has damaged levels: {error}") from error
    if not levels:
        raise ValueError(f"{path} has no level")
    return levels


__all__ = ["FORMAT", "best_of", "candidate_of", "load_recipe", "recipe_of", "write_recipe"]
