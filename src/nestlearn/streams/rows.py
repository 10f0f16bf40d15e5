"""Parallel paragraphs as rows: which are kept, which split each belongs to, and their canonical bytes.

Nothing here knows where the text came from, so every source is filtered, split and stored by the same rules,
and always in all languages: which languages a run asks for cannot move a paragraph from one split to another.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nestlearn.streams.errors import DataError
from nestlearn.streams.languages import LANGUAGES

SPLITS: tuple[str, ...] = ("train", "validation", "test")

_SHORTEST = 20  # characters of English; up to here it is mostly names of menus and functions
_HELD_OUT_PERCENT = 2  # of the paragraph ids, for each of validation and test
_NOT_WORD = re.compile(r"[\W_]+")


class ParallelRow(NamedTuple):
    """One paragraph in every language."""

    id: str  # what the split is decided by; need not be unique
    texts: tuple[str, ...]  # in the order of LANGUAGES, white space normalised


class SplitRow(NamedTuple):
    """One paragraph in every language, and the split it belongs to."""

    id: str
    split: str  # one of SPLITS
    texts: tuple[str, ...]


def is_translated(texts: Sequence[str]) -> bool:
    """Tell whether a paragraph is long enough, and not left in English (or empty) in any language."""
    english, *translations = texts
    return len(english) > _SHORTEST and all(text and text != english for text in translations)


def unique(rows: Iterable[ParallelRow]) -> list[ParallelRow]:
    """Keep the first row of every English text, in the order given."""
    first: dict[str, ParallelRow] = {}
    for row in rows:
        first.setdefault(row.texts[0], row)
    return list(first.values())


def assign_splits(rows: Sequence[ParallelRow]) -> list[SplitRow]:
    """Give each row its split: about 2 % validation and 2 % test, by a hash of the paragraph id.

    The hash is SHA-256, so it is the same on every machine and in every process, and a paragraph keeps its
    split when others are added or dropped. All languages of a row share its split: otherwise the translation
    of a test paragraph would be trained on. Distinct paragraphs can still read the same in some language (or
    differ only in case and punctuation); a row that shares a text in that sense with another row is always
    for training.

    Args:
        rows: Rows with distinct English texts.

    Returns:
        The same rows in the same order, each with its split.
    """
    fingerprints = [
        tuple((index, _fingerprint(text)) for index, text in enumerate(row.texts)) for row in rows
    ]
    occurrences = Counter(fingerprint for row in fingerprints for fingerprint in row)
    return [
        SplitRow(row.id, "train" if any(occurrences[key] > 1 for key in keys) else _bucket(row.id), row.texts)
        for row, keys in zip(rows, fingerprints, strict=True)
    ]


def encode_rows(rows: Iterable[SplitRow]) -> bytes:
    """Return the canonical JSONL (UTF-8, one row a line); its SHA-256 is the identity of a corpus."""
    return "".join(
        json.dumps(
            {"id": row.id, "split": row.split, **dict(zip(LANGUAGES, row.texts, strict=True))},
            ensure_ascii=False,
            separators=(",", ":"),
        )
        + "\n"
        for row in rows
    ).encode()


def select_texts(content: bytes, languages: Sequence[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read canonical JSONL back, for some of its languages.

    Args:
        content: What `encode_rows` returned.
        languages: The languages to read.

    Returns:
        ``[language][split]`` -> the texts, aligned across languages.
    """
    # Not splitlines(): a text may hold separators such as U+2028, which JSON leaves as they are.
    records: list[Mapping[str, str]] = [json.loads(line) for line in content.decode().split("\n") if line]
    by_split = {split: [record for record in records if record["split"] == split] for split in SPLITS}
    return {
        language: {split: tuple(record[language] for record in by_split[split]) for split in SPLITS}
        for language in languages
    }


def require_rows(name: str, count: int, minimum: int) -> None:
    """Refuse a corpus that is far smaller than its source should give.

    Raises:
        DataError: Fewer rows than the minimum.
    """
    if count < minimum:
        raise DataError(
            f"{name} gave {count:,} parallel paragraphs where at least {minimum:,} are expected: the files "
            "are incomplete or of another layout, so fetch them again or point NESTLEARN_DATA at a "
            "complete copy."
        )


def _fingerprint(text: str) -> str:
    return _NOT_WORD.sub("", text.casefold())


def _bucket(paragraph_id: str) -> str:
    digest = hashlib.sha256(paragraph_id.encode()).digest()
    percent = int.from_bytes(digest[:8], "big") % 100
    if percent < _HELD_OUT_PERCENT:
        return "validation"
    return "test" if percent < 2 * _HELD_OUT_PERCENT else "train"
