"""A suite and the order of its runs: settings are chosen first, then learning rates, then come the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from nestlearn.bench.store import Record, Store
from recipes._runs import SHAPE, Problem, Run

TUNING_SEED = 1000  # not one of the seeds that are reported
RATES = (6e-3, 3e-3)  # the quicker one first: settings are compared where most has been learned

Place = tuple[str, str]
"""A mixer on a task."""


@dataclass(frozen=True)
class Choice:
    """What is chosen for a mixer on a task.

    Attributes:
        lr: Highest learning rate.
        settings: Fields of :class:`HopeConfig` that win over the entry's and the task's.
    """

    lr: float
    settings: Mapping[str, Any] = field(default_factory=dict)


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
        grids: Settings to choose between, each a change of some fields, by the name of the entry; an entry
            that is not here has one, no change.
        tuning_share: Share of the updates that a run has with which settings and rates are chosen.
    """

    title: str
    mixers: Mapping[str, Mapping[str, Any]]
    problems: Mapping[str, Problem]
    result: Path
    figure: Path
    shape: Mapping[str, Any] = field(default_factory=lambda: dict(SHAPE))
    evaluation_tokens: int = 16_384
    grids: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    tuning_share: float = 0.5

    def __post_init__(self) -> None:
        unknown = sorted(set(self.grids) - set(self.mixers))
        if unknown:
            raise ValueError(
                f"Invalid grids: no mixer {', '.join(unknown)}: there are {', '.join(self.mixers)}."
            )
        if not all(self.grids.values()):
            raise ValueError(
                "Invalid grids: an empty one. Leave the entry out, or give at least one setting."
            )
        if not 0.0 < self.tuning_share <= 1.0:
            raise ValueError(f"Invalid tuning_share: {self.tuning_share}. Must be above 0 and at most 1.")

    def grid(self, mixer: str) -> Sequence[Mapping[str, Any]]:
        """The settings that a mixer's entry chooses between."""
        return self.grids.get(mixer, ({},))

    def run(self, mixer: str, task: str, choice: Choice, seed: int, steps: int | None = None) -> Run:
        """A run that is reported, on test samples; ``steps`` None for the task's own number of updates."""
        return self._run(mixer, task, self._problem(task, steps), choice, seed, "test")

    def trial(self, mixer: str, task: str, choice: Choice, steps: int | None = None) -> Run:
        """A shorter run to choose by: on validation samples, none longer than the training's."""
        problem = self._problem(task, steps)
        short = replace(
            problem,
            steps=max(1, round(self.tuning_share * problem.steps)),
            evaluations={name: problem.evaluations[name] for name in within(problem)},
        )
        return self._run(mixer, task, short, choice, TUNING_SEED, "validation")

    def _problem(self, task: str, steps: int | None) -> Problem:
        problem = self.problems[task]
        return problem if steps is None else replace(problem, steps=steps)

    def _run(self, mixer: str, task: str, problem: Problem, choice: Choice, seed: int, split: str) -> Run:
        fields = {**problem.of(mixer, self.mixers[mixer]), **choice.settings}
        return Run(mixer, fields, task, problem, choice.lr, seed, split, self.evaluation_tokens, self.shape)

    def available(self) -> list[str]:
        """Mixers that the model has."""
        return [name for name in self.mixers if self.refusal(name) is None]

    def refusal(self, mixer: str) -> str | None:
        """Why the model does not have a mixer, or None."""
        try:
            self.run(mixer, next(iter(self.problems)), Choice(RATES[0], self.grid(mixer)[0]), 0).config()
        except Exception as error:  # the strict configuration has errors of its own
            return " ".join(str(error).split())
        return None


