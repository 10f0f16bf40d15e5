"""The hub, with a stand-in for the library `datasets`."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nestlearn.streams import DataError, load_parallel_help
from nestlearn.streams.hub import DATASET, REVISION, from_hub
from nestlearn.streams.material import UnavailableError
from tests.streams.fakes import sentence


class FakeTable:
    """The part of a table that is used."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        for start in range(0, len(next(iter(self.columns.values()))), batch_size):
            yield {name: values[start : start + batch_size] for name, values in self.columns.items()}


def install(monkeypatch: pytest.MonkeyPatch, load_dataset: Any) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def talks(name: str, config: str, *, split: str, revision: str) -> FakeTable:
    assert (name, split, revision) == (DATASET, "train", REVISION)
    language = config.removeprefix("en-")
    numbers = [n for n in range(300) if language != "it" or n % 3]  # each pair has its own gaps
    if language == "fr":
        numbers.reverse()  # and its own order
    return FakeTable(
        {
            "english": [f"  {sentence('en', n)}" for n in numbers] + [sentence("en", 1), None],
            "non_english": [f"{sentence(language, n)}\n" for n in numbers] + ["said twice", None],
        }
    )


def test_hub_joins_the_pairs_on_the_english_sentence(
    monkeypatch: pytest.MonkeyPatch, small_is_enough: None, tmp_path: Path
) -> None:
    install(monkeypatch, talks)
    monkeypatch.setattr("nestlearn.streams.hub._BATCH", 7)
    material = from_hub()
    assert material.name == f"{DATASET} {REVISION[:7]}"
    texts = {row.texts for row in material.rows}
    expected = {n for n in range(300) if n % 3}
    assert texts == {
        tuple(sentence(language, n) for language in ("en", "fr", "de", "es", "it")) for n in expected
    }
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load_parallel_help(["it"], cache_dir=tmp_path / "cache").name == material.name


def test_hub_takes_no_more_than_its_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, talks)
    monkeypatch.setattr("nestlearn.streams.hub.MAXIMUM_ROWS", 50)
    assert len(from_hub().rows) == 50


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the hub\nsecond line")

    install(monkeypatch, unreachable)
    with pytest.raises(UnavailableError, match=r"failed \(ConnectionError: Couldn't reach the hub\)"):
        from_hub()


def test_hub_with_other_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda *_, **__: FakeTable({"en": ["a"], "fr": ["b"]}))
    with pytest.raises(DataError, match="has no column 'english'"):
        from_hub()
