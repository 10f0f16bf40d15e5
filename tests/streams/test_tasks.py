"""Streams of tasks: every example once an epoch, in the right place, and the same every time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestlearn.streams.tasks import SCENARIOS, SPLITS, Labelled, TaskStream, permuted, split_by_class

CLASSES, EACH = 6, 7


def data() -> dict[str, Labelled]:
    """Inputs ``[n, 2, 2]`` whose first number names the example."""
    found = {}
    for offset, name in enumerate(SPLITS):
        classes = torch.arange(CLASSES).repeat_interleave(EACH)
        inputs = torch.zeros(len(classes), 2, 2)
        inputs[:, 0, 0] = torch.arange(len(classes)) + 1000.0 * offset
        inputs[:, 1, 1] = classes
        found[name] = Labelled(inputs, classes)
    return found


def tasks() -> list[Any]:
    return split_by_class(data(), [(4, 1), (0, 5), (2, 3)])


def test_every_class_is_in_its_task() -> None:
    for task, group in zip(tasks(), [(4, 1), (0, 5), (2, 3)], strict=True):
        assert task.classes == group
        for part in task.splits.values():
            assert set(part.classes.tolist()) == set(group)
            assert len(part) == 2 * EACH
            assert torch.equal(part.inputs[:, 1, 1].long(), part.classes)


def test_labels_by_scenario() -> None:
    first = tasks()[0]
    classes = torch.tensor([1, 4, 4, 1])
    assert first.labels(classes, "class").tolist() == [1, 4, 4, 1]
    assert first.labels(classes, "task").tolist() == [1, 4, 4, 1]
    assert first.labels(classes, "domain").tolist() == [1, 0, 0, 1]
    assert [TaskStream(tasks(), scenario).outputs for scenario in SCENARIOS] == [6, 2, 6]


def test_permutations_keep_the_numbers_and_are_the_same_for_all_splits() -> None:
    shown = permuted(data(), 3, seed=1)
    assert torch.equal(shown[0].splits["train"].inputs, data()["train"].inputs.flatten(1))
    places = set()
    for task in shown:
        for name, part in task.splits.items():
            own = data()[name].inputs.flatten(1)
            # The first pixel is one of a kind in each split, so its place tells the order.
            place = int((part.inputs[1] == own[1, 0]).nonzero())
            last = int((part.inputs[-1] == own[-1, 3]).nonzero())
            places.add((task.name, place, last))
            assert torch.equal(part.inputs.sort(1).values, own.sort(1).values)
            assert torch.equal(part.classes, data()[name].classes)
    assert len(places) == len(shown)  # one order a task
    orders = [task.splits["test"].inputs[-1].tolist() for task in shown]
    assert torch.equal(permuted(data(), 3, seed=1)[2].splits["test"].inputs, shown[2].splits["test"].inputs)
    assert len({tuple(order) for order in orders}) > 1


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 40),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
    blur=st.sampled_from([0.0, 0.1, 1.0]),
    visits=st.sampled_from([None, (1,), (0, 2, 0, 1), (2, 2)]),
)
def test_every_example_comes_once_an_epoch(
    size: int, epochs: int, seed: int, blur: float, visits: tuple[int, ...] | None
) -> None:
    own = tasks()
    stream = TaskStream(own, "class", size, epochs, seed, visits, blur)
    batches = list(stream)
    seen = torch.cat([batch.inputs[:, 0, 0] for batch in batches])
    wanted = torch.cat(
        [own[task].splits["train"].inputs[:, 0, 0] for task in stream.order for _ in range(epochs)]
    )
    assert torch.equal(seen.sort().values, wanted.sort().values)
    assert all(torch.equal(batch.inputs[:, 1, 1].long(), batch.labels) for batch in batches)
    assert [batch.task for batch in batches if batch.ends] == list(stream.order)
    assert all(len(batch.labels) <= size for batch in batches)
    for batch, again in zip(batches, stream, strict=True):
        assert torch.equal(batch.inputs, again.inputs)


def test_sharp_boundaries_have_no_stranger_and_blurred_ones_do() -> None:
    for blur, strangers in ((0.0, False), (0.3, True)):
        stream = TaskStream(tasks(), "class", 4, 4, blur=blur)
        mixed = [set(batch.labels.tolist()) - set(tasks()[batch.task].classes) for batch in stream]
        assert any(mixed) is strangers
        assert not mixed[0]  # far from a boundary
        assert not mixed[-1]


def test_the_order_depends_on_the_seed_and_changes_every_epoch() -> None:
    own = tasks()[:1]
    first, second = (
        torch.cat([batch.inputs[:, 0, 0] for batch in TaskStream(own, batch_size=99, epochs=2, seed=seed)])
        for seed in (0, 1)
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first[: 2 * EACH], first[2 * EACH :])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="every class one task"):
        split_by_class(data(), [(0, 1), (1, 2)])
    with pytest.raises(ValueError, match="every task has classes"):
        split_by_class(data(), [(0, 1), ()])
    with pytest.raises(ValueError, match=r"no training examples of \[9\]"):
        split_by_class(data(), [(0, 9)])
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        permuted(data(), 0)
    with pytest.raises(ValueError, match="2 inputs and 3 classes"):
        Labelled(torch.zeros(2, 1), torch.zeros(3))
    uneven = split_by_class(data(), [(0, 1), (2,)])
    for given_, message in (
        ({"tasks": []}, "at least one task"),
        ({"scenario": "magic"}, "one of class, domain, task; got 'magic'"),
        ({"batch_size": 0}, "must be 1 or more; got 0, 1"),
        ({"blur": 1.5}, r"between 0 and 1, got 1\.5"),
        ({"visits": (0, 3)}, r"tasks from 0 to 2; got \(0, 3\)"),
        ({"visits": ()}, "tasks from 0 to 2"),
        ({"tasks": uneven, "scenario": "domain"}, "same number of classes"),
    ):
        with pytest.raises(ValueError, match=message):
            TaskStream(**{"tasks": tasks(), **given_})
