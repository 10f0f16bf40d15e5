"""A run along a stream: when it is evaluated, and on what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nestlearn.continual.classification import Ordinary, run_stream, sgd
from nestlearn.continual.classification.run import accuracies
from nestlearn.streams.tasks import TaskStream
from tests.continual.classification.test_methods import CLASSES, SIZE, network, stream


def test_evaluations_are_where_they_are_asked_for() -> None:
    own = stream(batch_size=16, epochs=1)  # five batches a task
    record = run_stream(Ordinary(network(), sgd(0.1)), own, every=2)
    assert record.ends == [2, 5]  # after 2, 4, 5 and 6, 8, 10 batches
    assert len(record.curve) == 6
    assert record.matrix == [record.curve[2], record.curve[5]]
    plain = run_stream(Ordinary(network(), sgd(0.1)), own)
    assert plain.curve == plain.matrix == record.matrix
    assert plain.seconds > 0.0
    names = {"accuracy", "learned", "forgetting", "backward", "forward", "minimum", "worst"}
    assert set(plain.summary()) == names


def test_operations_are_those_of_every_batch() -> None:
    own = stream(batch_size=16, epochs=1)  # five batches of 16 a task
    record = run_stream(Ordinary(network(), sgd(0.1)), own)
    first, second = 2 * 16 * SIZE * 16, 2 * 16 * 16 * CLASSES  # of one product with each weight
    # Forward, the gradients of both weights, and that of the hidden layer.
    assert record.operations == 2 * 5 * (2 * first + 3 * second)


def test_an_untrained_network_is_evaluated_first() -> None:
    own, untrained = stream(), Ordinary(network(), sgd(0.1))
    expected = accuracies(untrained, own.tasks, "class", "test")
    record = run_stream(untrained, own)
    assert record.start == expected
    assert record.summary()["forward"] == pytest.approx(record.matrix[0][1] - expected[1])


def test_accuracy_by_scenario() -> None:
    """A network that always says class 2."""
    linear = nn.Linear(SIZE, CLASSES)
    nn.init.zeros_(linear.weight)
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([0.1, 0.2, 0.9, 0.0]))
    method, own = Ordinary(linear), stream()
    assert accuracies(method, own.tasks, "class", "test") == [0.0, 0.5]
    # Among its own classes the first task's are 0 and 1, and 1 is said.
    assert accuracies(method, own.tasks, "task", "test") == [0.5, 0.5]
    two = nn.Linear(SIZE, 2)
    nn.init.zeros_(two.weight)
    with torch.no_grad():
        two.bias.copy_(torch.tensor([1.0, 0.0]))
    assert accuracies(Ordinary(two), own.tasks, "domain", "test") == [0.5, 0.5]


def test_recurring_tasks_have_a_row_for_each_visit() -> None:
    own = TaskStream(stream().tasks, batch_size=64, visits=(0, 1, 0))
    record = run_stream(Ordinary(network(), sgd(0.1)), own)
    assert len(record.matrix) == 3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        run_stream(Ordinary(network()), stream(), every=0)
