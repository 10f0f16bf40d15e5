"""Parallel text from the hub, where there are no Debian packages. **It is another corpus**: talks.

The data set ``sentence-transformers/parallel-sentences-talks`` has one configuration per pair of languages
(``en-de``, ``en-fr``, …) with the columns ``english`` and ``non_english``. A row of ours is an English
sentence that has a translation in every pair. Figures from it do not compare with figures from the
LibreOffice help, so it has its own corpus name, which reports print. The talks are licensed CC BY-NC-ND:
train on them, do not pass them on.
"""

import hashlib
from typing import Any

from nestlearn.streams.errors import DataError
from nestlearn.streams.languages import LANGUAGES
from nestlearn.streams.material import Material, UnavailableError
from nestlearn.streams.progress import Progress, silent
from nestlearn.streams.rows import ParallelRow, is_translated, unique

DATASET = "sentence-transformers/parallel-sentences-talks"
REVISION = "3ff2e9c2ace51e408113f9914e1d2411fe9825ec"  # fixed, so that every machine gets the same text
MAXIMUM_ROWS = (
    30_000  # about as much text as the LibreOffice help; talks stay whole because the order is kept
)

_BATCH = 10_000


def from_hub(progress: Progress = silent) -> Material:
    """Load the pairs of languages, and join them on the English sentence.

    Raises:
        UnavailableError: ``datasets`` is not installed, or the hub cannot be reached.
        DataError: The data set does not have the two columns.
    """
    try:
        import datasets  # noqa: PLC0415  (an optional extra)
    except ImportError as error:
        raise UnavailableError("the library `datasets` is not installed") from error
    pairs: list[dict[str, str]] = []
    for done, language in enumerate(LANGUAGES[1:]):
        progress("Fetching parallel talks", done, len(LANGUAGES) - 1)
        try:
            table = datasets.load_dataset(DATASET, f"en-{language}", split="train", revision=REVISION)
        except Exception as error:  # every layer below (files, network, formats) raises its own kinds
            raise UnavailableError(f"loading {DATASET} failed ({_first_line(error)})") from error
        pairs.append(_translations(table, language))
    progress("Fetching parallel talks", len(LANGUAGES) - 1, len(LANGUAGES) - 1)
    return Material(f"{DATASET} {REVISION[:7]}", "hub", tuple(_join(pairs)))


def _translations(table: Any, language: str) -> dict[str, str]:
    """Return English -> translation, the first one where a sentence occurs twice, white space normalised."""
    pairs: dict[str, str] = {}
    try:
        for batch in table.iter(batch_size=_BATCH):
            for english, other in zip(batch["english"], batch["non_english"], strict=True):
                pairs.setdefault(_clean(english), _clean(other))
    except KeyError as error:
        raise DataError(
            f"{DATASET} has no column {error} for en-{language}: its layout has changed, so use the Debian "
            "packages or NESTLEARN_DATA instead."
        ) from error
    return pairs


def _join(pairs: list[dict[str, str]]) -> list[ParallelRow]:
    rows = []
    for english in pairs[0]:
        texts = (english, *(pair.get(english, "") for pair in pairs))
        if is_translated(texts):
            rows.append(ParallelRow(_sentence_id(english), texts))
    return unique(rows)[:MAXIMUM_ROWS]


def _sentence_id(english: str) -> str:
    """Return an id made of the sentence itself: the data set has none."""
    return hashlib.sha256(english.encode()).hexdigest()[:16]


def _clean(text: str | None) -> str:
    return " ".join((text or "").split())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
