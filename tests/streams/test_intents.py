"""Intents out of made-up files and a made-up hub; the real ones where a folder has them."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from nestlearn.streams import DataError, intents
from nestlearn.streams.intents import SOURCES, Intents, domains, load_intents
from nestlearn.streams.tasks import SPLITS, split_by_class

CLINC = {"train": 3, "validation": 1, "test": 2}  # sentences of each intent
BANKING = {"train": 21, "test": 2}
NAMES = {
    "clinc150": [name for names in domains().values() for name in names],
    "banking77": [f"intent_{i:02}" for i in range(76)] + ["Refund"],
}
Made = dict[str, list[tuple[str, str]]]


def made(source: str, each: Mapping[str, int]) -> Made:
    """Intents and sentences in an order that is not the canonical one."""
    return {
        split: [(name, f"{split} {i} wants {name}") for i in reversed(range(count)) for name in NAMES[source]]
        for split, count in each.items()
    }


def write(folder: Path, clinc: Made, banking: Made) -> Path:
    folder.mkdir(exist_ok=True)
    ours = {"train": "train", "validation": "val", "test": "test"}
    held = {ours[split]: [[text, name] for name, text in own] for split, own in clinc.items()}
    held["oos_train"] = [["what is love", "oos"]]
    (folder / "clinc150_data_full.json").write_text(json.dumps(held), encoding="utf-8")
    for split, own in banking.items():
        table = io.StringIO(newline="")
        csv.writer(table).writerows([("text", "category"), *((f"\n{text}  ", name) for name, text in own)])
        (folder / f"banking77_{split}.csv").write_bytes(table.getvalue().encode())
    return folder


@pytest.fixture
def rows(monkeypatch):
    """Few sentences that pass for all."""
    found = {"clinc150": made("clinc150", CLINC), "banking77": made("banking77", BANKING)}
    patched = {
        name: dataclasses.replace(
            SOURCES[name], counts={split: len(own) for split, own in found[name].items()}
        )
        for name in found
    }
    monkeypatch.setattr(intents, "SOURCES", patched)
    return found


@pytest.fixture
def folder(rows, monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("NESTLEARN_DATA", str(tmp_path / "data"))
    return write(tmp_path / "data", rows["clinc150"], rows["banking77"])


class Table:
    """The part of a table of the hub that is used."""

    def __init__(self, rows: list[tuple[str, str]], column: str, names: list[str]) -> None:
        self.features = {"text": None, column: types.SimpleNamespace(names=names)}
        self.columns = {
            "text": [text for _, text in rows],
            column: [names.index(name) for name, _ in rows],
        }

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]


@pytest.fixture
def hub(rows, monkeypatch) -> list[tuple[Any, ...]]:
    """Other label numbers, another order, and sentences out of scope; what was asked for."""
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str, revision: str) -> Table:
        source = {"clinc/clinc_oos": "clinc150", "PolyAI/banking77": "banking77"}[name]
        asked.append((name, config, split, revision))
        own, names = list(reversed(rows[source][split])), [*sorted(NAMES[source], reverse=True)]
        if source == "clinc150":
            own, names = [("oos", "what is love"), *own], [*names[:42], "oos", *names[42:]]
        return Table(own, {"clinc150": "intent", "banking77": "label"}[source], names)

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def same(one: Intents, other: Intents) -> bool:
    return (one.names, one.groups, one.texts) == (other.names, other.groups, other.texts) and all(
        torch.equal(one.classes[split], other.classes[split]) for split in SPLITS
    )


def test_the_table_of_domains() -> None:
    assert [len(names) for names in domains().values()] == [15] * 10
    assert len(set(NAMES["clinc150"])) == 150
    assert next(iter(domains())) == "banking"
    assert all(names == tuple(sorted(names)) for names in domains().values())


@pytest.mark.parametrize("source", ["clinc150", "banking77"])
def test_every_sentence_has_its_intent(folder, source, tmp_path) -> None:
    found = load_intents(source, cache_dir=tmp_path / "cache")
    assert tuple(found.texts) == SPLITS
    for split, texts in found.texts.items():
        assert [f"wants {found.names[c]}" for c in found.classes[split].tolist()] == [
            " ".join(text.split()[2:]) for text in texts
        ]
        assert all(text == text.strip() for text in texts)
        rows = list(zip(found.classes[split].tolist(), texts, strict=True))
        assert rows == sorted(rows)
    assert sorted(c for group in found.groups for c in group) == list(range(len(found.names)))
    tasks = split_by_class(found.labelled(found.classes), found.groups)
    assert sum(len(task.splits["train"]) for task in tasks) == len(found.texts["train"])


def test_the_tasks_of_clinc150_are_its_domains(folder, tmp_path) -> None:
    found = load_intents("clinc150", cache_dir=tmp_path)
    assert [tuple(found.names[c] for c in group) for group in found.groups] == list(domains().values())
    assert {split: len(own) for split, own in found.texts.items()} == {
        split: 150 * count for split, count in CLINC.items()
    }


def test_a_tenth_of_each_class_of_banking77_is_held_out(folder, tmp_path, rows) -> None:
    found = load_intents("banking77", cache_dir=tmp_path)
    assert found.classes["train"].bincount().tolist() == [19] * 77
    assert found.classes["validation"].bincount().tolist() == [2] * 77
    everything = sorted(found.texts["train"] + found.texts["validation"])
    assert everything == sorted(text for _, text in rows["banking77"]["train"])
    drawn = {" ".join(text.split()[:2]) for text in found.texts["validation"]}
    assert len(drawn) > 10  # not the same places of every class
    assert [len(group) for group in found.groups] == [11] * 7
    assert found.names[-1] == "Refund"  # by name, whatever the case
    assert set(found.groups[0]) != set(range(11))


@pytest.mark.parametrize("source", ["clinc150", "banking77"])
def test_the_hub_gives_the_same(folder, hub, source, tmp_path, monkeypatch) -> None:
    local = load_intents(source, cache_dir=tmp_path / "one")
    assert not hub  # a named folder is enough
    monkeypatch.delenv("NESTLEARN_DATA")
    assert same(load_intents(source, cache_dir=tmp_path / "two"), local)
    assert [(*asked[:2], asked[3]) for asked in hub] == [SOURCES[source].hub] * len(hub)
    assert [asked[2] for asked in hub] == list(SOURCES[source].counts)


def test_the_cache_is_enough_the_second_time(folder, tmp_path, monkeypatch) -> None:
    first = load_intents("clinc150", cache_dir=tmp_path)
    for path in folder.iterdir():
        path.unlink()
    assert same(load_intents("clinc150", cache_dir=tmp_path), first)
    (kept,) = tmp_path.glob("intents-clinc150-*")
    content = gzip.decompress(kept.read_bytes())
    for bad in (
        b"other",
        gzip.compress(content[:-9]),
        gzip.compress(b"[1]"),
        gzip.compress(b'{"train": []}'),
    ):
        kept.write_bytes(bad)
        with pytest.raises(DataError, match=r"intents-clinc150.* is damaged .*: delete it"):
            load_intents("clinc150", cache_dir=tmp_path)


def test_what_cannot_be_had(rows, folder, tmp_path, monkeypatch) -> None:
    with pytest.raises(DataError, match="no intents from 'atis': choose from clinc150, banking77"):
        load_intents("atis", cache_dir=tmp_path)
    (folder / "banking77_test.csv").unlink()
    with pytest.raises(DataError, match=r"has no banking77_test.csv: add it or unset NESTLEARN_DATA"):
        load_intents("banking77", cache_dir=tmp_path)
    monkeypatch.delenv("NESTLEARN_DATA")
    monkeypatch.setitem(sys.modules, "datasets", None)
    remedy = r"is not installed\): run `pip install datasets` .* a folder with clinc150_data_full.json"
    with pytest.raises(DataError, match=remedy):
        load_intents("clinc150", cache_dir=tmp_path)
    assert not list(tmp_path.glob("intents-*"))


@pytest.mark.parametrize("content", ["{", "[]", '{"train": []}', '{"train": [[1, 2]]}', '{"train": [["a"]]}'])
def test_a_file_that_cannot_be_read(folder, tmp_path, content) -> None:
    (folder / "clinc150_data_full.json").write_text(content, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"cannot be read from clinc150_data_full.json .*: fetch the original"
    ):
        load_intents("clinc150", cache_dir=tmp_path)


def test_a_table_without_its_columns(folder, tmp_path) -> None:
    for content in (b"query,category\na,b\n", b"text,category\na\n", b"text,category\n\xff,b\n"):
        (folder / "banking77_test.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read from banking77_train.csv, banking77_test.csv"):
            load_intents("banking77", cache_dir=tmp_path)


def test_sentences_that_are_not_all_there(rows, folder, tmp_path) -> None:
    fewer = {**rows["clinc150"], "test": rows["clinc150"]["test"][1:]}
    write(folder, fewer, rows["banking77"])
    with pytest.raises(DataError, match=r"test 300 sentences, but .*data has .*test 299: use the original"):
        load_intents("clinc150", cache_dir=tmp_path)
    other = {split: [(f"{name}s", text) for name, text in own] for split, own in rows["clinc150"].items()}
    write(folder, other, rows["banking77"])
    with pytest.raises(DataError, match=r"150 intents, but .* has others \(accept_reservations, "):
        load_intents("clinc150", cache_dir=tmp_path)
    merged = {
        split: [("Refund" if name == "intent_07" else name, text) for name, text in own]
        for split, own in rows["banking77"].items()
    }
    write(folder, rows["clinc150"], merged)
    with pytest.raises(DataError, match=r"banking77 has 77 intents, but .* has others \(there are 76\)"):
        load_intents("banking77", cache_dir=tmp_path)


def test_a_hub_that_fails_or_has_another_layout(rows, hub, tmp_path, monkeypatch) -> None:
    ours = sys.modules["datasets"]

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nsecond line")

    monkeypatch.setattr(ours, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"loading PolyAI/banking77 failed \(ConnectionError: no network\)"):
        load_intents("banking77", cache_dir=tmp_path)
    monkeypatch.setattr(ours, "load_dataset", lambda *_, **__: Table([("a", "b")], "category", ["a"]))
    with pytest.raises(DataError, match=r"no columns text and label .*: its layout has changed"):
        load_intents("banking77", cache_dir=tmp_path)


def test_as_many_classes_as_sentences() -> None:
    with pytest.raises(ValueError, match="train has 1 sentences and 2 classes"):
        Intents({"train": ["a"]}, {"train": torch.tensor([0, 0])}, ("a",), ((0,),))
