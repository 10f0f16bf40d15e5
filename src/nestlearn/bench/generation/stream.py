"""A stream of intents, learned by a language model that answers with an intent's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import torch

from nestlearn.bench.base import JOINT, BenchStream, Entry, Measures, Settings, rounded, rounded_row
from nestlearn.bench.classification.measures import MEASURES
from nestlearn.bench.classification.stream import together
from nestlearn.bench.generation.material import ASKED, END, Material, load_material
from nestlearn.bench.generation.methods import METHODS, SLOW, STEP, Answering, Setup
from nestlearn.bench.store import Record
from nestlearn.continual.classification import Record as Run
from nestlearn.continual.classification.run import follow
from nestlearn.streams.tasks import Task, TaskStream, split_by_class


@dataclass(frozen=True, eq=False)
class GenerationStream(BenchStream):
    """Intents as every method meets them: one space of names, and nobody says which task a sentence is of.

    Attributes:
        name: See :class:`BenchStream`, as title, seeds, trials, published, source and left_out.
        data: Which sentences, and how many of each intent.
        load: Gives them, and the model, by the name of the data.
        batch_size: Sentences of a step.
        passes: Over each task's sentences.
        own_tokens: Of the model's own text, for what protects what it knew.
        table: The methods of its kind.
    """

    name: str
    title: str
    data: str
    load: Callable[[str], Material] = load_material
    batch_size: int = 16
    passes: int = 2
    own_tokens: int = 8192
    table: Mapping[str, Entry] = field(default_factory=lambda: METHODS)
    seeds: int = 1
    trials: int = 2
    left_out: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    measures: Measures = MEASURES

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`BenchStream`."""
        names = ("name", "data", "batch_size", "passes", "own_tokens")
        shared = {"kind": "generation", "asked": ASKED, "end": END, "clock": [SLOW, STEP]}
        return {name: getattr(self, name) for name in names} | shared

    @property
    def described(self) -> str:
        """See :class:`BenchStream`."""
        _, train, _, test = self.data.split("/")
        passes = "one pass" if self.passes == 1 else f"{self.passes} passes"
        return (
            "SmolLM2-135M-Instruct in bfloat16, which writes the intent's name after a sentence and is right "
            "if greedy generation gives exactly this name; the loss is on the name's tokens. "
            f"{train} training and {test} test sentences of each intent, batches of {self.batch_size}, "
            f"{passes}, evaluated after each task"
        )

    def tasks(self) -> list[Task]:
        """The tasks."""
        material = self.load(self.data)
        return split_by_class(material.splits, material.groups)

    def run(self, method: str, settings: Settings, seed: int) -> Record:
        """See :class:`BenchStream`."""
        run = learn(self, self.entries[method], self.tasks(), settings, seed, "test")
        return {
            "accuracy": mean(run.matrix[-1]),
            **({} if method == JOINT else rounded(run.summary())),
            "matrix": [rounded_row(row) for row in run.matrix],
            "stored_bytes": run.stored_bytes,
            "seconds": round(run.seconds, 1),
        }

    def trial(self, method: str, settings: Settings, seed: int, tasks: int) -> float:
        """See :class:`BenchStream`: accuracy on all of these tasks."""
        run = learn(self, self.entries[method], self.tasks()[:tasks], settings, seed, "validation")
        return mean(run.matrix[-1])


def learn(
    stream: GenerationStream,
    entry: Entry,
    tasks: Sequence[Task],
    settings: Settings,
    seed: int,
    split: str,
) -> Run:
    """Make a method and let it learn tasks; joint training has them all at once, and is asked at its end.

    Raises:
        ValueError: It diverged.
    """
    torch.manual_seed(seed)
    material = stream.load(stream.data)
    method: Answering = entry.make(Setup(material, stream.own_tokens, seed), settings)
    own = [together(tasks, "class")] if entry.name == JOINT else tasks
    passes = stream.passes if entry.passes is None else entry.passes
    batches = TaskStream(own, "class", stream.batch_size, passes, seed)
    return follow(method, batches, lambda: accuracies(method, tasks, split))


def accuracies(method: Answering, tasks: Sequence[Task], split: str) -> list[float]:
    """The share of each task's sentences that get exactly their intent's name."""
    return [float(method.right(task.splits[split]).double().mean()) for task in tasks]
