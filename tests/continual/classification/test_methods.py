"""Ways of learning tasks: what each computes, against what can be worked out; what all have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.continual.classification import (
    AveragedGradientMemory,
    Classifier,
    ClassMeans,
    DarkReplay,
    ElasticWeights,
    ExactHead,
    Fresh,
    Levels,
    OnlineElasticWeights,
    Ordinary,
    Replay,
    SynapticIntelligence,
    WithoutForgetting,
    adam,
    run_stream,
    sgd,
)
from nestlearn.continual.classification.replay import Store
from nestlearn.levels import Level
from nestlearn.streams.tasks import Labelled, TaskStream, split_by_class

SIZE, CLASSES = 6, 4


def blobs(seed: int = 0, each: int = 40) -> dict[str, Labelled]:
    """Four clouds in six dimensions."""
    centres = 3.0 * torch.eye(CLASSES, SIZE)
    found = {}
    for offset, name in enumerate(("train", "validation", "test")):
        generator = torch.Generator().manual_seed(10 * seed + offset)
        classes = torch.arange(CLASSES).repeat_interleave(each)
        noise = torch.randn(len(classes), SIZE, generator=generator)
        found[name] = Labelled(centres[classes] + 0.5 * noise, classes)
    return found


def stream(**settings: Any) -> TaskStream:
    tasks = split_by_class(blobs(), [(0, 1), (2, 3)])
    return TaskStream(tasks, **{"batch_size": 16, "epochs": 4, **settings})


def network(seed: int = 0, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(SIZE, 16, bias=bias), nn.Tanh(), nn.Linear(16, CLASSES, bias=bias))


def protecting(**settings: Any) -> list[Level]:
    given = {"consolidate": True, "optimizer": "sgd", "lr": 0.2, "strength": 1e-2, "output_strength": 1e9}
    return [Level("all", 16, **{**given, **settings})]


METHODS: dict[str, Callable[[], Classifier]] = {
    "ordinary": lambda: Ordinary(network(), adam(1e-2)),
    "ewc": lambda: ElasticWeights(network(), adam(1e-2)),
    "online ewc": lambda: OnlineElasticWeights(network(), adam(1e-2), decay=0.9),
    "si": lambda: SynapticIntelligence(network(), adam(1e-2)),
    "lwf": lambda: WithoutForgetting(network(), adam(1e-2)),
    "replay": lambda: Replay(network(), adam(1e-2), store_bytes=2000),
    "der++": lambda: DarkReplay(network(), adam(1e-2), store_bytes=2000),
    "a-gem": lambda: AveragedGradientMemory(network(), adam(1e-2), store_bytes=2000),
    "levels": lambda: Levels(network(), protecting()),
    "exact head": lambda: ExactHead(nn.Identity(), SIZE, CLASSES),
    "class means": lambda: ClassMeans(nn.Identity(), SIZE, CLASSES),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_a_task_leaves_its_input_and_repeats(name: str) -> None:
    results = []
    for _ in range(2):
        method, own = METHODS[name](), stream()
        assert method.name == name
        before = own.tasks[0].splits["train"].inputs.clone()
        record = run_stream(method, own)
        assert torch.equal(own.tasks[0].splits["train"].inputs, before)
        assert record.matrix[0][0] > 0.9
        assert (record.stored_bytes > 0) is (name != "ordinary")
        results.append(method.scores(before))
    assert torch.equal(*results)


def test_ordinary_learning_is_torchs_loop() -> None:
    method, twin = Ordinary(network(), sgd(0.1)), network()
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for batch in stream():
        method.learn(batch.inputs, batch.labels)
        optimizer.zero_grad()
        F.cross_entropy(twin(batch.inputs), batch.labels).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(method.network.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("kind", [ElasticWeights, OnlineElasticWeights, SynapticIntelligence])
def test_without_strength_a_penalty_is_ordinary_learning(kind: Any) -> None:
    method, plain = kind(network(), sgd(0.1), strength=0.0), Ordinary(network(), sgd(0.1))
    for own in (method, plain):
        run_stream(own, stream())
    for a, b in zip(method.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["ewc", "online ewc", "si", "lwf", "replay", "der++"])
def test_protection_forgets_less_than_ordinary_learning_where_tasks_are_told(name: str) -> None:
    """In the task scenario, in which all of them are known to help."""
    kept = {}
    for own in (name, "ordinary"):
        kept[own] = [
            run_stream(METHODS[own](), stream(scenario="task", epochs=12, seed=seed)).matrix[-1][0]
            for seed in range(3)
        ]
    assert sum(kept[name]) >= sum(kept["ordinary"])


def test_the_fisher_matrix_of_an_undecided_network() -> None:
    """With two outputs of probability one half every gradient is plus or minus x / 2."""
    linear = nn.Linear(3, 2)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    x = torch.randn(7, 3)
    method = ElasticWeights(linear, examples=None)
    found = method.fisher(Labelled(x, torch.zeros(7, dtype=torch.long)))
    torch.testing.assert_close(found["weight"], 0.25 * x.square().mean(0).expand(2, 3))
    torch.testing.assert_close(found["bias"], torch.full((2,), 0.25))


class Remembering(ElasticWeights):
    """Keeps every task's importances and place, too."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.every: list[Any] = []

    def fisher(self, data: Labelled) -> dict[str, Tensor]:
        found = super().fisher(data)
        self.every.append(({name: own.clone() for name, own in found.items()}, self.here()))
        return found


