"""One run of a method along a stream of tasks, and what is measured on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nestlearn.continual.accuracy import (
    average_accuracy,
    backward_transfer,
    chaudhry_forgetting,
    learning_accuracy,
    minimum_accuracy,
)
from nestlearn.continual.classification.base import Classifier
from nestlearn.streams.tasks import Labelled, Task, TaskStream


@dataclass
class Record:
    """What a run was.

    Attributes:
        matrix: Accuracy on every task (columns) after each visit (rows).
        curve: The same at every evaluation.
        ends: The evaluation at the end of each visit.
        stored_bytes: What the method kept at the end besides weights.
        seconds: CPU seconds of learning, without evaluations.
    """

    matrix: list[list[float]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    stored_bytes: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, float]:
        """The measures of a stream that visits every task once, in order."""
        return {
            "accuracy": average_accuracy(self.matrix),
            "learned": learning_accuracy(self.matrix),
            "forgetting": chaudhry_forgetting(self.matrix),
            "backward": backward_transfer(self.matrix),
            "minimum": minimum_accuracy(self.curve, self.ends),
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
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    record = Record()
    for count, batch in enumerate(stream, start=1):
        began = time.process_time()
        method.learn(batch.inputs, batch.labels)
        if batch.ends:
            task = stream.tasks[batch.task]
            own = task.splits["train"]
            method.end_task(Labelled(own.inputs, task.labels(own.classes, stream.scenario)))
        record.seconds += time.process_time() - began
        if batch.ends or (every is not None and count % every == 0):
            record.curve.append(accuracies(method, stream.tasks, stream.scenario, split))
        if batch.ends:
            record.matrix.append(record.curve[-1])
            record.ends.append(len(record.curve) - 1)
    record.stored_bytes = method.stored_bytes()
    return record


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
