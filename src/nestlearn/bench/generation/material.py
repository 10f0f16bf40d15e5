"""What is said to a model: sentences that ask for an intent, and the intents' names as answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.bench.classification.intents import few
from nestlearn.bench.generation.packing import FILLING
from nestlearn.models.pretrained import load_pretrained
from nestlearn.streams.intents import load_intents
from nestlearn.streams.tasks import Splits

#: What comes between a sentence and its intent, and what ends the intent.
ASKED, END = "\nIntent:", "\n"


@dataclass(frozen=True, eq=False)
class Material:
    """A model, and what it is to learn.

    Attributes:
        model: As it was pretrained; nobody changes it.
        splits: Sentences as tokens ``[n, L]``, whole numbers of four bytes, with what asks for the intent,
            and filled up with :data:`~nestlearn.bench.generation.packing.FILLING`.
        answers: Tokens of each class's name, with what ends it.
        groups: The classes of each task.

    Raises:
        ValueError: Two classes have the same answer, or a class has none.
    """

    model: nn.Module
    splits: Splits
    answers: tuple[Tensor, ...]
    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        known = {tuple(answer.tolist()) for answer in self.answers}
        if len(known) < len(self.answers) or () in known:
            raise ValueError(f"{len(self.answers)} classes have {len(known - {()})} different answers")

    def named(self, classes: Tensor) -> list[Tensor]:
        """The answers of classes ``[n]``."""
        return [self.answers[own] for own in classes.tolist()]


@lru_cache(maxsize=2)
def load_material(data: str) -> Material:
    """SmolLM2-135M-Instruct in bfloat16, and a few sentences of every intent, drawn with seed 0.

    Args:
        data: ``"clinc150/8/4/2"``: the source, and how many sentences of an intent are for training,
            validation and testing.

    Raises:
        DataError: See :func:`~nestlearn.streams.intents.load_intents` and
            :func:`~nestlearn.models.pretrained.load_pretrained`.
    """
    source, *counts = data.split("/")
    intents = load_intents(source)
    model, tokenizer = load_pretrained("smollm2", dtype=torch.bfloat16)
    rows = {split: prompts(texts, tokenizer) for split, texts in intents.texts.items()}
    labelled = intents.labelled(rows)
    splits = {
        split: few(labelled[split], int(count))
        for split, count in zip(("train", "validation", "test"), counts, strict=True)
    }
    answers = tuple(torch.tensor(tokenizer(answer(name))["input_ids"]) for name in intents.names)
    return Material(model, splits, answers, intents.groups)


def answer(name: str) -> str:
    """An intent's name in words, as it is to be written: ``card_arrival`` is `` card arrival``."""
    return f" {' '.join(name.lower().split('_'))}{END}"


def prompts(texts: Sequence[str], tokenizer: Any) -> Tensor:
    """Sentences with what asks for the intent, as tokens ``[n, L]`` filled up at their ends.

    Args:
        texts: The sentences.
        tokenizer: Of the model.
    """
    rows = [tokenizer(f"{text}{ASKED}")["input_ids"] for text in texts]
    found = torch.full((len(rows), max(map(len, rows))), FILLING, dtype=torch.int32)
    for place, row in enumerate(rows):
        found[place, : len(row)] = torch.tensor(row, dtype=torch.int32)
    return found
