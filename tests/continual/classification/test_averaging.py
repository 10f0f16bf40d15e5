"""Averages of weights over tasks, against averages by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nestlearn.continual.classification import AveragedWeights, Ordinary, adam, run_stream
from nestlearn.streams.tasks import Labelled
from tests.continual.classification.test_methods import SIZE, blobs, network, stream


def walk(method: AveragedWeights, tasks: int) -> list[list[torch.Tensor]]:
    """Networks as they were right before the end of each task, in which they moved at random."""
    found = []
    data = blobs()["train"]
    for task in range(tasks):
        generator = torch.Generator().manual_seed(task)
        with torch.no_grad():
            for p in method.network.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
        found.append([p.detach().clone() for p in method.network.parameters()])
        method.end_task(data)
    return found


def test_a_method_learns_a_task_leaves_its_input_and_repeats() -> None:
    results = []
    for _ in range(2):
        method, own = AveragedWeights(network(), adam(1e-2)), stream()
        before = own.tasks[0].splits["train"].inputs.clone()
        record = run_stream(method, own)
        assert torch.equal(own.tasks[0].splits["train"].inputs, before)
        assert record.matrix[0][0] > 0.9
        assert record.stored_bytes == 4 * sum(p.numel() for p in method.network.parameters())
        results.append(method.scores(before))
    assert torch.equal(*results)
    assert method.needs_boundaries


def test_all_tasks_count_the_same() -> None:
    method = AveragedWeights(network())
    after = walk(method, 4)
    for p, *values in zip(method.network.parameters(), *after, strict=True):
        torch.testing.assert_close(p.detach(), torch.stack(values).mean(0))


def test_a_weight_of_ones_own() -> None:
    method = AveragedWeights(network(), weight=0.25)
    first, second = walk(method, 2)
    for p, before, after in zip(method.network.parameters(), first, second, strict=True):
        torch.testing.assert_close(p.detach(), 0.75 * before + 0.25 * after)


def test_with_weight_one_it_is_ordinary_learning() -> None:
    method, plain = AveragedWeights(network(), adam(1e-2), weight=1.0), Ordinary(network(), adam(1e-2))
    for own in (method, plain):
        run_stream(own, stream())
    for a, b in zip(method.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_with_weight_zero_the_first_task_stays() -> None:
    method = AveragedWeights(network(), weight=0.0)
    first, second, *_ = walk(method, 3)
    assert not torch.equal(first[0], second[0])
    assert all(torch.equal(p, before) for p, before in zip(method.network.parameters(), first, strict=True))


def test_buffers_are_averaged_unless_they_count() -> None:
    normal = nn.BatchNorm1d(SIZE)
    method = AveragedWeights(nn.Sequential(nn.Linear(SIZE, SIZE), normal, nn.Linear(SIZE, 4)))
    data = blobs()["train"]
    seen = []
    for chosen in (torch.arange(40), torch.arange(120, 160)):
        part = Labelled(data.inputs[chosen], data.classes[chosen])
        method.learn(part.inputs, part.classes)
        seen.append(copy.deepcopy(normal.running_mean))
        method.end_task(part)
    assert seen[0] is not None and seen[1] is not None and normal.running_mean is not None
    torch.testing.assert_close(normal.running_mean, 0.5 * (seen[0] + seen[1]))
    assert int(normal.num_batches_tracked) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_values_outside_their_range(weight: float) -> None:
    with pytest.raises(ValueError, match=f"weight must lie between 0 and 1, got {weight}"):
        AveragedWeights(network(), weight=weight)
