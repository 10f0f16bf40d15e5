"""One cell of the benchmark: a method on a stream with a seed; and the search that gives it its settings."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from nestlearn.bench.methods import ENTRIES, JOINT, Entry, Setup
from nestlearn.bench.store import Record
from nestlearn.bench.streams import STREAMS, BenchStream, together
from nestlearn.continual.classification import Classifier, run_stream
from nestlearn.continual.classification import Record as Run
from nestlearn.continual.classification.run import accuracies
from nestlearn.continual.plasticity import plasticity
from nestlearn.streams.tasks import Task

#: Counts changes of what a cell computes: those of before are done anew.
VERSION = 1
TRIALS = 12
#: Of the search; its networks and orders are in no reported cell.
SEARCH_SEED = 1000
SEARCHED_TASKS = 2


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Search:
    """The search for a method's settings on a stream's first two tasks.

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
        space = {name: list(values) for name, values in ENTRIES[self.method].space.items()}
        return _hash("search", STREAMS[self.stream].settings, self.method, space, TRIALS, SEARCH_SEED)


@dataclass(frozen=True)
class Cell:
    """A method on a stream.

    Attributes:
        stream: Name.
        method: Name.
        seed: Of network, order and draws.
        settings: What the search has found.
    """

    stream: str
    method: str
    seed: int
    settings: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.stream}, {self.method}, seed {self.seed}"

    @property
    def key(self) -> str:
        """As of a search."""
        return _hash("cell", STREAMS[self.stream].settings, self.method, self.seed, dict(self.settings))


def execute(work: Search | Cell) -> Record:
    """Do a search or a cell, with one thread."""
    torch.set_num_threads(1)
    return search(work) if isinstance(work, Search) else cell(work)


def cell(own: Cell) -> Record:
    """Learn the whole stream, and test on test examples."""
    stream, entry = STREAMS[own.stream], ENTRIES[own.method]
    tasks = stream.tasks(own.seed)
    method, run = learn(stream, entry, tasks, own.settings, own.seed, "test", every=stream.every)
    inputs = torch.cat([task.splits["test"].inputs for task in tasks])[:1000]
    own_network = own.method not in UNTRAINED
    return {
        "accuracy": _mean(run.matrix[-1]),
        **({} if own.method == JOINT else _rounded(run.summary())),
        "matrix": [_short(row) for row in run.matrix],
        "curve": [_short(row) for row in run.curve],
        "ends": run.ends,
        "stored_bytes": run.stored_bytes,
        "operations": run.operations,
        "seconds": round(run.seconds, 2),
        **({"plasticity": _rounded(plasticity(method.network, inputs))} if own_network else {}),
    }


#: Methods whose features nobody trains: nothing can die in them.
UNTRAINED = ("exact head", "class means")


def learn(
    stream: BenchStream,
    entry: Entry,
    tasks: list[Task],
    settings: Mapping[str, float],
    seed: int,
    split: str,
    every: int | None = None,
) -> tuple[Classifier, Run]:
    """Make a method and let it learn tasks; joint training has them all at once."""
    torch.manual_seed(seed)
    if entry.passes is not None:
        every = None if every is None else max(1, every * entry.passes // stream.epochs)
        stream = replace(stream, epochs=entry.passes)
    method = entry.make(Setup(stream, tasks, seed), settings)
    if stream.scenario == "task":
        method.tell([task.classes for task in tasks])
    if entry.name != JOINT:
        return method, run_stream(method, stream.stream(tasks, seed), split, every)
    whole = stream.stream([together(tasks, stream.scenario)], seed)
    run = run_stream(method, whole, split)
    run.matrix = run.curve = [accuracies(method, tasks, stream.scenario, split)]
    return method, run


def search(own: Search) -> Record:
    """Try settings on validation examples of the first two tasks.

    All combinations, if there are no more than the budget of trials; otherwise those that a tree-structured
    Parzen estimator draws (Optuna; Akiba et al. 2019, arXiv 1907.10902).

    Raises:
        ModuleNotFoundError: optuna is not installed.
    """
    optuna = _optuna()
    stream, entry = STREAMS[own.stream], ENTRIES[own.method]
    tasks = stream.tasks(SEARCH_SEED)[:SEARCHED_TASKS]
    started = time.process_time()

    def objective(trial: Any) -> float:
        settings = {name: trial.suggest_categorical(name, list(v)) for name, v in entry.space.items()}
        try:
            _, run = learn(stream, entry, tasks, settings, SEARCH_SEED, "validation")
        except (ValueError, RuntimeError) as error:  # diverged: the worst there is
            trial.set_user_attr("failed", str(error).split(":")[0])
            return 0.0
        learned = [row[i] for i, row in enumerate(run.matrix)]
        return _mean(learned if entry.objective == "learned" else run.matrix[-1])

    count = 1
    for values in entry.space.values():
        count *= len(values)
    if count <= TRIALS:
        sampler = optuna.samplers.GridSampler({n: list(v) for n, v in entry.space.items()}, seed=0)
    else:
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=TRIALS // 2)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=min(count, TRIALS))
    return {
        "best": dict(study.best_params),
        "trials": [
            {"settings": dict(t.params), "accuracy": round(t.value, 4), **t.user_attrs} for t in study.trials
        ],
        "seconds": round(time.process_time() - started, 1),
    }


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


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _short(row: list[float]) -> list[float]:
    return [round(value, 4) for value in row]


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in figures.items()}
