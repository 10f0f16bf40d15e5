"""The ways in which a language model learns to answer, and what is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

from torch import Tensor, nn

from nestlearn.bench.base import JOINT, Entry, Settings
from nestlearn.bench.generation.answers import answer_loss, answered
from nestlearn.bench.generation.context import InContext
from nestlearn.bench.generation.material import Material
from nestlearn.bench.generation.packing import answer_logits, pack
from nestlearn.continual.methods import FineTuning, Levels, Method
from nestlearn.levels import Level
from nestlearn.retrofitting import own_samples
from nestlearn.streams.tasks import Labelled


class Answering(Protocol):
    """Whatever learns to answer.

    :meth:`end_task` is there for methods that are told; none of those here listens to it.
    """

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step on sentences ``[B, L]`` of classes ``[B]``; the loss before it."""

    def end_task(self, data: Labelled) -> None:
        """The task is over."""

    def right(self, data: Labelled) -> Tensor:
        """Which sentences get exactly their intent, ``[n]``."""

    def stored_bytes(self) -> int:
        """Bytes that are kept besides weights and the optimizer's state."""


@dataclass(frozen=True, eq=False)
class Setup:
    """What a method is made for.

    Attributes:
        material: Model, sentences and answers; methods make copies of what they change.
        own_tokens: Of the model's own text, which says what it knew.
        seed: Of draws.
    """

    material: Material
    own_tokens: int
    seed: int


class AnswerTuning(FineTuning):
    """Fine-tuning on packed rows of sentences, of which the answers are learned."""

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy of the answers' tokens in a row ``[1, N, 3]``."""
        return answer_loss(self.model, batch)


class AnswerLevels(Levels):
    """Levels on packed rows of sentences, of which the answers are learned."""

    def losses(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The same twice: nothing is rehearsed."""
        loss = answer_loss(self.model, batch)
        return loss, loss.detach()


class Trained:
    """A method that changes the model's weights.

    Args:
        method: Its steps take packed rows.
        material: The answers.
    """

    def __init__(self, method: Method, material: Material) -> None:
        self.method, self.material = method, material

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step on sentences ``[B, L]`` of classes ``[B]``.

        Returns:
            The loss before it, in nats a token of the answers.

        Raises:
            NonFiniteGradientError: See :meth:`nestlearn.continual.methods.Method.step`.
        """
        return self.method.step(pack(list(inputs), self.material.named(labels)))

    def end_task(self, data: Labelled) -> None:
        """Nothing: none of them is told when a task ends."""

    def right(self, data: Labelled) -> Tensor:
        """Which sentences get exactly their intent, ``[n]``."""
        speaker = partial(answer_logits, self.method.model)
        return answered(speaker, data.inputs, self.material.named(data.classes))

    def stored_bytes(self) -> int:
        """What the method keeps."""
        return self.method.stored_bytes()


@lru_cache(maxsize=2)
def own_texts(model: nn.Module, tokens: int, seed: int) -> tuple[Tensor, ...]:
    """About so many tokens of the model's own text, in batches ``[B, T]`` of at most 16; drawn once a model.

    Many are drawn together, since a step of drawing costs as much for few; fewer are looked at together,
    since predictions of all tokens are large.
    """
    drawn = own_samples(model, tokens, batch_size=DRAWN, seed=seed)
    return tuple(part for batch in drawn for part in batch.split(16))


#: Texts that a model draws at a time.
DRAWN = 64
#: Steps of the slow level between two updates.
SLOW = 4
#: Tokens of a step, about; the clock of levels counts tokens.
STEP = 256


def make_levels(setup: Setup, settings: Settings) -> Answering:
    """Two levels of hidden units that notice by themselves what is new; the fast one also owns the rest.

    What the model knew is what it says itself: its own text is protected before anything is learned.
    """
    shared = {"consolidate": True, "optimizer": "damped_adam", "eigenbasis": True, "output_strength": 1.0,
              "contexts": "mean", "refresh": STEP, "strength": settings["strength"],
              "lr": settings["lr"]}  # fmt: skip
    levels = [Level("fast", 1, **shared), Level("slow", SLOW * STEP, **shared)]
    method = AnswerLevels(levels, rest="fast", seed=setup.seed)
    model = setup.material.model
    method.attach(model)
    if setup.own_tokens:
        method.calibrate(own_texts(model, setup.own_tokens, setup.seed), setup.seed)
    return Trained(method, setup.material)


def make_tuning(setup: Setup, settings: Settings) -> Answering:
    """Ordinary fine-tuning of everything."""
    method = AnswerTuning(settings["lr"])
    method.attach(setup.material.model)
    return Trained(method, setup.material)


def make_context(setup: Setup, settings: Settings) -> Answering:
    """The unchanged model, with examples in its prompt."""
    return InContext(setup.material, settings["shots"], setup.seed)


RATES: Sequence[float] = (3e-5, 1e-4)
METHODS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("ordinary", make_tuning, {"lr": RATES}),
        Entry(JOINT, make_tuning, {"lr": RATES}),
        Entry("levels", make_levels, {"lr": (3e-3,), "strength": (0.3,)}, ours=True),
        Entry("in context", make_context, {"shots": (1, 2)}, stores=True, passes=1),
    )
}
