"""Streams of classification tasks: by class, permuted, with sharp or blurred boundaries, once or again.

>>> tasks = split_by_class(load_digits(), [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)])  # doctest: +SKIP
>>> for batch in TaskStream(tasks, scenario="class", batch_size=64, epochs=20):  # doctest: +SKIP
...     learn(batch.inputs, batch.labels)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")
SCENARIOS = ("class", "domain", "task")


@dataclass(frozen=True)
class Labelled:
    """Examples with their classes.

    Attributes:
        inputs: ``[n, ...]``.
        classes: ``[n]``, whole numbers from 0 on.

    Raises:
        ValueError: If their lengths differ.
    """

    inputs: Tensor
    classes: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.classes):
            raise ValueError(f"there are {len(self.inputs)} inputs and {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: Tensor) -> Labelled:
        return Labelled(self.inputs[index], self.classes[index])


Splits = Mapping[str, Labelled]


@dataclass(frozen=True)
class Task:
    """A part of what is to be learned.

    Attributes:
        name: For people.
        splits: Its examples, by split.
        classes: The classes that occur.
    """

    name: str
    splits: Splits
    classes: tuple[int, ...]

    def labels(self, classes: Tensor, scenario: str) -> Tensor:
        """What a network has to say: the class, or in the domain scenario its place among the task's own."""
        if scenario != "domain":
            return classes
        places = torch.full((max(self.classes) + 1,), -1)
        places[list(self.classes)] = torch.arange(len(self.classes))
        return places[classes]


def split_by_class(data: Splits, groups: Sequence[Sequence[int]]) -> list[Task]:
    """One task for each group of classes.

    Raises:
        ValueError: A group is empty, a class is in two groups, or has no training example.
    """
    named = [c for group in groups for c in group]
    if not all(groups) or len(set(named)) != len(named):
        raise ValueError(
            f"every task has classes, every class one task; got {[list(group) for group in groups]}"
        )
    missing = sorted(set(named) - set(data["train"].classes.tolist()))
    if missing:
        raise ValueError(f"there are no training examples of {missing}")
    tasks = []
    for group in groups:
        own = {
            name: part[torch.isin(part.classes, torch.tensor(list(group))).nonzero().flatten()]
            for name, part in data.items()
        }
        tasks.append(Task(" ".join(map(str, group)), own, tuple(group)))
    return tasks


def permuted(data: Splits, count: int, seed: int = 0) -> list[Task]:
    """Tasks that show the same examples with their numbers in another order; the first as they are.

    Args:
        data: Examples whose inputs are flattened to ``[n, numbers]``.
        count: How many tasks.
        seed: Of the orders.

    Raises:
        ValueError: For less than one task.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    generator = torch.Generator().manual_seed(seed)
    flat = {name: Labelled(part.inputs.flatten(1), part.classes) for name, part in data.items()}
    size = flat["train"].inputs.shape[1]
    classes = tuple(sorted(set(flat["train"].classes.tolist())))
    tasks = []
    for i in range(count):
        order = torch.arange(size) if i == 0 else torch.randperm(size, generator=generator)
        own = {name: Labelled(part.inputs[:, order], part.classes) for name, part in flat.items()}
        tasks.append(Task(f"permutation {i}", own, classes))
    return tasks


@dataclass(frozen=True)
class Batch:
    """Examples to learn from.

    Attributes:
        inputs: ``[B, ...]``.
        labels: ``[B]``.
        task: Which task is on, for methods that may know; a blurred batch has examples of others too.
        ends: Whether it is the last one of a visit to the task.
    """

    inputs: Tensor
    labels: Tensor
    task: int
    ends: bool


@dataclass(frozen=True)
class TaskStream:
    """Tasks one after the other, every visit shuffled anew.

    Args:
        tasks: The tasks.
        scenario: ``"class"``: one head for the classes of all tasks. ``"domain"``: one head for the places of
            the classes within their tasks. ``"task"``: labels as for ``"class"``, and the task is told when
            it is tested (van de Ven & Tolias 2019, arXiv 1904.07734).
        batch_size: Examples of a batch; the last one of a visit may be smaller.
        epochs: Passes over a task's examples in a visit.
        seed: Of the order.
        visits: Which task comes when; each once by default.
        blur: Examples change places across a boundary within this share of a visit's length; 0 for none.

    Raises:
        ValueError: For a value outside its range, or tasks of different numbers of classes in the domain
            scenario.
    """

    tasks: Sequence[Task]
    scenario: str = "class"
    batch_size: int = 64
    epochs: int = 1
    seed: int = 0
    visits: Sequence[int] | None = None
    blur: float = 0.0

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("a stream needs at least one task")
        if self.scenario not in SCENARIOS:
            raise ValueError(f"scenario must be one of {', '.join(SCENARIOS)}; got {self.scenario!r}")
        if min(self.batch_size, self.epochs) < 1:
            raise ValueError(f"batch_size and epochs must be 1 or more; got {self.batch_size}, {self.epochs}")
        if not 0.0 <= self.blur <= 1.0:
            raise ValueError(f"blur must lie between 0 and 1, got {self.blur}")
        if not self.order or not all(0 <= task < len(self.tasks) for task in self.order):
            raise ValueError(f"visits must name tasks from 0 to {len(self.tasks) - 1}; got {self.visits}")
        if self.scenario == "domain" and len({len(task.classes) for task in self.tasks}) > 1:
            raise ValueError("in the domain scenario all tasks must have the same number of classes")

    @property
    def order(self) -> tuple[int, ...]:
        """The task of each visit."""
        return tuple(range(len(self.tasks)) if self.visits is None else self.visits)

    @property
    def outputs(self) -> int:
        """How many outputs a network needs."""
        if self.scenario == "domain":
            return len(self.tasks[0].classes)
        return 1 + max(c for task in self.tasks for c in task.classes)

    def __iter__(self) -> Iterator[Batch]:
        """The batches; the same ones every time."""
        places, lengths = self._examples()
        start = 0
        for visit, length in enumerate(lengths):
            for offset in range(start, start + length, self.batch_size):
                chosen = places[offset : min(offset + self.batch_size, start + length)]
                ends = offset + self.batch_size >= start + length
                yield self._batch(chosen, self.order[visit], ends)
            start += length

    def _examples(self) -> tuple[Tensor, list[int]]:
        """Task and index ``[n, 2]`` of every example of the stream, and the length of each visit."""
        generator = torch.Generator().manual_seed(self.seed)
        parts, times = [], []
        lengths: list[int] = []
        for task in self.order:
            count = len(self.tasks[task].splits["train"])
            index = torch.cat([torch.randperm(count, generator=generator) for _ in range(self.epochs)])
            parts.append(torch.stack([torch.full_like(index, task), index], dim=1))
            shift = (2.0 * torch.rand(len(index), generator=generator) - 1.0) * self.blur * len(index)
            times.append(sum(lengths) + torch.arange(len(index)) + shift)
            lengths.append(len(index))
        places = torch.cat(parts)
        return (places if self.blur == 0.0 else places[torch.cat(times).argsort(stable=True)]), lengths

    def _batch(self, places: Tensor, task: int, ends: bool) -> Batch:
        inputs, labels = [], []
        for own in places[:, 0].unique().tolist():
            part = self.tasks[own].splits["train"][places[places[:, 0] == own, 1]]
            inputs.append(part.inputs)
            labels.append(self.tasks[own].labels(part.classes, self.scenario))
        return Batch(torch.cat(inputs), torch.cat(labels), task, ends)
