"""Kinds of text, each as documents split for training and tests: what a model knows and what it is taught.

| name | text | source | licence |
|---|---|---|---|
| technical | help pages in English | Debian ``libreoffice-help-en-us`` | MPL-2.0 |
| french | their French translation | Debian ``libreoffice-help-fr`` | MPL-2.0 |
| code | Python's standard library | the running interpreter | PSF |
| literature | King James Bible | Debian ``sword-text-kjv`` | public domain |
| dictionary | definitions of English words | Debian ``wordnet-base`` | WordNet licence |
| legal | texts of licences | PyPI ``licensedcode-data`` | CC-BY-4.0 and the texts' own |

A folder named by ``NESTLEARN_DATA`` comes first: ``NAME.jsonl`` in it, one JSON string a line. What was built
once is in the cache.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nestlearn.streams import domain_sources
from nestlearn.streams.cache import cache_folder, prepare_folder, write_atomic
from nestlearn.streams.corpus import load_parallel_help
from nestlearn.streams.errors import DataError
from nestlearn.streams.material import UnavailableError
from nestlearn.streams.progress import terminal_progress
from nestlearn.streams.providers import DATA_VARIABLE, local_folder
from nestlearn.streams.rows import SPLITS

FORMAT = 1
#: Of a domain's characters; far fewer mean that something went wrong.
LEAST = 1_000_000
#: Of documents, in percent by a hash of their text: the rest is for training.
HELD_OUT = {"validation": 5, "test": 5}


@dataclass(frozen=True)
class Domain:
    """One kind of text.

    Attributes:
        name: As in the table.
        documents: Texts by split; a document is in one split only.
        checksum: SHA-256 of all texts.
    """

    name: str
    documents: Mapping[str, tuple[str, ...]]
    checksum: str


Source = Callable[[Path], Iterator[str]]
SOURCES: Mapping[str, Source] = {
    "code": domain_sources.code,
    "literature": domain_sources.literature,
    "dictionary": domain_sources.dictionary,
    "legal": domain_sources.legal,
}
_HELP = {"technical": "en", "french": "fr"}
DOMAINS = (*_HELP, *SOURCES)


def load_domain(name: str, *, cache_dir: Path | None = None, data_dir: Path | None = None) -> Domain:
    """Return a domain, from a named folder, the cache, or its source.

    Args:
        name: One of :data:`DOMAINS`.
        cache_dir: See :func:`nestlearn.streams.load_parallel_help`.
        data_dir: Likewise.

    Raises:
        DataError: An unknown name; no source answers; what answers is not what it should be.
    """
    if name not in DOMAINS:
        raise DataError(f"there is no domain {name!r}: choose from {', '.join(DOMAINS)}")
    folder = local_folder(data_dir)
    if folder is not None and (folder / f"{name}.jsonl").is_file():
        return _domain(name, _read(folder / f"{name}.jsonl"))
    if name in _HELP:
        corpus = load_parallel_help((_HELP[name],), cache_dir=cache_dir, data_dir=data_dir)
        return Domain(name, corpus.paragraphs[_HELP[name]], corpus.checksum)
    path = cache_folder(cache_dir) / f"domain-{name}-{FORMAT}.jsonl.gz"
    if not path.is_file():
        prepare_folder(path.parent)
        lines = [json.dumps(text, ensure_ascii=False) for text in _built(name)]
        write_atomic(path, gzip.compress("\n".join(lines).encode(), mtime=0))
    return _domain(name, _read(path))


def _built(name: str) -> list[str]:
    """The documents of a domain, from its source."""
    with terminal_progress() as report, tempfile.TemporaryDirectory(prefix="nestlearn-") as scratch:
        report(f"Building the domain {name}", 0, 1)
        try:
            texts = list(dict.fromkeys(SOURCES[name](Path(scratch))))
        except UnavailableError as reason:
            raise DataError(
                f"The domain {name} could not be had ({reason}): see nestlearn.streams.domains for its "
                f"source, or set {DATA_VARIABLE} to a folder with {name}.jsonl, one JSON string a line."
            ) from reason
        report(f"Building the domain {name}", 1, 1)
    size = sum(map(len, texts))
    if size < LEAST:
        raise DataError(f"The source of the domain {name} holds {size} characters; {LEAST} were expected.")
    return texts


def _read(path: Path) -> list[str]:
    """The documents of a file.

    Raises:
        DataError: It is no JSON lines of strings.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        texts = [json.loads(line) for line in content.decode().split("\n") if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it and run again.") from error
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path} must hold one JSON string a line.")
    return texts


def _domain(name: str, texts: list[str]) -> Domain:
    """Texts divided among the splits by their hash, so that a document never changes its split."""
    documents: dict[str, list[str]] = {split: [] for split in SPLITS}
    digest = hashlib.sha256()
    for text in texts:
        own = hashlib.sha256(text.encode()).digest()
        digest.update(own)
        place = int.from_bytes(own[:4], "big") % 100
        split = "train"
        for held, percent in HELD_OUT.items():
            if 0 <= place < percent:
                split = held
            place -= percent
        documents[split].append(text)
    return Domain(name, {split: tuple(own) for split, own in documents.items()}, digest.hexdigest())
