"""A stream of classification tasks, and the network that learns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import nn

from nestlearn.bench.base import (
    JOINT,
    SEARCHED_TASKS,
    BenchStream,
    Entry,
    Measures,
    Settings,
    rounded,
    rounded_row,
)
from nestlearn.bench.classification.measures import MEASURES, MEASURES_OF_ROUNDS
from nestlearn.bench.store import Record
from nestlearn.continual.classification import Classifier, run_stream
from nestlearn.continual.classification import Record as Run
from nestlearn.continual.classification.run import accuracies
from nestlearn.continual.plasticity import plasticity
from nestlearn.continual.storage import size_of
from nestlearn.streams.tasks import Labelled, Splits, Task, TaskStream

#: Batches between evaluations, where there is one at the end of each task only.
NEVER = 10**9
#: Of more tasks the whole matrix is not kept.
MATRIX_TASKS = 50


class Builder(Protocol):
    """Makes a stream's networks, where they are no perceptrons."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells its networks from those of another one, for JSON."""

    @property
    def described(self) -> str:
        """The network, a few words for the page."""

    def __call__(self, outputs: int) -> nn.Module:
        """A new network: inputs ``[B, ...]`` to scores ``[B, outputs]``. It draws by torch's generator."""


@dataclass(frozen=True)
class ClassificationStream(BenchStream):
    """Classification tasks as every method meets them.

    Attributes:
        name: See :class:`BenchStream`, as title, seeds, trials, searched_tasks, published, source and
            left_out.
        data: Which examples.
        load: Gives them, with flat inputs, by the name of the data.
        cut: Makes tasks of them, for a seed.
        table: The methods of its kind.
        scenario: See :class:`~nestlearn.streams.tasks.TaskStream`.
        batch_size: Likewise.
        epochs: Likewise.
        every: Batches between two evaluations; :data:`NEVER` for one at the end of each task.
        hidden: Sizes of the network's hidden layers; none for a linear one.
        build: Makes its networks; None for perceptrons.
        visits: How often each task is visited, one round after the other.
        blur: See :class:`~nestlearn.streams.tasks.TaskStream`.
    """

    name: str
    title: str
    data: str
    load: Callable[[str], Splits]
    cut: Callable[[Splits, int], list[Task]]
    table: Mapping[str, Entry]
    scenario: str
    batch_size: int
    epochs: int
    every: int
    hidden: tuple[int, ...] = (400, 400)
    build: Builder | None = None
    visits: int = 1
    blur: float = 0.0
    seeds: int = 5
    trials: int = 12
    searched_tasks: int = SEARCHED_TASKS
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def measures(self) -> Measures:  # type: ignore[override]
        """See :class:`BenchStream`."""
        return MEASURES if self.visits == 1 else MEASURES_OF_ROUNDS

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`BenchStream`."""
        names = ("name", "data", "scenario", "batch_size", "epochs", "every", "hidden")
        own = {name: getattr(self, name) for name in names}
        if self.build is not None:
            own["hidden"] = dict(self.build.settings)
        further = {"visits": (self.visits, 1), "blur": (self.blur, 0.0)}
        return own | {name: value for name, (value, usual) in further.items() if value != usual}

    @property
    def described(self) -> str:
        """See :class:`BenchStream`."""
        passes = "one pass" if self.epochs == 1 else f"{self.epochs} passes"
        joint = self.entries.get(JOINT)
        longer = "" if joint is None or joint.passes is None else f" (joint training: {joint.passes})"
        again = "" if self.visits == 1 else f", all tasks {self.visits} times in turn"
        looks = "after each task" if self.every == NEVER else f"every {self.every} batches"
        soft = "" if self.blur == 0.0 else f", boundaries blurred over {self.blur:.0%} of a task"
        return (
            f"{self._network}, batches of {self.batch_size}, {passes} "
            f"over each task's examples{longer}{again}{soft}, evaluated {looks}"
        )

    @property
    def _network(self) -> str:
        if self.build is not None:
            return self.build.described
        if not self.hidden:
            return "a linear network"
        layers = "hidden layers" if len(self.hidden) > 1 else "a hidden layer"
        return f"{layers} of {' and '.join(map(str, self.hidden))}"

    def tasks(self, seed: int) -> list[Task]:
        """The tasks."""
        return self.cut(self.load(self.data), seed)

    def stream(self, tasks: Sequence[Task], seed: int) -> TaskStream:
        """The tasks one after the other."""
        order = None if self.visits == 1 else tuple(range(len(tasks))) * self.visits
        return TaskStream(tasks, self.scenario, self.batch_size, self.epochs, seed, order, self.blur)

    def network(self, tasks: Sequence[Task], seed: int) -> nn.Module:
        """A new network; a perceptron has linear layers with ReLU between them."""
        outputs = self.stream(tasks, 0).outputs
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.build is not None:
                return self.build(outputs)
            layers: list[nn.Module] = []
            for into, out in pairwise((width(tasks), *self.hidden, outputs)):
                layers += [nn.Linear(into, out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def run(self, method: str, settings: Settings, seed: int) -> Record:
        """See :class:`BenchStream`."""
        entry, tasks = self.entries[method], self.tasks(seed)
        made, run = learn(self, entry, tasks, settings, seed, "test", every=self.every)
        inputs = torch.cat([task.splits["test"].inputs for task in tasks])[:1000]
        return {
            "accuracy": _mean(run.matrix[-1]),
            **({} if method == JOINT else rounded(self._figures(run, len(tasks)))),
            **_kept(run),
            "stored_bytes": run.stored_bytes,
            "operations": run.operations,
            "seconds": round(run.seconds, 2),
            **(rounded(plasticity(made.network, inputs)) if _has_units(made) else {}),
        }

    def _figures(self, run: Run, tasks: int) -> dict[str, float]:
        if self.visits == 1:
            return run.summary()
        learned = [run.matrix[task][task] for task in range(tasks)]
        return {"learned": _mean(learned), "once": _mean(run.matrix[tasks - 1])}

    def trial(self, method: str, settings: Settings, seed: int, tasks: int) -> float:
        """See :class:`BenchStream`: accuracy on all of these tasks, or on each right after it."""
        entry = self.entries[method]
        _, run = learn(self, entry, self.tasks(seed)[:tasks], settings, seed, "validation")
        learned = [row[i] for i, row in enumerate(run.matrix[:tasks])]
        return _mean(learned if entry.objective == "learned" else run.matrix[-1])


def learn(
    stream: ClassificationStream,
    entry: Entry,
    tasks: list[Task],
    settings: Settings,
    seed: int,
    split: str,
    every: int | None = None,
) -> tuple[Classifier, Run]:
    """Make a method and let it learn tasks; joint training has them all at once."""
    torch.manual_seed(seed)
    if entry.passes is not None:
        every = None if every is None else max(1, every * entry.passes // stream.epochs)
        stream = replace(stream, epochs=entry.passes)
    method = entry.make(Setup(stream, tasks, seed), settings)
    if stream.scenario == "task":
        method.tell([task.classes for task in tasks])
    if entry.name != JOINT:
        return method, run_stream(method, stream.stream(tasks, seed), split, every)
    run = run_stream(method, stream.stream([together(tasks, stream.scenario)], seed), split)
    run.matrix = run.curve = [accuracies(method, tasks, stream.scenario, split)]
    return method, run


@dataclass(frozen=True)
class Setup:
    """What a method is made for.

    Attributes:
        stream: The stream.
        tasks: Its tasks, those of the search being two.
        seed: Of weights, stores and draws.
    """

    stream: ClassificationStream
    tasks: Sequence[Task]
    seed: int

    def network(self) -> nn.Module:
        """A new network."""
        return self.stream.network(self.tasks, self.seed)

    @property
    def outputs(self) -> int:
        """Of the network."""
        return self.stream.stream(self.tasks, 0).outputs

    @property
    def bytes(self) -> int:
        """Of all training examples at the type they have: a store has a share of them."""
        return size_of(*(task.splits["train"].inputs for task in self.tasks))


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


def _kept(run: Run) -> Record:
    """Matrix and curve, the latter only where it has more than the former; of many tasks the diagonal."""
    if len(run.matrix) > MATRIX_TASKS:
        return {"by_task": rounded_row([row[i] for i, row in enumerate(run.matrix)])}
    matrix = [rounded_row(row) for row in run.matrix]
    if len(run.curve) == len(run.matrix):
        return {"matrix": matrix}
    return {"matrix": matrix, "curve": [rounded_row(row) for row in run.curve], "ends": run.ends}


def _has_units(method: Classifier) -> bool:
    """Whether a network has hidden units that can die: ReLU's, of features that somebody trains."""
    trained = any(p.requires_grad for p in method.network.parameters())
    return trained and any(isinstance(module, nn.ReLU) for module in method.network.modules())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
