"""A small stream that needs no download."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nestlearn.bench import cells, page, plan, summary
from nestlearn.bench.classification import methods
from nestlearn.bench.classification.stream import ClassificationStream
from nestlearn.cli import bench
from nestlearn.streams.tasks import Labelled, Splits, Task, split_by_class

SIZE, CLASSES = 8, 6


def clouds(seed: int = 0, each: int = 24) -> dict[str, Labelled]:
    centres = 3.0 * torch.eye(CLASSES, SIZE)
    found = {}
    for offset, name in enumerate(("train", "validation", "test")):
        generator = torch.Generator().manual_seed(10 * seed + offset)
        classes = torch.arange(CLASSES).repeat_interleave(each)
        noise = torch.randn(len(classes), SIZE, generator=generator)
        found[name] = Labelled(centres[classes] + 0.5 * noise, classes)
    return found


def thirds(data: Splits, seed: int) -> list[Task]:
    del seed
    return split_by_class(data, [(0, 1), (2, 3), (4, 5)])


def small(name: str = "small", **changes: Any) -> ClassificationStream:
    settings: dict[str, Any] = {
        "title": "Clouds", "data": "clouds", "load": lambda data: clouds(), "cut": thirds,
        "table": methods.METHODS, "scenario": "class", "batch_size": 16, "epochs": 16, "every": 8,
        "hidden": (16, 16), "seeds": 2, "trials": 3,
    }  # fmt: skip
    return ClassificationStream(name, **{**settings, **changes})


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> ClassificationStream:
    """``small`` is the benchmark's only stream, its features are few, and the search is short."""
    own = small()
    table = {own.name: own}
    for module in (cells, plan, summary, page, bench):
        monkeypatch.setattr(module, "STREAMS", table)
    monkeypatch.setattr(methods, "FEATURES", 64)
    return own
