"""Streams whose classes a language model writes: every method fills a cell, and all meet the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from nestlearn.bench.base import JOINT
from nestlearn.bench.classification import generation
from nestlearn.bench.classification.generation import GENERATED, GENERATING, answers, questions
from nestlearn.bench.classification.stream import ClassificationStream
from nestlearn.streams.intents import Intents
from nestlearn.streams.tasks import Splits, Task, split_by_class
from tests.continual.small import tokenizer
from tests.retrofitting.small import pretrained

WORDS = ("red tree", "blue house", "the sea", "a bird")


def intents(source: str = "made") -> Intents:
    assert source == "made"
    texts = [f"{word} {place}" for word in WORDS for place in ("over", "under", "by it")]
    classes = torch.arange(len(WORDS)).repeat_interleave(3)
    splits = ("train", "validation", "test")
    return Intents(
        dict.fromkeys(splits, texts), dict.fromkeys(splits, classes),
        ("ab", "ba", "a_b", "bb"), ((0, 1), (2, 3)),
    )  # fmt: skip


def cut(data: Splits, seed: int) -> list[Task]:
    del seed
    return split_by_class(data, intents().groups)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClassificationStream]:
    """A tiny model that reads characters in place of the pretrained one."""
    own = tokenizer()
    monkeypatch.setattr(generation, "smollm2", lambda: (pretrained(), own))
    monkeypatch.setattr(generation, "load_intents", intents)
    monkeypatch.setattr(generation, "CALIBRATION", 32)
    monkeypatch.setattr(generation, "CALIBRATED", 16)
    monkeypatch.setattr(generation, "AHEAD", 4)
    monkeypatch.setattr(generation, "positions", lambda model: None)  # far fewer than all examples have
    for cached in (answers, questions):
        cached.cache_clear()
    yield replace(GENERATED[0], name="made", data="made", cut=cut, batch_size=4)
    for cached in (answers, questions):
        cached.cache_clear()


@pytest.mark.parametrize("method", GENERATING)
def test_every_method_fills_a_cell_that_repeats(method: str, stream: ClassificationStream) -> None:
    settings: dict[str, Any] = {key: values[0] for key, values in GENERATING[method].space.items()}
    first, again = (stream.run(method, settings, 0) for _ in range(2))
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert 0.0 <= first["accuracy"] <= 1.0
    assert ("learned" in first) == (method != JOINT)
    assert (first["stored_bytes"] > 0) == (method not in ("ordinary", JOINT))


def test_rows_are_sentences_and_what_asks(stream: ClassificationStream) -> None:
    own, asked = tokenizer(), questions("made")
    assert {split: len(part) for split, part in asked.items()} == {"train": 12, "validation": 8, "test": 8}
    text = own.decode(answers("made").question(asked["train"].inputs[0]).tolist())
    assert text == "<s>red tree over\nIntent:"
    assert [own.decode(list(name)) for name in answers("made").names] == [" ab\n", " ba\n", " a b\n", " bb\n"]
    longest = max(len(answers("made").question(row)) for row in asked["train"].inputs)
    assert longest <= asked["train"].inputs.shape[1] == 1 + generation.LENGTH + len("\nIntent:")


def test_what_the_page_says() -> None:
    for own in GENERATED:
        assert "evaluated after each task" in own.described and "135 million" in own.described
        assert own.settings["hidden"]["model"] == "smollm2"
    assert len({own.settings["name"] for own in GENERATED}) == len(GENERATED)
