"""What our tasks of lm-eval are made of: questions and texts from :mod:`nestlearn.streams`.

The tasks themselves are described in ``tasks/*.yaml``, which name the functions here. lm-eval gives these
functions whatever it knows about a run; they take what concerns them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestlearn.streams import load_parallel_help
from nestlearn.streams.corpus import ParallelCorpus
from nestlearn.streams.intents import Intents, load_intents

#: The folder of the tasks' descriptions: lm-eval's ``include_path``.
TASKS = Path(__file__).with_name("tasks")
#: Paragraphs of a document of help.
PARAGRAPHS = 20


def task_names() -> list[str]:
    """Names of our tasks."""
    return sorted(path.stem for path in TASKS.glob("nestlearn_*.yaml"))


def banking77(**run: Any) -> Any:
    """Messages of a bank's customers, and 77 topics of which one is right.

    Args:
        run: Of lm-eval; not needed.

    Raises:
        DataError: If the sentences cannot be had.
    """
    del run
    return as_datasets(questions(load_intents("banking77")))


def clinc150(**run: Any) -> Any:
    """What people say to an assistant, and 150 intents of which one is right.

    Args:
        run: Of lm-eval; not needed.

    Raises:
        DataError: If the sentences cannot be had.
    """
    del run
    return as_datasets(questions(load_intents("clinc150")))


def office_help(*, language: str, **run: Any) -> Any:
    """Help of LibreOffice in a language.

    Args:
        language: One of :data:`~nestlearn.streams.LANGUAGES`.
        run: Of lm-eval; not needed.

    Raises:
        DataError: If the corpus cannot be had.
    """
    del run
    return as_datasets(pages(load_parallel_help([language]), language))


def questions(intents: Intents) -> dict[str, list[dict[str, Any]]]:
    """Multiple-choice questions, by split.

    Args:
        intents: Sentences and their intents.

    Returns:
        Records of ``text``, ``choices`` (the names of all intents in words) and ``label`` (the place of the
        right one). They are in an order drawn with seed 0, so that the first few are a fair sample.
    """
    names = [" ".join(name.replace("_", " ").split()) for name in intents.names]
    made = {}
    for split, texts in intents.texts.items():
        rows = list(zip(texts, intents.classes[split].tolist(), strict=True))
        random.Random(0).shuffle(rows)
        made[split] = [{"text": text, "choices": names, "label": label} for text, label in rows]
    return made


def pages(corpus: ParallelCorpus, language: str) -> dict[str, list[dict[str, Any]]]:
    """Texts of :data:`PARAGRAPHS` paragraphs, by split.

    Args:
        corpus: The paragraphs.
        language: Which of its languages.

    Returns:
        Records of ``text``, paragraphs in the order of the corpus with line breaks between them.
    """
    return {
        split: [{"text": "\n".join(rows[at : at + PARAGRAPHS])} for at in range(0, len(rows), PARAGRAPHS)]
        for split, rows in corpus.paragraphs[language].items()
    }


def as_datasets(splits: Mapping[str, Sequence[dict[str, Any]]]) -> Any:
    """Records by split, as lm-eval takes them; splits without any are left out."""
    from datasets import Dataset  # noqa: PLC0415  (a second to import)

    return {split: Dataset.from_list(list(rows)) for split, rows in splits.items() if rows}


__all__ = [
    "PARAGRAPHS",
    "TASKS",
    "as_datasets",
    "banking77",
    "clinc150",
    "office_help",
    "pages",
    "questions",
    "task_names",
]
