from collections.abc import Callable
from pathlib import Path

import pytest

from nestlearn.streams import DataError, ParallelCorpus, load_parallel_help
from tests.streams.fakes import numbered_pages, write_help


@pytest.fixture(scope="session")
def real_corpus() -> ParallelCorpus:
    """The real LibreOffice help in its ordinary cache; built if this machine can fetch the packages."""
    try:
        corpus = load_parallel_help()
    except DataError as error:
        pytest.skip(f"the real corpus is not available here: {error}")
    if not corpus.name.startswith("libreoffice-help"):
        pytest.skip(f"this machine uses another corpus: {corpus.name}")
    return corpus


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test touches the user's own folders."""
    monkeypatch.delenv("NESTLEARN_DATA", raising=False)
    monkeypatch.setenv("NESTLEARN_CACHE", str(tmp_path / "default-cache"))


@pytest.fixture
def small_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a fake help of a few hundred paragraphs pass for complete."""
    monkeypatch.setattr("nestlearn.streams.corpus.MINIMUM_ROWS", 10)


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with no programs on its path and no library `datasets`."""
    empty = tmp_path / "empty-path"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)


@pytest.fixture
def help_tree(tmp_path: Path) -> Path:
    """A fake help of 400 paragraphs."""
    return write_help(tmp_path / "tree", numbered_pages(400))


@pytest.fixture
def small_corpus(small_is_enough: None, help_tree: Path, tmp_path: Path) -> ParallelCorpus:
    return load_parallel_help(cache_dir=tmp_path / "cache", data_dir=help_tree)


@pytest.fixture
def explode() -> Callable[..., None]:
    """A function that must not be called."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("must not be called")

    return fail
