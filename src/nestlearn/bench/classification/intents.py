"""Streams of intents, class-incremental with one head: CLINC150 by domain, Banking77 by eleven intents.

Two of them learn on features of the frozen encoder, where every method has the same; in the other two the
encoder itself is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.bench.base import JOINT, Entry
from nestlearn.bench.classification.encoder import ENCODER_METHODS, LAYERS, EncoderBuilder, minilm
from nestlearn.bench.classification.methods import METHODS
from nestlearn.bench.classification.stream import ClassificationStream, width
from nestlearn.continual.classification import Classifier, ClassMeans, ExactHead, Ordinary, adam
from nestlearn.models.encoders import load_encoder, load_features, tokenize
from nestlearn.streams.intents import load_intents
from nestlearn.streams.tasks import Labelled, Splits, Task, split_by_class

if TYPE_CHECKING:
    from nestlearn.bench.base import Settings
    from nestlearn.bench.classification.stream import Setup

#: Tokens of a sentence, those at both ends included: 1.4 % of Banking77's are cut, none of CLINC150's.
LENGTH = 48
#: Sentences of an intent where the encoder is trained, which costs most: of CLINC150 half, and a third.
TRAINED, TESTED = 50, 10
#: Passes of joint training, the upper bound, where a pass costs little.
JOINT_PASSES = 20
TITLES = {
    "clinc150": "CLINC150 in ten domains of fifteen intents",
    "banking77": "Banking77 in seven steps of eleven intents",
}


@lru_cache(maxsize=2)
def features(source: str) -> Splits:
    """Sentences as what the frozen encoder makes of them ``[n, 1152]``.

    The means over tokens of the upper half of its layers, each of length ``sqrt(384)``: numbers of a mean
    square of 1.

    Args:
        source: See :func:`~nestlearn.streams.intents.load_intents`.

    Raises:
        DataError: See there, and :func:`~nestlearn.models.encoders.load_features`.
    """
    held = load_features(load_intents(source), "minilm", layers=LAYERS)
    return {name: Labelled(unit(own.inputs, len(LAYERS)), own.classes) for name, own in held.items()}


def unit(values: Tensor, layers: int) -> Tensor:
    """Features ``[n, layers * m]``, every layer's ``m`` brought to length ``sqrt(m)``."""
    own = values.unflatten(1, (layers, -1))
    found: Tensor = (F.normalize(own, dim=-1) * own.shape[-1] ** 0.5).flatten(1)
    return found


@lru_cache(maxsize=2)
def tokens(data: str) -> Splits:
    """Sentences as tokens ``[n, 48]``, whole numbers of four bytes.

    Of each intent at most 10 are for testing.

    Args:
        data: ``"clinc150/50"``: the source, and how many sentences of an intent are for training at most.

    Raises:
        DataError: See :func:`~nestlearn.streams.intents.load_intents`, and
            :func:`~nestlearn.models.encoders.load_encoder`.
    """
    source, count = data.split("/")
    intents = load_intents(source)
    _, tokenizer = load_encoder("minilm")
    rows = {name: tokenize(texts, tokenizer, LENGTH).to(torch.int32) for name, texts in intents.texts.items()}
    found = intents.labelled(rows)
    return {**found, "train": few(found["train"], int(count)), "test": few(found["test"], TESTED)}


def few(data: Labelled, count: int) -> Labelled:
    """At most so many examples of every class, drawn with seed 0, in their order."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    classes = data.classes[order]
    kept = [order[(classes == own).nonzero().flatten()[:count]] for own in classes.unique().tolist()]
    return data[torch.cat(kept).sort().values]


def domains(source: str, data: Splits) -> list[Task]:
    """One task for each group of intents."""
    return split_by_class(data, load_intents(source).groups)


def _clinc(data: Splits, seed: int) -> list[Task]:
    del seed
    return domains("clinc150", data)


def _banking(data: Splits, seed: int) -> list[Task]:
    del seed
    return domains("banking77", data)


def _linear(setup: Setup, settings: Settings) -> Classifier:
    """A linear network, whatever the stream's is."""
    own = replace(setup.stream, hidden=(), build=None)
    return Ordinary(own.network(setup.tasks, setup.seed), adam(settings["lr"]))


def _exact_linear(setup: Setup, settings: Settings) -> Classifier:
    """A linear head on the features themselves."""
    return ExactHead(nn.Flatten(), width(setup.tasks), setup.outputs, ridge=settings["ridge"])


_OWN: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        replace(METHODS[JOINT], space={"lr": (1e-4, 3e-4, 1e-3)}, passes=JOINT_PASSES),
        Entry("class means", lambda s, o: ClassMeans(nn.Flatten(), width(s.tasks), s.outputs), passes=1),
        Entry("linear probe", _linear, METHODS["ordinary"].space),
        Entry("exact head, linear", _exact_linear, {"ridge": (1e-3, 1e-2, 1e-1, 1.0)}, ours=True, passes=1),
    )
}
#: Of features that are frozen; class means are those of the features, not of random ones on top.
INTENT_METHODS: Mapping[str, Entry] = {**METHODS, **_OWN}


_HERE = "LoRA changes hidden layers that know something, and nobody trained those of this network"
_LONG = "compared on the frozen encoder; here every step costs a hundred times as much"
_NORMS = "for networks of linear layers alone, and an encoder's norms are trained, too"
_NO_MATTER = {
    name: _NORMS if name in ("owm", "gpm", "continual backprop") else _LONG
    for name in INTENT_METHODS
    if name not in ENCODER_METHODS
}


def _frozen(name: str, source: str, **further: Any) -> ClassificationStream:
    return ClassificationStream(
        name, f"{TITLES[source]}, class-incremental, on a frozen encoder", source, features,
        table=INTENT_METHODS, scenario="class", batch_size=64, epochs=5, hidden=(256,), trials=8,
        left_out={"lora": _HERE}, **further,
    )  # fmt: skip


def _trained(name: str, source: str, **further: Any) -> ClassificationStream:
    return ClassificationStream(
        name, f"{TITLES[source]}, class-incremental, the encoder trained on {TRAINED} sentences of each",
        f"{source}/{TRAINED}", tokens,
        table=ENCODER_METHODS, scenario="class", batch_size=16, epochs=1, seeds=2, trials=4,
        build=EncoderBuilder(minilm), left_out=_NO_MATTER, **further,
    )  # fmt: skip


INTENTS = (
    _frozen("clinc", "clinc150", cut=_clinc, every=30),
    _frozen("banking", "banking77", cut=_banking, every=26),
    _trained("clinc-encoder", "clinc150", cut=_clinc, every=24),
    _trained("banking-encoder", "banking77", cut=_banking, every=18),
)
