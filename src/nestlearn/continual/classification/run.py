"""One run of a method along a stream of tasks, and what is measured on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nestlearn.continual.accuracy import (
    average_accuracy,
    backward_transfer,
    chaudhry_forgetting,
    forward_transfer,
    learning_accuracy,
    minimum_accuracy,
    worst_case_accuracy,
)
from nestlearn.continual.classification.base import Classifier
from nestlearn.streams.tasks import Labelled, Task, TaskStream


class Learning(Protocol):
    """What a stream has to know of whatever learns along it: a :class:`Classifier`, or something else."""

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step on inputs ``[B, ...]`` and labels ``[B]``; the loss before it."""

    def end_task(self, data: Labelled) -> None:
        """The task is over; its training examples, labelled as the batches were."""

    def stored_bytes(self) -> int:
        """Bytes that are kept from one task to the next besides weights and the optimizer's own state."""


@dataclass
class Record:
    """What a run was.

    Attributes:
        start: Accuracy on every task before anything was learned.
        matrix: The same after each visit (rows).
        curve: The same at every evaluation.
        ends: The evaluation at the end of each visit.
        stored_bytes: What the method kept at the end besides weights.
        seconds: CPU seconds of learning, without evaluations.
        operations: Of the products of matrices in learning, a multiplication and an addition being two: those
            of each visit's first batch, times its batches, and those at its end.
    """

    start: list[float] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    stored_bytes: int = 0
    seconds: float = 0.0
    operations: int = 0

    def summary(self) -> dict[str, float]:
        """The measures of a stream that visits every task once, in order."""
        return {
            "accuracy": average_accuracy(self.matrix),
            "learned": learning_accuracy(self.matrix),
            "forgetting": chaudhry_forgetting(self.matrix),
            "backward": backward_transfer(self.matrix),
            "forward": forward_transfer(self.matrix, self.start),
            "minimum": minimum_accuracy(self.curve, self.ends),
            "worst": worst_case_accuracy(self.curve, self.ends),
        }


def run_stream(
    method: Classifier, stream: TaskStream, split: str = "test", every: int | None = None
) -> Record:
    """Learn a stream once through.

    Args:
        method: Learns; its network has ``stream.outputs`` outputs.
        stream: The tasks.
        split: What accuracies are measured on.
        every: Batches between two evaluations; None for one at the end of every visit.

    Raises:
        ValueError: For ``every`` below 1, or a loss that is not finite.
    """
    return follow(method, stream, lambda: accuracies(method, stream.tasks, stream.scenario, split), every)


def follow(
    method: Learning, stream: TaskStream, measure: Callable[[], list[float]], every: int | None = None
) -> Record:
    """Learn a stream once through, with a measure of its own.

    Args:
        method: Learns.
        stream: The tasks.
        measure: The accuracy on every task as it is at the moment.
        every: Batches between two evaluations; None for one at the end of every visit.

    Raises:
        ValueError: For ``every`` below 1, and whatever learning raises.
    """
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    record = Record(start=measure())
    batches = of_the_first = 0
    for count, batch in enumerate(stream, start=1):
        began = time.process_time()
        with _counted(batches == 0) as operations:
            method.learn(batch.inputs, batch.labels)
        batches, of_the_first = batches + 1, operations() if batches == 0 else of_the_first
        if batch.ends:
            task = stream.tasks[batch.task]
            own = task.splits["train"]
            with _counted(True) as operations:
                method.end_task(Labelled(own.inputs, task.labels(own.classes, stream.scenario)))
            record.operations += batches * of_the_first + operations()
            batches = 0
        record.seconds += time.process_time() - began
        if batch.ends or (every is not None and count % every == 0):
            record.curve.append(measure())
        if batch.ends:
            record.matrix.append(record.curve[-1])
            record.ends.append(len(record.curve) - 1)
    record.stored_bytes = method.stored_bytes()
    return record


@contextmanager
def _counted(wanted: bool) -> Iterator[Callable[[], int]]:
    """Count operations within it, if they are wanted."""
    if not wanted:
        yield lambda: 0
        return
    with FlopCounterMode(display=False) as counter:
        yield counter.get_total_flops


def accuracies(method: Classifier, tasks: Sequence[Task], scenario: str, split: str) -> list[float]:
    """Accuracy on every task; in the task scenario among the task's own classes only."""
    found = []
    for task in tasks:
        part = task.splits[split]
        scores = method.scores(part.inputs)
        if scenario == "task":
            scores = _among(scores, task.classes)
        right = scores.argmax(-1).cpu() == task.labels(part.classes, scenario)
        found.append(float(right.double().mean()))
    return found


def _among(scores: Tensor, classes: Sequence[int]) -> Tensor:
    """The scores, with those of other classes at minus infinity."""
    own = torch.full_like(scores, -torch.inf)
    own[:, list(classes)] = scores[:, list(classes)]
    return own
