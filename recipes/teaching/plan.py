"""Which bases and cells are wanted, in the order in which to do them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestlearn.bench.store import Record
from recipes.teaching import base
from recipes.teaching.cells import CELLS, SETTINGS, teach

BASE = "base"


@dataclass(frozen=True)
class Run:
    """One base, or one cell on a base.

    Attributes:
        method: A cell's method, or ``"base"``.
        place: Among the cells of the method.
        seed: Of the base and of the order of the text.
        split: What it is tested on.
        work: Folder of the bases.
    """

    method: str
    place: int
    seed: int
    split: str
    work: str

    def __str__(self) -> str:
        return f"{self.method} {self.settings or ''}, seed {self.seed}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the cell."""
        return {} if self.method == BASE else cells(self.method)[self.place].settings

    @property
    def key(self) -> str:
        """Everything that decides the result but the code."""
        if self.method == BASE:
            return json.dumps([BASE, self.seed, SETTINGS["base"]])
        return json.dumps([self.method, dict(self.settings), self.seed, self.split, dict(SETTINGS)])


def cells(method: str) -> list[Any]:
    """The cells of a method."""
    return [cell for cell in CELLS if cell.method == method]


METHODS = tuple(dict.fromkeys(cell.method for cell in CELLS))


def execute(run: Run) -> Record:
    """Do a run."""
    if run.method == BASE:
        return base.train(Path(run.work), run.seed)
    record = teach(cells(run.method)[run.place], Path(run.work), run.seed, run.split)
    return {**record, "settings": dict(run.settings)}


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        methods: Names.
        seeds: Number of seeds, from 0.
        split: ``"test"``, or ``"validation"`` for choices.
        work: Folder of the bases.
    """

    methods: Sequence[str]
    seeds: int
    split: str
    work: Path

    def base(self, seed: int) -> Run:
        """The base of a seed."""
        return Run(BASE, 0, seed, "", str(self.work))

    def runs(self, seed: int) -> list[Run]:
        """The cells of a seed."""
        return [
            Run(method, place, seed, self.split, str(self.work))
            for method in self.methods
            for place in range(len(cells(method)))
        ]

    def wanted(self, records: Mapping[str, Record]) -> list[Run]:
        """Bases first; a cell needs its base's folder."""
        found: list[Run] = []
        for seed in range(self.seeds):
            own = self.base(seed)
            there = own.key in records and (base.folder(self.work, seed) / "config.json").is_file()
            missing = [run for run in self.runs(seed) if run.key not in records]
            if missing:
                found += missing if there else [own]
        return found
