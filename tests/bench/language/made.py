"""Three tiny languages that need no download: each has words of its own letters."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from nestlearn.bench.language import material, start
from nestlearn.bench.language import stream as module
from nestlearn.bench.language.material import Material, made_of
from nestlearn.bench.language.stream import LanguageStream

TASKS = ("abc", "def", "ghi")
MADE: dict[str, Material] = {}


def documents(letters: str, seed: int, count: int) -> tuple[str, ...]:
    generator = random.Random(f"{letters}{seed}")
    words = ["".join(generator.choice(letters) for _ in range(4)) for _ in range(12)]
    mixed = random.Random(seed + 100)
    return tuple(" ".join(mixed.choice(words) for _ in range(30)) for _ in range(count))


def load(name: str) -> Material:
    assert name == "made"
    if name not in MADE:
        texts = {
            task: {"train": documents(task, 0, 80), "validation": documents(task, 0, 90)[80:],
                   "test": documents(task, 0, 100)[90:]}
            for task in TASKS
        }  # fmt: skip
        MADE[name] = made_of(TASKS, texts)
    return MADE[name]


def small(**changes: Any) -> LanguageStream:
    settings: dict[str, Any] = {
        "load": load, "first_steps": 4, "steps": 4, "batch_size": 2, "every": 2, "held": 2, "seeds": 1,
        "trials": 2,
    }  # fmt: skip
    return LanguageStream("made", "Three tiny languages", "made", **{**settings, **changes})


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LanguageStream:
    """Short contexts, a tiny model, and a cache folder of its own."""
    monkeypatch.setenv("NESTLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(material, "VOCABULARY", 300)
    monkeypatch.setitem(material.SOURCES, "made", (TASKS, lambda: {}))  # type: ignore[arg-type]
    for where in (material, module):
        monkeypatch.setattr(where, "CONTEXT", 16)
    monkeypatch.setattr(start, "BATCH", 4)
    monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(module, "CALIBRATION", 64)
    shape = {**start.SHAPE, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    monkeypatch.setattr(start, "SHAPE", shape)
    MADE.clear()
    return small()
