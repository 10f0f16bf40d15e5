"""A small stream that needs no download."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nestlearn.bench import cells, methods, plan, streams, summary
from nestlearn.bench.streams import BenchStream
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


def small(name: str = "small", **changes: Any) -> BenchStream:
    settings: dict[str, Any] = {
        "title": "Clouds", "data": "clouds", "cut": thirds, "scenario": "class", "batch_size": 16,
        "epochs": 16, "every": 8, "hidden": (16, 16), "seeds": 2,
    }  # fmt: skip
    return BenchStream(name, **{**settings, **changes})


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> BenchStream:
    """``small`` is the benchmark's only stream, its features are few, and the search is short."""
    own = small()
    table = {own.name: own}
    for module in (cells, plan, streams, summary):
        if hasattr(module, "STREAMS"):
            monkeypatch.setattr(module, "STREAMS", table)
    monkeypatch.setattr("nestlearn.bench.page.STREAMS", table)
    monkeypatch.setattr("nestlearn.cli.bench.STREAMS", table)
    monkeypatch.setattr(streams, "examples", lambda data: clouds())
    monkeypatch.setattr(methods, "FEATURES", 64)
    monkeypatch.setattr(cells, "TRIALS", 3)
    return own