@dataclass(frozen=True)
class Plan:
    """What of a suite is done.

    Tuning goes one coordinate after the other: all settings at the first learning rate, then the other rates
    with the best settings. An entry with three settings and two rates has four trials, one without settings
    has two. Trials have ``Suite.tuning_share`` of the updates.
    """

    suite: Suite
    mixers: Sequence[str]
    tasks: Sequence[str]
    seeds: int
    steps: int | None
    rates: Sequence[float] = RATES

    def settings(self) -> list[Run]:
        """The first part of the tuning: every setting at the first learning rate."""
        return [self._trial(place, choice) for place in self._places() for choice in self._first(place)]

    def tuning(self, store: Store) -> list[Run]:
        """The whole tuning, with the best settings of the first part."""
        return [
            self._trial(place, choice) for place in self._places() for choice in self._choices(place, store)
        ]

    def best(self, store: Store) -> dict[Place, Choice]:
        """The best settings and learning rate by mixer and task, of those whose runs are there."""
        found = {place: self._best(place, self._choices(place, store), store) for place in self._places()}
        return {place: choice for place, choice in found.items() if choice is not None}

    def reported(self, store: Store) -> list[Run]:
        """The runs with what was chosen, on test samples, seed by seed."""
        best = self.best(store)
        return [
            self.suite.run(mixer, task, best[mixer, task], seed, self.steps)
            for wanted in self.tasks
            for seed in range(self.seeds)
            for mixer, task in best
            if task == wanted
        ]

    def summary(self, store: Store) -> dict[str, dict[str, Any]]:
        """Mean and range over the seeds by task and mixer."""
        found: dict[Place, list[Record]] = {}
        best = self.best(store)
        for run in (run for run in self.reported(store) if run in store):
            found.setdefault((run.mixer, run.task), []).append(store[run])
        summary: dict[str, dict[str, Any]] = {}
        for (mixer, task), records in found.items():
            summary.setdefault(task, {})[mixer] = _summary(best[mixer, task], records)
        return summary

    def _places(self) -> Iterable[Place]:
        return ((mixer, task) for task in self.tasks for mixer in self.mixers)

    def _trial(self, place: Place, choice: Choice) -> Run:
        return self.suite.trial(*place, choice, self.steps)

    def _first(self, place: Place) -> list[Choice]:
        return [Choice(self.rates[0], settings) for settings in self.suite.grid(place[0])]

    def _choices(self, place: Place, store: Store) -> list[Choice]:
        first = self._first(place)
        best = self._best(place, first, store)
        return first if best is None else [*first, *(replace(best, lr=lr) for lr in self.rates[1:])]

    def _best(self, place: Place, choices: Iterable[Choice], store: Store) -> Choice | None:
        """By accuracy, then by the last training loss, then the higher rate; None if no run is there."""
        tried = [(choice, self._trial(place, choice)) for choice in choices]
        scores = [(choice, (*_score(run, store[run]), choice.lr)) for choice, run in tried if run in store]
        return max(scores, key=lambda scored: scored[1])[0] if scores else None


def within(problem: Problem) -> list[str]:
    """Evaluations that are not longer than the training's longest sequences; all if every one is."""
    longest = max(task.length for task in problem.curriculum)
    short = [name for name, task in problem.evaluations.items() if task.length <= longest]
    return short or list(problem.evaluations)


def criterion(problem: Problem, record: Record) -> float:
    """Mean accuracy on what is not longer than the training's longest sequences."""
    return float(mean(record["accuracy"][name]["token"] for name in within(problem)))


def _score(run: Run, record: Record) -> tuple[float, float]:
    return criterion(run.problem, record), -(record["loss"][-1] if record["loss"] else math.inf)


def _summary(choice: Choice, records: list[Record]) -> dict[str, Any]:
    accuracy: dict[str, Any] = {}
    for name, first in records[0]["accuracy"].items():
        accuracy[name] = {"length": first["length"], "chance": first["chance"]}
        for figure in (f for f in first if f not in {"length", "chance"}):
            values = [record["accuracy"][name][figure] for record in records]
            accuracy[name][figure] = {"mean": round(mean(values), 4), "min": min(values), "max": max(values)}
    return {
        "lr": choice.lr,
        "settings": dict(choice.settings),
        "seeds": len(records),
        "parameters": records[0]["parameters"],
        "cpu_seconds": round(mean(record["cpu_seconds"] for record in records), 1),
        "accuracy": accuracy,
    }
