"""Intents whose names a small language model writes: SmolLM2, class-incremental, nobody says which task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nestlearn.bench.base import JOINT, Entry, Settings
from nestlearn.bench.classification.intents import TITLES, domains, few
from nestlearn.bench.classification.stream import NEVER, ClassificationStream
from nestlearn.continual.classification import Answers, Classifier, GeneratedLabels, InContext
from nestlearn.continual.methods import (
    DEFAULT_REST,
    FineTuning,
    Levels,
    Method,
    Rehearsal,
    Rehearsing,
    default_levels,
)
from nestlearn.models.pretrained import load_pretrained
from nestlearn.retrofitting import own_samples, positions, start_token
from nestlearn.streams.intents import load_intents
from nestlearn.streams.tasks import Splits, Task

if TYPE_CHECKING:
    from nestlearn.bench.classification.stream import Setup

#: Sentences of an intent for training, and for testing (and for validation, in searches).
TRAINED, TESTED = 8, 2
#: Tokens of a sentence that are read: 97 % of CLINC150's are whole.
LENGTH = 20
#: Between a sentence and its intent, and after that: one token each but for the first.
ASKED, END = "\nIntent:", "\n"
#: Tokens of its own text that levels look at before the first step, and of each.
CALIBRATION, CALIBRATED = 8192, 128
#: Rows that are drawn at a time by a model that rehearses.
AHEAD = 64


@dataclass(frozen=True)
class Pretrained:
    """The model as it comes, and what the stream takes of its sentences."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """See :class:`~nestlearn.bench.classification.stream.Builder`."""
        return {"model": "smollm2", "trained": TRAINED, "tested": TESTED, "length": LENGTH, "asked": ASKED}

    @property
    def described(self) -> str:
        """See :class:`~nestlearn.bench.classification.stream.Builder`."""
        return f"a pretrained language model of 135 million parameters, {TRAINED} sentences of each intent"

    def __call__(self, outputs: int) -> nn.Module:
        """A copy of the model; whatever the number of classes, it writes their names."""
        del outputs
        return deepcopy(smollm2()[0])


@lru_cache(maxsize=1)
def smollm2() -> tuple[nn.Module, Any]:
    """The model in bfloat16, three times as fast here, and its tokenizer.

    Raises:
        DataError: See :func:`~nestlearn.models.pretrained.load_pretrained`.
    """
    return load_pretrained("smollm2", dtype=torch.bfloat16)


@lru_cache(maxsize=2)
def answers(source: str) -> Answers:
    """The intents' names in words."""
    _, tokenizer = smollm2()
    names = [tokenizer(f" {name.replace('_', ' ')}{END}").input_ids for name in load_intents(source).names]
    return Answers(names, int(tokenizer.pad_token_id))


@lru_cache(maxsize=2)
def questions(source: str) -> Splits:
    """Sentences, and what asks for their intents, as tokens ``[n, 25]``, filled up at their ends.

    Args:
        source: See :func:`~nestlearn.streams.intents.load_intents`.

    Raises:
        DataError: See there.
    """
    intents = load_intents(source)
    model, tokenizer = smollm2()
    start, asked = start_token(model), tokenizer(ASKED).input_ids
    width = 1 + LENGTH + len(asked)
    held = {}
    for split, texts in intents.texts.items():
        rows = [[start, *own[:LENGTH], *asked] for own in tokenizer(list(texts)).input_ids]
        filled = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]
        held[split] = torch.tensor(filled, dtype=torch.int32)
    count = {"train": TRAINED}
    found = intents.labelled(held)
    return {split: few(own, count.get(split, TESTED)) for split, own in found.items()}


def _clinc(data: Splits, seed: int) -> list[Task]:
    del seed
    return domains("clinc150", data)


def _banking(data: Splits, seed: int) -> list[Task]:
    del seed
    return domains("banking77", data)


def _generated(
    setup: Setup, settings: Settings, make: Callable[..., Method], told: bool = False
) -> Classifier:
    model = setup.network()
    method = make(setup, settings)
    method.attach(model)
    if method.wants_old:
        method.calibrate(own_samples(model, CALIBRATION, CALIBRATED, seed=setup.seed), setup.seed)
    return GeneratedLabels(method, answers(setup.stream.data), told=told)


def _levels(setup: Setup, settings: Settings) -> Method:
    return Levels(default_levels(settings["lr"]), rest=DEFAULT_REST, seed=setup.seed)


def _rehearsing(setup: Setup, settings: Settings) -> Method:
    return Rehearsing(settings["lr"], Rehearsal(ahead=AHEAD, seed=setup.seed))


def _in_context(setup: Setup, settings: Settings) -> Classifier:
    model = setup.network()
    own = answers(setup.stream.data)
    return InContext(model, own, each=settings["each"], longest=positions(model))


def _tuned(setup: Setup, settings: Settings) -> Method:
    del setup
    return FineTuning(settings["lr"])


_RATES: Mapping[str, tuple[float, ...]] = {"lr": (3e-5, 1e-4)}
GENERATING: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("ordinary", partial(_generated, make=_tuned), _RATES),
        Entry(JOINT, partial(_generated, make=_tuned), _RATES),
        Entry("in context", _in_context, {"each": (1, 2)}, stores=True, passes=1),
        Entry(
            "rehearsal, told", partial(_generated, make=_rehearsing, told=True), _RATES, ours=True, told=True
        ),
        Entry("levels", partial(_generated, make=_levels), {"lr": (3e-3, 1e-2)}, ours=True),
    )
}


def _of(name: str, source: str, cut: Callable[[Splits, int], list[Task]]) -> ClassificationStream:
    return ClassificationStream(
        name, f"{TITLES[source]}, their names written by SmolLM2-135M-Instruct", source, questions, cut,
        GENERATING, "class", batch_size=8, epochs=1, every=NEVER, build=Pretrained(), seeds=1, trials=2,
    )  # fmt: skip


GENERATED = (_of("clinc-smollm2", "clinc150", _clinc), _of("banking-smollm2", "banking77", _banking))
