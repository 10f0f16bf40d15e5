"""Which runs are wanted: a grid of learning rates for each optimizer and task, then the seeds at the best.

The grid is moved on while the best rate is at its edge, one value at a time and at most :data:`FURTHER` of
them; then the best rate and its two neighbours are tried with two further seeds, as near the best one seed
says little. Tuning has seeds and a split of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from recipes.optimizing import digits, language, orthogonal, valley
from recipes.optimizing.entries import ENTRIES, Maker

Record = dict[str, Any]
Records = Mapping[str, Record]

#: Seeds of the choice of a learning rate: the first for all rates, the others near the best one.
TUNING_SEEDS = (1000, 1001, 1002)
FURTHER, RATIO = 4, 2.0


@dataclass(frozen=True)
class Task:
    """One comparison.

    Attributes:
        title: For a reader.
        unit: Of the score; the lower the better.
        execute: Gives the record of a run, with its score (None for one that was lost).
        steps: Steps of a run.
        settings: Everything that decides a result.
        rates: Learning rates of the grid.
        refusal: Why it cannot be done, or None.
    """

    title: str
    unit: str
    execute: Callable[[Maker, float, int, str, int], Record]
    steps: int
    settings: Mapping[str, Any]
    rates: int = 6
    refusal: Callable[[], str | None] = lambda: None


TASKS: Mapping[str, Task] = {
    "language": Task(
        "English text, small Transformer", "bits per byte", language.execute, language.STEPS,
        language.SETTINGS,
    ),
    "digits": Task(
        "MNIST digits, small vision Transformer", "cross-entropy", digits.execute, digits.STEPS,
        digits.SETTINGS, refusal=digits.refusal,
    ),
    "valley": Task(
        "The valley of Eq. 53", "steps to the bottom", valley.execute, valley.STEPS, valley.SETTINGS, rates=12
    ),
    "orthogonal": Task(
        "Orthogonal tasks", "loss of each when learned", orthogonal.execute, orthogonal.STEPS,
        orthogonal.SETTINGS, rates=8,
    ),
}  # fmt: skip

#: In the long tasks first what their claims are about, then everything else.
LONG = ("language", "digits")
FIRST = ("AdamW", "Muon", "M3", "M3, fast memory alone", "Muon, momentum 0.8", "AdamW, beta 0.95")


@dataclass(frozen=True)
class Run:
    """One training: everything that decides its result but the code."""

    task: str
    entry: str
    lr: float
    seed: int
    split: str
    steps: int

    def __str__(self) -> str:
        return f"{self.entry} on {self.task}, rate {self.lr:g}, seed {self.seed}"

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        settings = [dict(ENTRIES[self.entry].settings), dict(TASKS[self.task].settings)]
        return json.dumps([self.task, self.entry, self.lr, self.seed, self.split, self.steps, *settings])


def execute(run: Run) -> Record:
    """Do a run."""
    torch.set_num_threads(1)
    # heavyball changes it when an optimizer is made; it must not reach other runs of the process.
    torch.set_float32_matmul_precision("highest")
    return TASKS[run.task].execute(ENTRIES[run.entry].make, run.lr, run.seed, run.split, run.steps)


@dataclass(frozen=True)
class Tuning:
    """How far the choice of a learning rate has come.

    Attributes:
        missing: Runs to be done before it goes on.
        scores: Mean score by rate, infinite for a training that was lost.
        best: The best rate; None as long as runs are missing, and where every training was lost.
        at_edge: Whether the best rate is still at the grid's edge.
    """

    missing: list[Run]
    scores: dict[float, float]
    best: float | None
    at_edge: bool


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        tasks: Names.
        entries: Names.
        seeds: Number of seeds that are reported.
        steps: Steps of every run; None for each task's own.
    """

    tasks: Sequence[str]
    entries: Sequence[str]
    seeds: int
    steps: int | None = None

    def places(self) -> list[tuple[str, str]]:
        """Tasks and entries, in the order in which they are done."""
        places = [(t, e) for t in self.tasks for e in self.entries if t in ENTRIES[e].lows]
        return sorted(places, key=lambda place: place[0] in LONG and place[1] not in FIRST)

    def tuning(self, task: str, entry: str, records: Records) -> Tuning:
        """The choice of a learning rate, as far as it has come."""
        rates = grid(ENTRIES[entry].lows[task], TASKS[task].rates)
        for further in range(FURTHER + 1):
            missing, scores = self._trials(task, entry, rates, TUNING_SEEDS[:1], records)
            if missing:
                return Tuning(missing, scores, None, False)
            best = _lowest(scores)
            last = further == FURTHER
            if not math.isinf(scores[best]) and (last or best not in (rates[0], rates[-1])):
                place = rates.index(best)
                near = rates[max(0, place - 1) : place + 2]
                missing, means = self._trials(task, entry, near, TUNING_SEEDS, records)
                scores |= means
                if missing:
                    return Tuning(missing, scores, None, False)
                best = _lowest(means)
            if last or best not in (rates[0], rates[-1]):
                break
            factor = 1 / RATIO if best == rates[0] else RATIO
            rates = sorted([*rates, _rounded(best * factor)])
        edge = best in (rates[0], rates[-1])
        return Tuning([], scores, None if math.isinf(scores[best]) else best, edge)

    def _trials(
        self, task: str, entry: str, rates: Sequence[float], seeds: Sequence[int], records: Records
    ) -> tuple[list[Run], dict[float, float]]:
        """Runs on validation data that are missing, and the mean score of each rate that has all."""
        runs = {rate: [self._run(task, entry, rate, seed, "validation") for seed in seeds] for rate in rates}
        missing = [run for own in runs.values() for run in own if run.key not in records]
        done = {rate: [records[run.key] for run in own if run.key in records] for rate, own in runs.items()}
        return missing, {rate: mean(map(_score, own)) for rate, own in done.items() if len(own) == len(seeds)}

    def wanted(self, records: Records) -> list[Run]:
        """The runs that are known to be needed and not there, in the order in which to do them."""
        found: list[Run] = []
        for task, entry in self.places():
            tuning = self.tuning(task, entry, records)
            found += tuning.missing
            found += [run for run in self.reported(task, entry, tuning.best) if run.key not in records]
        return found

    def reported(self, task: str, entry: str, best: float | None) -> list[Run]:
        """The runs on test data; none without a learning rate."""
        if best is None:
            return []
        return [self._run(task, entry, best, seed, "test") for seed in range(self.seeds)]

    def _run(self, task: str, entry: str, lr: float, seed: int, split: str) -> Run:
        return Run(task, entry, lr, seed, split, self.steps or TASKS[task].steps)


def grid(low: float, count: int) -> list[float]:
    """Learning rates from ``low`` up."""
    return [_rounded(low * RATIO**i) for i in range(count)]


def _rounded(rate: float) -> float:
    """Three digits: a rate that was found in two ways is the same."""
    return float(f"{rate:.3g}")


def _lowest(scores: Mapping[float, float]) -> float:
    """The rate with the lowest score; the lowest rate where every training was lost."""
    return min(sorted(scores), key=lambda rate: scores[rate])


def _score(record: Record) -> float:
    score = record["score"]
    return math.inf if score is None else float(score)
