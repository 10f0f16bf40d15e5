"""Intents: what people want who say a sentence to an assistant or write one to their bank.

=============  =============================================================================================
``clinc150``   150 intents in 10 domains, 15,000 / 3,000 / 4,500 sentences, without those that are out of
               scope (Larson et al. 2019, arXiv 1909.02027; CC-BY-3.0)
``banking77``  77 intents of a bank's customers, 10,003 / 3,080 sentences (Casanueva et al. 2020, arXiv
               2003.04807; CC-BY-4.0)
=============  =============================================================================================

They come from the folder that ``NESTLEARN_DATA`` names, whose failure is final, or else from the hub. Both
give the same tensors: classes and sentences have an order of their own (see :class:`Intents`). What was found
is kept in the cache folder.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from nestlearn.streams.cache import cache_folder, prepare_folder, write_atomic
from nestlearn.streams.errors import DataError
from nestlearn.streams.material import UnavailableError
from nestlearn.streams.providers import DATA_VARIABLE, local_folder
from nestlearn.streams.tasks import SPLITS, Labelled

FORMAT = 1
#: Percent of each class of training sentences that are held out where a source has no validation sentences.
HELD_OUT = 10
#: Classes of a step of ``banking77``.
STEP = 11

#: By split, the name of the intent and the sentence.
Rows = dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Source:
    """Where the sentences are, and how many there must be.

    Attributes:
        files: In a local folder.
        read: Reads their contents.
        hub: Name, configuration and revision on the hub. ``banking77`` itself is a program there, which
            ``datasets`` no longer runs; the revision is the hub's own conversion.
        column: That has the intent.
        counts: Sentences by split.
        classes: How many intents.
    """

    files: tuple[str, ...]
    read: Callable[[Sequence[bytes]], Rows]
    hub: tuple[str, str | None, str]
    column: str
    counts: Mapping[str, int]
    classes: int


@dataclass(frozen=True)
class Intents:
    """Sentences with their intents.

    Attributes:
        texts: By split, the sentences; ordered by class, then by themselves.
        classes: By split, ``[n]``.
        names: Of the classes. Those of ``clinc150`` are ordered by domain, then by name; those of
            ``banking77`` by name.
        groups: The classes of each task: the ten domains of ``clinc150``, seven times eleven classes of
            ``banking77`` in the order of ``torch.randperm`` with seed 0.

    Raises:
        ValueError: Sentences and classes of a split differ in number.
    """

    texts: Mapping[str, list[str]]
    classes: Mapping[str, Tensor]
    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for split, texts in self.texts.items():
            if len(texts) != len(self.classes[split]):
                raise ValueError(f"{split} has {len(texts)} sentences and {len(self.classes[split])} classes")

    def labelled(self, inputs: Mapping[str, Tensor]) -> dict[str, Labelled]:
        """Examples for :func:`~nestlearn.streams.tasks.split_by_class`.

        Args:
            inputs: By split, what was made of the sentences: tokens or features, ``[n, ...]``.

        Raises:
            ValueError: Their number is not that of the sentences.
        """
        return {split: Labelled(own, self.classes[split]) for split, own in inputs.items()}


def load_intents(source: str = "clinc150", *, cache_dir: Path | None = None) -> Intents:
    """Sentences and intents.

    Of ``banking77``, a tenth of each class of training sentences is for validation, drawn with seed 0.

    Args:
        source: ``"clinc150"`` or ``"banking77"``.
        cache_dir: See :func:`nestlearn.streams.load_parallel_help`.

    Raises:
        DataError: An unknown source, nothing that has it, a number of sentences that is not the known one, or
            a damaged file.
    """
    if source not in SOURCES:
        raise DataError(f"there are no intents from {source!r}: choose from {', '.join(SOURCES)}")
    path = cache_folder(cache_dir) / f"intents-{source}-{FORMAT}.json.gz"
    if not path.is_file():
        prepare_folder(path.parent)
        rows = _checked(source, *_found(source))
        write_atomic(path, gzip.compress(json.dumps(rows).encode(), mtime=0))
    try:
        rows = json.loads(gzip.decompress(path.read_bytes()))
        return _ordered(source, _checked(source, rows, "it"))
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it and run again.") from error


def domains() -> dict[str, tuple[str, ...]]:
    """The intents of each domain of ``clinc150``."""
    table = resources.files("nestlearn.streams").joinpath("clinc150.json").read_text(encoding="utf-8")
    return {domain: tuple(names) for domain, names in json.loads(table)["domains"].items()}


def _found(source: str) -> tuple[Rows, str]:
    """The sentences of the first provider that has them, and which one that is."""
    folder = local_folder()
    if folder is not None:
        return _from_folder(source, folder), str(folder)
    try:
        return _from_hub(source), f"{SOURCES[source].hub[0]} on the hub"
    except UnavailableError as reason:
        raise DataError(
            f"{source} could not be found (local folder: {DATA_VARIABLE} is not set; hub: {reason}): run "
            f"`pip install datasets` with internet access, or set {DATA_VARIABLE} to a folder with "
            f"{', '.join(SOURCES[source].files)}."
        ) from reason


def _from_folder(source: str, folder: Path) -> Rows:
    files = [folder / name for name in SOURCES[source].files]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}: add it or unset {DATA_VARIABLE}.")
    try:
        return _in_scope(SOURCES[source].read([path.read_bytes() for path in files]))
    except (OSError, csv.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{source} cannot be read from {', '.join(SOURCES[source].files)} in {folder} "
            f"({type(error).__name__}: {error}): fetch the original or unset {DATA_VARIABLE}."
        ) from error


def _from_hub(source: str) -> Rows:
    try:
        import datasets  # noqa: PLC0415  (an optional extra)
    except ImportError as error:
        raise UnavailableError("the library `datasets` is not installed") from error
    wanted = SOURCES[source]
    name, config, revision = wanted.hub
    rows: Rows = {}
    for split in wanted.counts:
        try:
            table = datasets.load_dataset(name, config, split=split, revision=revision)
        except Exception as error:  # every layer below has its own kinds
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise UnavailableError(f"loading {name} failed ({reason})") from error
        try:
            names = table.features[wanted.column].names
            rows[split] = [
                (names[label], text) for text, label in zip(table["text"], table[wanted.column], strict=True)
            ]
        except (KeyError, AttributeError) as error:
            raise DataError(
                f"{name} has no columns text and {wanted.column} ({error}): its layout has changed, so set "
                f"{DATA_VARIABLE} to a folder with {', '.join(wanted.files)}."
            ) from error
    return _in_scope(rows)


def _read_clinc150(contents: Sequence[bytes]) -> Rows:
    held = json.loads(contents[0])
    names = {"train": "train", "validation": "val", "test": "test"}
    return {split: [(intent, text) for text, intent in held[name]] for split, name in names.items()}


def _read_banking77(contents: Sequence[bytes]) -> Rows:
    rows: Rows = {}
    for split, content in zip(("train", "test"), contents, strict=True):
        table = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
        rows[split] = [(row["category"].strip(), row["text"]) for row in table]
    return rows


def _in_scope(rows: Rows) -> Rows:
    """Without the sentences that have no intent, white space normalised."""
    return {
        split: [(intent, " ".join(text.split())) for intent, text in own if intent != "oos"]
        for split, own in rows.items()
    }


def _checked(source: str, rows: Rows, origin: str) -> Rows:
    """The rows, if they are all there."""
    wanted = SOURCES[source]
    counts = {split: len(own) for split, own in rows.items()}
    if counts != wanted.counts:
        raise DataError(
            f"{source} has {_listed(wanted.counts)} sentences, but {origin} has {_listed(counts)}: use the "
            "original data."
        )
    names = {intent for own in rows.values() for intent, _ in own}
    known = set(_names(source, names))
    if len(names) != wanted.classes or names != known:
        odd = ", ".join(sorted(names ^ known)[:5]) or f"there are {len(names)}"
        raise DataError(
            f"{source} has {wanted.classes} intents, but {origin} has others ({odd}): use the original data."
        )
    return rows


def _listed(counts: Mapping[str, int]) -> str:
    return " / ".join(f"{split} {count:,}" for split, count in counts.items())


def _names(source: str, found: set[str]) -> list[str]:
    """The intents in the order of their classes."""
    if source == "clinc150":
        return [name for names in domains().values() for name in names]
    return sorted(found, key=lambda name: (name.lower(), name))


def _ordered(source: str, rows: Rows) -> Intents:
    names = _names(source, {intent for own in rows.values() for intent, _ in own})
    places = {name: i for i, name in enumerate(names)}
    ordered = {split: sorted((places[name], text) for name, text in own) for split, own in rows.items()}
    if "validation" not in ordered:
        ordered["train"], ordered["validation"] = _held_out(ordered["train"])
    texts = {split: [text for _, text in ordered[split]] for split in SPLITS}
    classes = {split: torch.tensor([label for label, _ in ordered[split]]) for split in SPLITS}
    return Intents(texts, classes, tuple(names), _groups(source, len(names)))


def _held_out(rows: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """What stays, and the share of each class that does not."""
    generator = torch.Generator().manual_seed(0)
    chosen: set[int] = set()
    start = 0
    for _, count in sorted(Counter(label for label, _ in rows).items()):
        order = torch.randperm(count, generator=generator)[: count * HELD_OUT // 100]
        chosen |= {start + i for i in order.tolist()}
        start += count
    kept = [row for i, row in enumerate(rows) if i not in chosen]
    return kept, [rows[i] for i in sorted(chosen)]


def _groups(source: str, count: int) -> tuple[tuple[int, ...], ...]:
    if source == "clinc150":
        order, sizes = list(range(count)), [len(names) for names in domains().values()]
    else:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        sizes = [STEP] * (count // STEP)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return tuple(tuple(sorted(order[end - size : end])) for end, size in zip(ends, sizes, strict=True))


SOURCES: Mapping[str, Source] = {
    "clinc150": Source(
        files=("clinc150_data_full.json",),
        read=_read_clinc150,
        hub=("clinc/clinc_oos", "plus", "155b9c710419136e17307b80d0a13e68cd46b4ec"),
        column="intent",
        counts={"train": 15_000, "validation": 3_000, "test": 4_500},
        classes=150,
    ),
    "banking77": Source(
        files=("banking77_train.csv", "banking77_test.csv"),
        read=_read_banking77,
        hub=("PolyAI/banking77", None, "refs/convert/parquet"),
        column="label",
        counts={"train": 10_003, "test": 3_080},
        classes=77,
    ),
}
