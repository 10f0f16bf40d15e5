"""Projected gradients: what is kept of inputs, that old answers stay, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.continual.classification import (
    Classifier,
    GradientProjection,
    Ordinary,
    OrthogonalWeights,
    run_stream,
    sgd,
)
from nestlearn.streams.tasks import Labelled
from tests.continual.classification.test_methods import CLASSES, SIZE, blobs, network, stream

#: Settings with which nothing of an old input may change.
STRICT: dict[str, Callable[..., Classifier]] = {
    "owm": lambda *given: OrthogonalWeights(*given, alpha=1e-9),
    "gpm": lambda *given: GradientProjection(*given, threshold=1.0),
}
#: Settings with which everything may.
LOOSE: dict[str, Callable[..., Classifier]] = {
    "owm": lambda *given: OrthogonalWeights(*given, alpha=math.inf),
    "gpm": lambda *given: GradientProjection(*given, threshold=0.0),
}


def few(count: int, seed: int = 0) -> Labelled:
    """As many inputs as given, which cannot fill a layer's."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, SIZE, generator=generator)
    return Labelled(inputs, torch.arange(count) % CLASSES)


def with_ones(inputs: Tensor) -> Tensor:
    return F.pad(inputs, (0, 1), value=1.0)


@pytest.mark.parametrize("kind", [OrthogonalWeights, GradientProjection])
def test_a_method_learns_a_task_leaves_its_input_and_repeats(kind: Any) -> None:
    results = []
    for _ in range(2):
        method, own = kind(network(), sgd(0.3)), stream()
        before = own.tasks[0].splits["train"].inputs.clone()
        record = run_stream(method, own)
        assert torch.equal(own.tasks[0].splits["train"].inputs, before)
        assert record.matrix[0][0] > 0.9
        assert record.stored_bytes == sum(k.numel() * k.element_size() for k in method.kept.values()) > 0
        results.append(method.scores(before))
    assert torch.equal(*results)
    assert method.needs_boundaries


@pytest.mark.parametrize("name", STRICT)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_old_answers_stay_where_old_inputs_leave_room(name: str, bias: bool, momentum: float) -> None:
    """Three inputs fill three dimensions of each layer at most; two tasks of them leave some."""
    method = STRICT[name](network(bias=bias), sgd(0.1, momentum))
    answers = []
    for task in range(2):
        old = few(2, seed=task)
        for _ in range(20):
            method.learn(old.inputs, old.classes)
        method.end_task(old)
        answers.append((old.inputs, method.scores(old.inputs)))
    new = few(30, seed=9)
    before = method.scores(new.inputs)
    for _ in range(50):
        method.learn(new.inputs, new.classes)
    assert (method.scores(new.inputs) - before).abs().max() > 0.3
    for inputs, said in answers:
        torch.testing.assert_close(method.scores(inputs), said, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("name", LOOSE)
def test_settings_that_keep_nothing_are_ordinary_learning(name: str) -> None:
    method, plain = LOOSE[name](network(), sgd(0.1)), Ordinary(network(), sgd(0.1))
    for own in (method, plain):
        run_stream(own, stream())
    assert method.tasks == 2
    for a, b in zip(method.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [OrthogonalWeights, GradientProjection])
def test_the_loss_is_among_the_classes_that_are_told(kind: Any) -> None:
    method, data = kind(network()), few(6)
    scores = method.network(data.inputs)
    assert torch.equal(method.loss(data.inputs, data.classes), F.cross_entropy(scores, data.classes))
    method.tell([(0, 1), (2, 3)])
    pairs = scores.view(6, 2, 2)[torch.arange(6), data.classes // 2]
    expected = F.cross_entropy(pairs, data.classes % 2)
    torch.testing.assert_close(method.loss(data.inputs, data.classes), expected)


@pytest.mark.parametrize("name", STRICT)
def test_it_forgets_less_than_ordinary_learning(name: str) -> None:
    """At a rate at which ordinary learning forgets even clouds of their own directions."""
    kept = {}
    makers: dict[str, Callable[..., Classifier]] = {
        "plain": Ordinary,
        "owm": lambda *given: OrthogonalWeights(*given, alpha=10.0),
        "gpm": lambda *given: GradientProjection(*given, threshold=0.9),
    }
    for own in (name, "plain"):
        runs = [
            run_stream(makers[own](network(seed), sgd(1.0)), stream(epochs=40, seed=seed))
            for seed in range(2)
        ]
        kept[own] = sum(run.matrix[-1][0] for run in runs) / 2
        assert all(run.matrix[-1][1] > 0.9 for run in runs)
    assert kept[name] > kept["plain"] + 0.1


@pytest.mark.parametrize(("block", "decay"), [(1, 1.0), (4, 1.0), (3, 0.01)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_projector_is_the_regularised_inverse(block: int, decay: float, bias: bool) -> None:
    """Two tasks, one after the other, against all of their mean inputs at once."""
    layer = nn.Linear(SIZE, CLASSES, bias=bias)
    method = OrthogonalWeights(layer, alpha=0.5, decay=decay, block=block, seed=3)
    generator = torch.Generator().manual_seed(3)
    inverse = torch.eye(SIZE + bias, dtype=torch.float64)
    for task, count in enumerate((10, 7)):
        data = few(count, seed=task)
        method.end_task(data)
        inputs = data.inputs[torch.randperm(count, generator=generator)].double()
        means = [part.mean(0) for part in (with_ones(inputs) if bias else inputs).split(block)]
        for i, mean in enumerate(means):
            inverse += mean.outer(mean) / (0.5 * decay ** (i / len(means)))
    (projector,) = method.kept.values()
    torch.testing.assert_close(projector, torch.linalg.inv(inverse))


def test_a_projector_of_more_examples_than_fit_into_one_step() -> None:
    layer, data = nn.Linear(SIZE, CLASSES), few(600)
    method = OrthogonalWeights(layer, alpha=1e-6)
    method.end_task(data)
    rows = with_ones(data.inputs).double()
    expected = torch.linalg.inv(torch.eye(SIZE + 1) + rows.T @ rows / 1e-6)
    (projector,) = method.kept.values()
    torch.testing.assert_close(projector, expected, rtol=1e-3, atol=1e-14)


def test_hidden_layers_keep_what_they_read() -> None:
    """Not the network's inputs, and with the weights as they are when the task ends."""
    method = OrthogonalWeights(network(), alpha=2.0)
    data = few(5)
    method.learn(data.inputs, data.classes)
    method.end_task(data)
    first = method.layers["0"]
    rows = with_ones(first(data.inputs).tanh()).detach().double()
    expected = torch.linalg.inv(torch.eye(17) + rows.T @ rows / 2.0)
    torch.testing.assert_close(method.kept["2"], expected)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99, 1.0])
def test_bases_are_orthonormal_and_no_longer_than_need_be(threshold: float) -> None:
    method = GradientProjection(network(), threshold=threshold, examples=None)
    for task in range(3):
        before = {name: basis.shape[1] for name, basis in method.kept.items()}
        data = few(4, seed=task)
        inputs = method.layer_inputs(data)
        method.end_task(data)
        for name, basis in method.kept.items():
            torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), rtol=0.0, atol=1e-5)
            rows = inputs[name]
            inside = (rows @ basis).square().sum() / rows.square().sum()
            assert inside > threshold - 1e-5
            if basis.shape[1] > before.get(name, 0):
                without = (rows @ basis[:, :-1]).square().sum() / rows.square().sum()
                assert without < threshold - 1e-5


