import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nestlearn.streams import LANGUAGES, DataError, ParallelCorpus, load_parallel_help
from tests.streams.fakes import numbered_pages, write_help

SPLITS = ("train", "validation", "test")


def test_corpus_is_aligned_and_split_once_for_all_languages(small_corpus: ParallelCorpus) -> None:
    assert small_corpus.name == "libreoffice-help 7.4"
    assert small_corpus.languages == LANGUAGES
    numbers = {
        language: {
            split: [
                int(text.split("number ")[1].split()[0]) for text in small_corpus.paragraphs[language][split]
            ]
            for split in SPLITS
        }
        for language in LANGUAGES
    }
    assert all(numbers[language] == numbers["en"] for language in LANGUAGES)
    every = [number for split in SPLITS for number in numbers["en"][split]]
    assert sorted(every) == list(range(400))
    assert min(len(numbers["en"][split]) for split in SPLITS) > 0


def test_selection_of_languages_moves_no_paragraph(small_corpus: ParallelCorpus, tmp_path: Path) -> None:
    some = load_parallel_help(("de", "en"), cache_dir=tmp_path / "cache")
    assert some.languages == ("de", "en")
    assert list(some.paragraphs) == ["de", "en"]
    assert some.checksum == small_corpus.checksum
    assert all(some.paragraphs[language] == small_corpus.paragraphs[language] for language in ("de", "en"))


def test_second_load_comes_from_the_cache(
    small_corpus: ParallelCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    explode: Callable[..., None],
) -> None:
    monkeypatch.setattr("nestlearn.streams.corpus.find_material", explode)
    assert load_parallel_help(cache_dir=tmp_path / "cache") == small_corpus
    assert load_parallel_help(cache_dir=tmp_path / "cache", data_dir=tmp_path / "tree") == small_corpus


def test_another_local_folder_replaces_what_is_cached(
    small_corpus: ParallelCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_help(tmp_path / "other", numbered_pages(300))
    monkeypatch.setenv("NESTLEARN_DATA", str(other))
    replaced = load_parallel_help(cache_dir=tmp_path / "cache")
    assert replaced.checksum != small_corpus.checksum
    monkeypatch.delenv("NESTLEARN_DATA")
    assert load_parallel_help(cache_dir=tmp_path / "cache") == replaced


def test_default_cache_is_used(small_is_enough: None, help_tree: Path, tmp_path: Path) -> None:
    load_parallel_help(data_dir=help_tree)
    assert (tmp_path / "default-cache" / "manifest.json").exists()


@pytest.mark.parametrize("pages", [{}, numbered_pages(30)])
def test_too_few_paragraphs(tmp_path: Path, pages: dict[str, dict[str, list[tuple[str, str]]]]) -> None:
    tree = write_help(tmp_path / "tree", pages or numbered_pages(1))
    if not pages:
        for file in tree.rglob("*.html"):
            file.unlink()
    with pytest.raises(DataError, match=rf"gave {30 if pages else 0} parallel paragraphs .* at least 15,000"):
        load_parallel_help(cache_dir=tmp_path / "cache", data_dir=tree)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("languages", [("en", "xx"), (), ("en", "en")])
def test_languages_are_checked_before_any_work(
    languages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, explode: Callable[..., None]
) -> None:
    monkeypatch.setattr("nestlearn.streams.corpus.find_material", explode)
    with pytest.raises(DataError):
        load_parallel_help(languages)


def test_cache_is_checked_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, explode: Callable[..., None]
) -> None:
    monkeypatch.setattr("nestlearn.streams.corpus.find_material", explode)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        load_parallel_help(cache_dir=tmp_path / "file")


def test_corpus_made_by_hand_is_checked() -> None:
    splits = {"train": ("a", "b"), "validation": (), "test": ("c",)}
    assert ParallelCorpus("x", ("en",), {"en": splits}, "0").languages == ("en",)
    with pytest.raises(DataError, match="The test texts of x are not aligned"):
        ParallelCorpus("x", ("en", "fr"), {"en": splits, "fr": {**splits, "test": ()}}, "0")
    with pytest.raises(DataError, match="Unknown language 'fr'"):
        ParallelCorpus("x", ("en", "fr"), {"en": splits}, "0")
    with pytest.raises(DataError, match="no training texts"):
        ParallelCorpus("x", ("en",), {"en": {**splits, "train": ()}}, "0")


BUILDER = """
import sys
from pathlib import Path
import nestlearn.streams.corpus as corpus
light = not {"tokenizers", "datasets", "rich", "transformers"} & set(sys.modules)
corpus.MINIMUM_ROWS = 10
for attempt in range(8):
    manifest = corpus._build(Path(sys.argv[2]), Path(sys.argv[1]), lambda *_: None)
    loaded = corpus.load_parallel_help(cache_dir=Path(sys.argv[2]))
print(light, loaded.checksum)
"""


def test_two_processes_may_build_at_once(help_tree: Path, tmp_path: Path) -> None:
    """Each builds and loads eight times meanwhile; importing the package loads no optional library."""
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", BUILDER, str(help_tree), str(cache)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [builder.communicate(timeout=60)[0].split() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == "True"
    assert len(list(cache.iterdir())) == 2  # the manifest and one corpus