def slopes(loss: Tensor, method: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(method.network.parameters()))


def test_one_anchor_draws_as_those_of_all_tasks() -> None:
    method = Remembering(network(), sgd(0.05), strength=3.0)
    tasks = split_by_class(blobs(), [(0,), (1,), (2, 3)])
    run_stream(method, TaskStream(tasks, epochs=2))
    assert len(method.every) == 3 and len(method.anchors) == 1
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(0.1)
    x, y = torch.randn(5, SIZE), torch.tensor([0, 1, 2, 3, 0])
    expected = F.cross_entropy(method.network(x), y)
    for importance, place in method.every:
        for name, p in method.network.named_parameters():
            expected = expected + 1.5 * (importance[name] * (p - place[name]).square()).sum()
    for got, wanted in zip(slopes(method.loss(x, y), method), slopes(expected, method), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert float(method.loss(x, y).detach()) <= float(expected.detach())  # the difference is a constant


def test_the_online_penalty_and_its_anchor() -> None:
    method = OnlineElasticWeights(network(), sgd(0.05), strength=3.0)
    run_stream(method, stream())
    ((importance, place),) = method.anchors
    for name, p in method.network.named_parameters():
        assert torch.equal(place[name], p)  # at the last task, not at a mean
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(0.1)
    x, y = torch.randn(5, SIZE), torch.tensor([0, 1, 2, 3, 0])
    expected = F.cross_entropy(method.network(x), y)
    for name, p in method.network.named_parameters():
        expected = expected + 1.5 * (importance[name] * (p - place[name]).square()).sum()
    torch.testing.assert_close(method.loss(x, y), expected)


# The task scenario ------------------------------------------------------------------------------------------


def test_told_of_tasks_the_loss_is_among_a_labels_own_classes() -> None:
    method = Ordinary(network())
    method.tell([(0, 3), (1, 2)])
    x, y = torch.randn(4, SIZE), torch.tensor([0, 1, 2, 3])
    scores = method.network(x)
    pairs = torch.tensor([[0, 3], [1, 2], [2, 1], [3, 0]])
    own = scores.gather(1, pairs)
    torch.testing.assert_close(method.loss(x, y), F.cross_entropy(own, torch.zeros(4, dtype=torch.long)))
    method.among = None
    assert not torch.allclose(method.loss(x, y), F.cross_entropy(own, torch.zeros(4, dtype=torch.long)))


@pytest.mark.parametrize("name", ["ordinary", "ewc", "si", "lwf", "replay", "der++", "a-gem"])
def test_told_of_tasks_the_scores_of_other_tasks_do_not_sink(name: str) -> None:
    method = METHODS[name]()
    method.tell([(0, 1), (2, 3)])
    last = [module for module in method.network.modules() if isinstance(module, nn.Linear)][-1]
    before = last.bias.detach()[2:].clone()
    run_stream(method, TaskStream(stream().tasks[:1], epochs=3))
    assert torch.equal(last.bias.detach()[2:], before) is (name != "der++")  # which keeps all scores


def test_a_fresh_network_for_every_task() -> None:
    made = []

    def make() -> nn.Module:
        made.append(network(len(made) + 1))
        return made[-1]

    method = Fresh(network(), adam(1e-2), make=make)
    record = run_stream(method, stream(epochs=10))
    assert len(made) == 1 and method.network is made[0]  # the last one is there to be tested
    assert record.matrix[0][0] > 0.9 and record.matrix[1][1] > 0.9
    assert record.matrix[1][0] < 0.6


def test_online_importances_fade() -> None:
    method = OnlineElasticWeights(network(), decay=0.5, examples=None)
    data = Labelled(torch.zeros(2, SIZE), torch.zeros(2, dtype=torch.long))
    method.fisher = lambda _: {n: torch.ones_like(p) for n, p in method.network.named_parameters()}  # type: ignore[method-assign]
    for expected in (1.0, 1.5, 1.75):
        method.end_task(data)
        ((importance, _),) = method.anchors
        assert all(bool((value == expected).all()) for value in importance.values())


def test_gains_add_up_to_what_the_loss_fell() -> None:
    """The path integral of Eq. 1 of the paper, for steps that are short."""
    method = SynapticIntelligence(network(), sgd(0.01))
    data = blobs()["train"]
    first = float(method.loss(data.inputs, data.classes).detach())
    for _ in range(200):
        method.learn(data.inputs, data.classes)
    fell = first - float(method.loss(data.inputs, data.classes).detach())
    gained = float(sum(gain.sum() for gain in method.gains.values()))
    assert fell > 0.5
    assert gained == pytest.approx(fell, rel=0.05)


def test_a_pupil_that_agrees_with_its_teacher_learns_from_the_labels_only() -> None:
    method = WithoutForgetting(network(), sgd(0.05))
    data = blobs()["train"]
    method.end_task(data[torch.arange(60)])
    assert method.known.tolist() == [0, 1]
    x, y = data.inputs[-20:], data.classes[-20:]
    parameters = list(method.network.parameters())
    method.network.eval()
    both = torch.autograd.grad(method.loss(x, y), parameters)
    labels = torch.autograd.grad(F.cross_entropy(method.network(x), y), parameters)
    for a, b in zip(both, labels, strict=True):
        torch.testing.assert_close(a, 0.5 * b, rtol=1e-4, atol=1e-6)


def test_a_store_keeps_its_size_and_gives_everyone_the_same_chance() -> None:
    row = 4 + 8  # a float and a whole number
    counts = torch.zeros(50)
    for seed in range(400):
        store = Store(10 * row, seed)
        for start in range(0, 50, 5):
            names = torch.arange(start, start + 5)
            store.offer(names.float(), names)
        assert len(store) == 10
        floats, names = store.columns
        assert torch.equal(floats.long(), names)
        assert len(names.unique()) == 10
        counts[names] += 1
    assert 0.5 * 80 < counts.min() < 80 < counts.max() < 1.5 * 80  # ten of fifty, 400 times
    assert len(Store(1).columns) == 0
    tiny = Store(1)
    tiny.offer(torch.zeros(3, 5))
    assert len(tiny) == 1


def test_dark_replay_remembers_what_was_said() -> None:
    method = DarkReplay(network(), sgd(0.1), store_bytes=10_000)
    x, y = torch.randn(4, SIZE), torch.arange(4)
    said = method.scores(x)
    method.learn(x, y)
    assert torch.equal(method.store.columns[2], said)
    assert torch.equal(method.store.columns[0], x)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_gradient_is_turned_aside_only_where_it_hurts(sign: float) -> None:
    linear = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(linear.weight)
    method = AveragedGradientMemory(linear, sgd(1.0), store_bytes=10_000)
    old, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    method.store.offer(old, label)
    x = torch.tensor([[sign, 1.0]])
    reference = torch.autograd.grad(F.cross_entropy(linear(old), label), linear.weight)[0]
    (own,) = torch.autograd.grad(F.cross_entropy(linear(x), label), linear.weight)
    linear.weight.grad = own.clone()
    method.before_step(x, label)
    assert linear.weight.grad is not None
    if sign > 0:
        assert torch.equal(linear.weight.grad, own)
    else:
        assert (own * reference).sum() < 0
        torch.testing.assert_close((linear.weight.grad * reference).sum(), torch.tensor(0.0))


def test_the_head_is_ridge_regression_in_any_order() -> None:
    data = blobs()["train"]
    heads = []
    for order in (torch.arange(len(data)), torch.randperm(len(data))):
        method = ExactHead(nn.Identity(), SIZE, CLASSES, ridge=0.1)
        for chosen in order.split(13):
            method.learn(data.inputs[chosen], data.classes[chosen])
        method.scores(data.inputs[:1])
        heads.append(method.head.weight.clone())
    torch.testing.assert_close(*heads)
    f, y = data.inputs, F.one_hot(data.classes, CLASSES).float()
    damping = 0.1 * (f.T @ f).diagonal().mean() * torch.eye(SIZE)
    torch.testing.assert_close(heads[0], torch.linalg.solve(f.T @ f + damping, f.T @ y).T)


def test_the_nearest_mean() -> None:
    method = ClassMeans(nn.Identity(), 2, 3)
    method.learn(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 0]))
    method.learn(torch.tensor([[5.0, 1.0]]), torch.tensor([2]))
    scores = method.scores(torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(scores, torch.tensor([[-9.0, -torch.inf, -20.0]]))


def test_levels_keep_what_they_are_told_to() -> None:
    kept = {}
    for announced in (False, True):
        method = Levels(network(bias=False), protecting(), announced=announced)
        method.nested._surprise.threshold = 1e9  # nothing is noticed
        record = run_stream(method, stream(epochs=8))
        assert len(method.nested.surprises) == (2 if announced else 0)
        kept[announced] = record.matrix[-1][0]
    assert kept[True] > kept[False] + 0.3


def test_levels_notice_a_new_task() -> None:
    method = Levels(network(bias=False), protecting())
    run_stream(method, stream(epochs=12))
    # Twelve epochs of eighty examples: the second task begins after 960.
    assert any(960 <= place <= 1000 for place in method.nested.surprises)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    method = Ordinary(network())
    before = copy.deepcopy(method.network.state_dict())
    with pytest.raises(ValueError, match="the loss is nan: lower the learning rate"):
        method.learn(torch.full((2, SIZE), torch.nan), torch.tensor([0, 1]))
    after = method.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ElasticWeights(network(), strength=-1.0), "strength must not be negative"),
        (lambda: OnlineElasticWeights(network(), decay=2.0), "decay must lie between 0 and 1"),
        (lambda: SynapticIntelligence(network(), damping=0.0), "damping must be positive"),
        (lambda: WithoutForgetting(network(), temperature=0.0), "temperature must be positive"),
        (lambda: Replay(network(), store_bytes=0), "store_bytes must be at least 1"),
        (lambda: DarkReplay(network(), alpha=-1.0), "alpha and beta must not be negative"),
        (lambda: ExactHead(nn.Identity(), 2, 2, ridge=0.0), "ridge must be positive"),
    ],
)
def test_values_outside_their_range(make: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
