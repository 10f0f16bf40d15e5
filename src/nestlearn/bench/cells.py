"""One cell of the benchmark: a method on a stream with a seed; and the search that gives it its settings."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nestlearn.bench.base import SEARCHED_TASKS, BenchStream
from nestlearn.bench.store import Record
from nestlearn.bench.streams import STREAMS
from nestlearn.streams import DataError

#: Counts changes of what a cell computes: those of before are done anew.
VERSION = 1
#: Of the search; its networks and orders are in no reported cell.
SEARCH_SEED = 1000


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Search:
    """The search for a method's settings on a stream's first tasks, two if it says nothing else.

    Attributes:
        stream: Name.
        method: Name.
    """

    stream: str
    method: str

    def __str__(self) -> str:
        return f"{self.stream}, {self.method}: search"

    @property
    def key(self) -> str:
        """The hash of everything that decides its result but the code."""
        stream = STREAMS[self.stream]
        space = {name: list(values) for name, values in stream.entries[self.method].space.items()}
        seen = [] if stream.searched_tasks == SEARCHED_TASKS else [stream.searched_tasks]
        further = [*seen, *_revision(stream, self.method)]
        return _hash("search", stream.settings, self.method, space, stream.trials, SEARCH_SEED, *further)


@dataclass(frozen=True)
class Cell:
    """A method on a stream.

    Attributes:
        stream: Name.
        method: Name.
        seed: Of model, order and draws.
        settings: What the search has found.
    """

    stream: str
    method: str
    seed: int
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.stream}, {self.method}, seed {self.seed}"

    @property
    def key(self) -> str:
        """As of a search."""
        stream = STREAMS[self.stream]
        revision = _revision(stream, self.method)
        return _hash("cell", stream.settings, self.method, self.seed, dict(self.settings), *revision)


def _revision(stream: BenchStream, method: str) -> list[int]:
    """Of the method, where there is one."""
    entry = stream.entries.get(method)
    return [entry.revision] if entry is not None and entry.revision else []


def execute(work: Search | Cell) -> Record:
    """Do a search or a cell, with one thread."""
    torch.set_num_threads(1)
    if isinstance(work, Search):
        return search(work)
    return STREAMS[work.stream].run(work.method, work.settings, work.seed)


def search(own: Search) -> Record:
    """Try settings on validation examples of the first tasks.

    All combinations, if there are no more than the budget of trials; otherwise those that a tree-structured
    Parzen estimator draws (Optuna; Akiba et al. 2019, arXiv 1907.10902). A single one is not tried.

    Raises:
        ModuleNotFoundError: optuna is not installed.
    """
    stream = STREAMS[own.stream]
    space = {name: list(values) for name, values in stream.entries[own.method].space.items()}
    if space and all(len(values) == 1 for values in space.values()):
        return {"best": {name: values[0] for name, values in space.items()}, "trials": [], "seconds": 0.0}
    optuna = _optuna()
    started = time.process_time()

    def objective(trial: Any) -> float:
        settings = {name: trial.suggest_categorical(name, values) for name, values in space.items()}
        try:
            return stream.trial(own.method, settings, SEARCH_SEED, stream.searched_tasks)
        except DataError:
            raise
        except (ValueError, RuntimeError) as error:  # diverged: the worst there is
            trial.set_user_attr("failed", str(error).split(":")[0])
            return 0.0 if stream.measures.rising else -math.inf

    count = math.prod(len(values) for values in space.values())
    if count <= stream.trials:
        sampler = optuna.samplers.GridSampler(space, seed=0)
    else:
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=stream.trials // 2)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=min(count, stream.trials))
    return {
        "best": dict(study.best_params),
        "trials": [
            {"settings": dict(t.params), stream.measures.final: _kept(t.value), **t.user_attrs}
            for t in study.trials
        ],
        "seconds": round(time.process_time() - started, 1),
    }


def _kept(value: float) -> float | None:
    """A trial's figure, without the sign that makes more the better; None for what diverged."""
    return round(abs(value), 4) if math.isfinite(value) else None


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the search needs optuna, which is not installed: pip install 'nestlearn[bench]'", name="optuna"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
