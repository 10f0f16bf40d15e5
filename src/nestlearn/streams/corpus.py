"""The parallel corpus: the same paragraphs in several languages, split once for all of them."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from nestlearn.streams.cache import (
    Manifest,
    cache_folder,
    load_content,
    load_manifest,
    prepare_folder,
    save_corpus,
)
from nestlearn.streams.errors import DataError
from nestlearn.streams.languages import LANGUAGES, check_languages
from nestlearn.streams.progress import Progress, terminal_progress
from nestlearn.streams.providers import find_material, local_folder
from nestlearn.streams.rows import SPLITS, assign_splits, encode_rows, require_rows, select_texts

__all__ = ["LANGUAGES", "MINIMUM_ROWS", "SPLITS", "ParallelCorpus", "load_parallel_help"]

MINIMUM_ROWS = 15_000  # the LibreOffice help 7.4 has about 22,900; far fewer means that something went wrong


@dataclass(frozen=True)
class ParallelCorpus:
    """Paragraphs in several languages, aligned: index i of a split is the same paragraph in every language.

    Raises:
        DataError: Nothing in it, a language or split without texts beside others with, or splits of unequal
            length.
    """

    name: str  # "libreoffice-help 7.4.7", or the name of the data set on the hub
    languages: tuple[str, ...]
    paragraphs: Mapping[str, Mapping[str, tuple[str, ...]]]  # [language][split] -> texts
    checksum: str  # SHA-256 of the canonical JSONL with all languages, whichever were selected

    def __post_init__(self) -> None:
        check_languages(self.languages, tuple(self.paragraphs))
        for split in SPLITS:
            counts = {language: len(self.paragraphs[language].get(split, ())) for language in self.languages}
            if len(set(counts.values())) > 1:
                raise DataError(
                    f"The {split} texts of {self.name} are not aligned ({counts}): build it anew."
                )
        if not self.paragraphs[self.languages[0]].get("train"):
            raise DataError(f"The corpus {self.name} has no training texts: build it from another source.")


def load_parallel_help(
    languages: Sequence[str] = LANGUAGES,
    *,
    cache_dir: Path | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> ParallelCorpus:
    """Return the parallel corpus, from the cache or, the first time, from its source (about 20 seconds).

    All five languages are built and stored together, so the paragraphs and their splits are the same
    whichever languages are asked for.

    Args:
        languages: Which languages, in the order of the stream; see `LANGUAGES`.
        cache_dir: Default ``$NESTLEARN_CACHE``, else ``$XDG_CACHE_HOME/nestlearn``, else
            ``~/.cache/nestlearn``.
        data_dir: A folder with the raw files; default ``$NESTLEARN_DATA``. A corpus in the cache that came
            from elsewhere is then replaced. See `nestlearn.streams.providers` for the sources tried without
            one.
        progress: Called as ``progress(what, done, total)``; default: a bar if standard error is a terminal.

    Raises:
        DataError: An unknown language, one named twice or none; no source answers; a source or the cache is
            not what it should be. The message says what to do.
    """
    selection = check_languages(languages)
    folder = cache_folder(cache_dir)
    manifest = load_manifest(folder)
    source = local_folder(data_dir)
    if manifest is None or (source is not None and manifest.origin != str(source)):
        with terminal_progress() if progress is None else nullcontext(progress) as report:
            manifest = _build(folder, data_dir, report)
    texts = select_texts(load_content(folder, manifest), selection)
    return ParallelCorpus(manifest.corpus, selection, texts, manifest.sha256)


def _build(folder: Path, data_dir: Path | None, progress: Progress) -> Manifest:
    prepare_folder(folder)
    material = find_material(data_dir, progress)
    require_rows(material.name, len(material.rows), MINIMUM_ROWS)
    rows = assign_splits(material.rows)
    return save_corpus(
        folder, corpus=material.name, origin=material.origin, rows=len(rows), content=encode_rows(rows)
    )