def test_a_basis_by_hand() -> None:
    """Squared lengths 16, 4 and 1 along three axes: 16/21 and 20/21 of the whole."""
    rows = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    layer = nn.Linear(3, 2, bias=False)
    for threshold, count in ((0.76, 1), (0.77, 2), (0.95, 2), (0.96, 3)):
        method = GradientProjection(layer, threshold=threshold)
        method.end_task(Labelled(rows, torch.zeros(3, dtype=torch.long)))
        assert torch.equal(method.kept[""].abs(), torch.eye(3)[:, :count])


def test_inputs_that_come_again_add_nothing_to_a_full_basis() -> None:
    method = GradientProjection(network(), threshold=1.0, examples=None)
    data = few(4)
    sizes = []
    for _ in range(2):
        method.end_task(data)
        sizes.append([basis.shape[1] for basis in method.kept.values()])
    assert sizes == [[4, 4], [4, 4]]


def test_what_drops_out_in_training_is_kept_too() -> None:
    """As the layer reads it when the network is asked."""
    method = GradientProjection(nn.Sequential(nn.Dropout(0.5), nn.Linear(SIZE, CLASSES)))
    method.network.train()
    data = few(9)
    assert torch.equal(method.layer_inputs(data)["1"], with_ones(data.inputs))
    assert not any(module._forward_pre_hooks for module in method.network.modules())


def test_only_so_many_examples_are_decomposed() -> None:
    method = GradientProjection(network(), threshold=1.0, examples=3)
    method.end_task(few(30))
    assert [basis.shape[1] for basis in method.kept.values()] == [3, 3]


def test_frozen_parts_may_be_of_any_kind() -> None:
    features = nn.Sequential(nn.Linear(SIZE, 8), nn.LayerNorm(8)).requires_grad_(False)
    method = GradientProjection(nn.Sequential(features, nn.Linear(8, CLASSES)))
    method.end_task(blobs()["train"])
    assert list(method.kept) == ["1"]


@pytest.mark.parametrize("kind", [OrthogonalWeights, GradientProjection])
def test_other_parameters_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"freeze all parameters of 1 \(BatchNorm1d\)"):
        kind(nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8)))
    half = nn.Linear(SIZE, 8)
    half.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"freeze all parameters of the network \(Linear\)"):
        kind(half)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrthogonalWeights(network(), alpha=0.0), "alpha must be positive, got 0.0"),
        (lambda: OrthogonalWeights(network(), alpha=math.nan), "alpha must be positive, got nan"),
        (lambda: OrthogonalWeights(network(), decay=0.0), "decay must lie above 0 and not above 1, got 0.0"),
        (lambda: OrthogonalWeights(network(), decay=1.5), "decay must lie above 0 and not above 1, got 1.5"),
        (lambda: OrthogonalWeights(network(), block=0), "block must be at least 1, got 0"),
        (lambda: GradientProjection(network(), threshold=1.1), "threshold must lie between 0 and 1, got 1.1"),
        (lambda: GradientProjection(network(), threshold=-0.1), "threshold must lie between 0 and 1"),
        (lambda: GradientProjection(network(), examples=0), "examples must be at least 1, got 0"),
    ],
)
def test_values_outside_their_range(make: Callable[[], Classifier], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
