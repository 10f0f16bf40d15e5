"""The ways of learning on that are compared, and what a run of one is."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nestlearn.bench.store import Record
from nestlearn.continual.learner import Learner
from nestlearn.continual.methods import (
    DEFAULT_LEVELS,
    DEFAULT_REST,
    ElasticWeights,
    FineTuning,
    Levels,
    Lora,
    Method,
    Replay,
    default_levels,
)
from nestlearn.streams import bits_per_byte
from recipes.smollm import base
from recipes.smollm.evaluation import CONTEXT, NEW, OLD, Held, evaluate, held, tokens

AMOUNT, EVERY = 32768, 16384  # tokens of each new domain, and between two looks at all domains
BATCH, CALIBRATION = 4, 8192  # windows of a step; tokens of old text that a method may look at
#: One percent of the text that the model was accustomed to, at two bytes a token.
STORE = base.SEEN * 2 // 100
BASE = "base"


@dataclass(frozen=True)
class Cell:
    """One method with its settings."""

    method: str
    make: Callable[[], Method]
    settings: Mapping[str, Any]


def _levels(lr: float) -> Cell:
    return Cell("levels", lambda: Levels(default_levels(lr), rest=DEFAULT_REST), {"lr": lr})


def _cells(name: str, kind: Callable[..., Method], *settings: dict[str, Any]) -> list[Cell]:
    return [Cell(name, lambda own=own: kind(**own), own) for own in settings]  # type: ignore[misc]


_RATE = DEFAULT_LEVELS[0].lr
CELLS = [  # the most telling ones first
    _levels(_RATE),
    *_cells("finetune", FineTuning, {"lr": 1e-4}, {"lr": 2e-4}),
    _levels(2 * _RATE),
    *_cells("replay", Replay, {"lr": 1e-4, "store_bytes": STORE}),
    *_cells("lora", Lora, {"lr": 1e-3}),
    *_cells("ewc", ElasticWeights, {"lr": 2e-4, "strength": 1e3}),
]
METHODS = tuple(dict.fromkeys(cell.method for cell in CELLS))


@dataclass(frozen=True)
class Run:
    """The start, or one cell.

    Attributes:
        method: A cell's method, or ``"base"``.
        place: Among the cells of the method.
        split: What it is tested on.
        work: Folder of the start.
        threads: Of its process.
    """

    method: str
    place: int
    split: str
    work: str
    threads: int

    def __str__(self) -> str:
        own = ", ".join(f"{name} {value:g}" for name, value in self.settings.items())
        return f"{self.method}, {own}" if own else self.method

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the cell."""
        return {} if self.method == BASE else cells(self.method)[self.place].settings

    @property
    def key(self) -> str:
        """Everything that decides the result but the code and the number of threads."""
        start = [base.SEEN, base.RATE, base.BATCH, CONTEXT]
        if self.method == BASE:
            return json.dumps([BASE, start])
        shared: list[Any] = [AMOUNT, EVERY, BATCH, CALIBRATION]
        if self.method == Levels.name:
            shared.append([asdict(level) for level in default_levels(self.settings["lr"])])
        return json.dumps([self.method, dict(self.settings), self.split, shared, start])


def cells(method: str) -> list[Cell]:
    """The cells of a method."""
    return [cell for cell in CELLS if cell.method == method]


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        methods: Names.
        split: ``"test"``, or ``"validation"`` for choices.
        work: Folder of the start.
        threads: Of each process.
    """

    methods: Sequence[str]
    split: str
    work: Path
    threads: int

    def all(self) -> list[Run]:
        """Every cell, the most telling ones first."""
        seen: dict[str, int] = {}
        found = []
        for cell in CELLS:
            place = seen[cell.method] = seen.get(cell.method, -1) + 1
            found.append(Run(cell.method, place, self.split, str(self.work), self.threads))
        return found

    def runs(self) -> list[Run]:
        """The cells of the chosen methods."""
        return [run for run in self.all() if run.method in self.methods]

    def wanted(self, records: Mapping[str, Record]) -> list[Run]:
        """The start first; every cell needs it."""
        start = Run(BASE, 0, "", str(self.work), self.threads)
        missing = [run for run in self.runs() if run.key not in records]
        there = start.key in records and (base.folder(self.work) / "config.json").is_file()
        return missing if there or not missing else [start]


def execute(run: Run) -> Record:
    """Do a run."""
    torch.set_num_threads(run.threads)
    gc.collect()  # what the run before has left: gigabytes, in cycles
    if run.method == BASE:
        return base.accustom(Path(run.work))
    return {"settings": dict(run.settings), **teach(cells(run.method)[run.place].make(), run)}


def teach(method: Method, run: Run) -> dict[str, Any]:
    """Learn one domain after the other.

    Returns:
        ``curve``: bits per byte of every domain at the start and after every :data:`EVERY` tokens, with the
        stage; ``stages``: all that is known of the model before, in between and at the end.
    """
    model, tokenizer = base.load(Path(run.work))
    own = held(tokenizer, run.split)
    old = [tokens(tokenizer, name, "train", CALIBRATION // len(OLD)) for name in OLD]
    settings: dict[str, Any] = {"context": CONTEXT, "batch_size": BATCH, "calibration_tokens": CALIBRATION}
    torch.manual_seed(0)
    learner = Learner(model, tokenizer, method=method, old=old, **settings)
    stages: dict[str, Any] = {"before": {**evaluate(learner, own), "minutes": 0.0}}
    curve = [{"stage": 0, "tokens": 0, "bits": stages["before"]["bits"]}]
    minutes = 0.0
    for stage, name in enumerate(NEW, start=1):
        stream = tokens(tokenizer, name, "train", AMOUNT + 1)
        for start in range(0, len(stream) - 1, EVERY):
            began = time.perf_counter()
            report = learner.learn(stream[start : start + EVERY + 1], progress=False)
            minutes += (time.perf_counter() - began) / 60
            if start + EVERY < len(stream) - 1:
                bits = _bits(learner, own)
            else:
                stages[name] = {**evaluate(learner, own), "minutes": minutes}
                bits = stages[name]["bits"]
            so_far = int(curve[-1]["tokens"]) + report.tokens
            curve.append({"stage": stage, "tokens": so_far, "bits": bits})
    noticed = getattr(getattr(learner.method, "optimizer", None), "surprises", None)
    changes = [{"name": c.name, "updates": c.updates, "relative": c.relative} for c in learner.diff()]
    return {"curve": curve, "stages": stages, "changes": changes, "switches": noticed}


def _bits(learner: Learner, own: Held) -> dict[str, float]:
    return {
        name: bits_per_byte(learner.model, windows, own.sizes, batch_size=2)
        for name, windows in own.windows.items()
    }
