import json
import os
import time
from pathlib import Path

import pytest

from nestlearn.streams import DataError
from nestlearn.streams.cache import (
    FORMAT,
    cache_folder,
    load_content,
    load_manifest,
    prepare_folder,
    save_corpus,
    write_atomic,
)

CONTENT = b'{"id":"a"}\n{"id":"b"}\n'


def save(folder: Path, content: bytes = CONTENT) -> Path:
    """Save a corpus; returns its file."""
    manifest = save_corpus(folder, corpus="x 1", origin="here", rows=content.count(b"\n"), content=content)
    return folder / f"parallel-{manifest.sha256[:16]}.jsonl.gz"


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder(tmp_path / "a") == tmp_path / "a"
    monkeypatch.setenv("NESTLEARN_CACHE", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b"
    monkeypatch.setenv("NESTLEARN_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c" / "nestlearn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "d"))
    assert cache_folder() == tmp_path / "d" / ".cache" / "nestlearn"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert load_manifest(tmp_path / "new") is None
    save(tmp_path / "new")
    manifest = load_manifest(tmp_path / "new")
    assert manifest is not None
    assert (manifest.corpus, manifest.origin, manifest.rows) == ("x 1", "here", 2)
    assert load_content(tmp_path / "new", manifest) == CONTENT


def test_same_corpus_gives_the_same_bytes(tmp_path: Path) -> None:
    assert save(tmp_path / "a").read_bytes() == save(tmp_path / "b").read_bytes()
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


@pytest.mark.parametrize("crash", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("survives", [0, 1])
def test_crash_while_writing_leaves_the_previous_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crash: BaseException, where: str, survives: int
) -> None:
    """`survives`: how many calls succeed before the crash, so that it falls into either of the two files."""
    save(tmp_path)
    before = files(tmp_path)
    calls = iter(range(100))
    module = os if where == "os.fsync" else Path
    original = getattr(module, where.rpartition(".")[2])

    def fail(*arguments: object) -> object:
        if next(calls) >= survives:
            raise crash
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(DataError if isinstance(crash, OSError) else KeyboardInterrupt):
            save(tmp_path, CONTENT + b"more\n")
    # Beside the old state at most the complete new corpus is there, and no temporary file.
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")]
    assert len(files(tmp_path) - before) <= 1
    manifest = load_manifest(tmp_path)
    assert manifest is not None
    assert load_content(tmp_path, manifest) == CONTENT
    save(tmp_path, CONTENT + b"more\n")
    assert len(files(tmp_path) - before) == 1


def test_leftovers_of_killed_processes_are_ignored_and_removed_when_old(tmp_path: Path) -> None:
    young, old = tmp_path / ".parallel-x.jsonl.gz.1.tmp", tmp_path / ".manifest.json.2.tmp"
    for file in (young, old):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    assert load_manifest(tmp_path) is None
    prepare_folder(tmp_path)
    assert files(tmp_path) == {young.name}


def test_damaged_corpus_names_the_file_and_the_remedy_works(tmp_path: Path) -> None:
    file = save(tmp_path)
    manifest = load_manifest(tmp_path)
    assert manifest is not None
    sound = file.read_bytes()
    other = save(tmp_path / "other", b"something else\n").read_bytes()
    for damage in (b"", b"garbage", sound[:-9], sound[:-4] + b"\0\0\0\0", other):
        file.write_bytes(damage)
        with pytest.raises(DataError, match=rf"{file.name} is damaged \(.*\): delete it and run again"):
            load_content(tmp_path, manifest)
    file.unlink()
    assert load_manifest(tmp_path) is None  # so that it is built anew


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}', '{"format": 1, "extra": 2}', "\udcff"])
def test_damaged_manifest_names_the_file(tmp_path: Path, damage: str) -> None:
    save(tmp_path)
    (tmp_path / "manifest.json").write_bytes(damage.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"manifest\.json is damaged .*: delete it and run again"):
        load_manifest(tmp_path)


def test_wrong_row_count_is_noticed(tmp_path: Path) -> None:
    save_corpus(tmp_path, corpus="x 1", origin="here", rows=3, content=CONTENT)
    manifest = load_manifest(tmp_path)
    assert manifest is not None
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        load_content(tmp_path, manifest)


def test_other_format_is_built_anew(tmp_path: Path) -> None:
    save(tmp_path)
    fields = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**fields, "format": FORMAT + 1}))
    assert load_manifest(tmp_path) is None


def test_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert load_manifest(tmp_path / "file") is None
    with pytest.raises(DataError, match=r"file cannot be written \(File exists\): .* NESTLEARN_CACHE"):
        write_atomic(tmp_path / "file" / "x", b"")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(DataError, match=r"cannot be written \(Permission denied\)"):
        prepare_folder(tmp_path)
