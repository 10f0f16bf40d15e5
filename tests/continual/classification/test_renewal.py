"""Continual backpropagation: whose turn it is, what becomes of it, and that nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.continual.classification import ContinualBackprop, Ordinary, adam, run_stream, sgd
from tests.continual.classification.test_methods import CLASSES, SIZE, stream

HIDDEN = 16


def network(seed: int = 0, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(SIZE, HIDDEN, bias=bias),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN, bias=bias),
        nn.ReLU(),
        nn.Linear(HIDDEN, CLASSES, bias=bias),
    )


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, SIZE, generator=generator), torch.arange(8) % CLASSES


class Watched(ContinualBackprop):
    """Keeps the ages of all units in a layer, and which ones are renewed."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.log: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def renew(self, place: int, units: Tensor) -> None:
        self.log.append((place, units, self.ages[place].clone(), self.utilities[place].clone()))
        super().renew(place, units)


def test_a_method_learns_a_task_leaves_its_input_and_repeats() -> None:
    results = []
    for seed in (0, 0, 1):
        method = ContinualBackprop(network(), adam(1e-2), rate=0.01, maturity=10, seed=seed)
        own = stream(epochs=8)
        before = own.tasks[0].splits["train"].inputs.clone()
        state = torch.get_rng_state()
        record = run_stream(method, own)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(own.tasks[0].splits["train"].inputs, before)
        assert record.matrix[0][0] > 0.9
        assert record.stored_bytes == 2 * HIDDEN * (4 + 8)
        assert method.renewed > 5
        results.append(method.scores(before))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not method.needs_boundaries


@pytest.mark.parametrize("settings", [{"rate": 0.0, "maturity": 0}, {"rate": 1.0, "maturity": 10_000}])
@pytest.mark.parametrize("bias", [True, False])
def test_where_nobody_is_renewed_it_is_ordinary_learning(settings: dict[str, Any], bias: bool) -> None:
    method = ContinualBackprop(network(bias=bias), adam(1e-2), **settings)
    plain = Ordinary(network(bias=bias), adam(1e-2))
    for own in (method, plain):
        run_stream(own, stream())
    for a, b in zip(method.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("place", [0, 1])
def test_the_function_stays_where_nobody_listened(place: int) -> None:
    method = ContinualBackprop(network())
    units = torch.tensor([2, 5])
    with torch.no_grad():
        method.layers[place + 1].weight[:, units] = 0.0
    x, _ = batch()
    before, weights = method.scores(x), method.layers[place].weight.detach().clone()
    method.renew(place, units)
    assert torch.equal(method.scores(x), before)
    changed = (method.layers[place].weight != weights).any(1).nonzero().flatten()
    assert torch.equal(changed, units)


@pytest.mark.parametrize("maker", [adam(1e-2), sgd(0.1, momentum=0.9)])
def test_what_becomes_of_a_unit(maker: Any) -> None:
    method = ContinualBackprop(network(), maker)
    method.learn(*batch())
    own, following = method.layers[:2]
    parameters = [own.weight, own.bias, following.weight]
    was = [p.detach().clone() for p in parameters]
    names = [n for n, v in method.optimizer.state[own.weight].items() if v.shape == own.weight.shape]
    assert len(names) == (2 if "exp_avg" in names else 1)
    moments = {n: [method.optimizer.state[p][n].clone() for p in parameters] for n in names}
    everything = copy.deepcopy(method.network.state_dict())
    method.renew(0, torch.tensor([3]))
    for p in parameters:
        p.requires_grad_(False)
    rest = torch.arange(HIDDEN) != 3
    bound = SIZE**-0.5
    for p, before in ((own.weight, was[0]), (own.bias, was[1])):
        assert (p[3] != before[3]).all()
        assert (p[3].abs() <= bound).all()
        assert torch.equal(p[rest], before[rest])
    assert (following.weight[:, 3] == 0.0).all()
    assert torch.equal(following.weight[:, rest], was[2][:, rest])
    for name, (weight, bias, outgoing) in moments.items():
        states = [method.optimizer.state[p][name] for p in parameters]
        assert (states[0][3] == 0.0).all() and (states[1][3] == 0.0).all() and (states[2][:, 3] == 0.0).all()
        assert torch.equal(states[0][rest], weight[rest])
        assert torch.equal(states[1][rest], bias[rest])
        assert torch.equal(states[2][:, rest], outgoing[:, rest])
    assert method.utilities[0][3] == 0.0 and method.ages[0][3] == 0 and (method.ages[0][rest] == 1).all()
    after = method.network.state_dict()
    assert [name for name in after if not torch.equal(after[name], everything[name])] == [
        "0.weight",
        "0.bias",
        "2.weight",
    ]


def test_new_weights_are_spread_as_torch_spreads_them() -> None:
    torch.manual_seed(0)
    method = ContinualBackprop(nn.Sequential(nn.Linear(100, 400), nn.Tanh(), nn.Linear(400, 2)))
    method.renew(0, torch.arange(400))
    weight = method.layers[0].weight.detach()
    assert float(weight.max()) == pytest.approx(0.1, abs=1e-3)
    assert float(weight.min()) == pytest.approx(-0.1, abs=1e-3)
    assert float(weight.std()) == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_utility_by_hand() -> None:
    """With one activation that is never negative, and one that is."""
    own = network()
    own[1] = nn.Tanh()
    method = ContinualBackprop(own, sgd(0.1), decay=0.75)
    expected = [torch.zeros(HIDDEN), torch.zeros(HIDDEN)]
    for step in range(3):
        x, y = batch(step)
        first = own[:2](x).detach()
        second = own[2:4](first).detach()
        method.learn(x, y)
        for place, h in enumerate((first, second)):
            listening = method.layers[place + 1].weight.detach().abs().sum(0)
            expected[place] = 0.75 * expected[place] + 0.25 * h.abs().mean(0) * listening
    for found, wanted in zip(method.utilities, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_only_the_mature_of_least_utility_are_renewed() -> None:
    method = Watched(network(), sgd(0.1), rate=0.25, maturity=5)
    for step in range(30):
        method.learn(*batch(step))
        if step < 5:
            assert not method.log
    assert len(method.log) > 10
    for _, units, ages, utilities in method.log:
        mature = ages > 5
        assert mature[units].all()
        mature[units] = False
        if mature.any():
            assert utilities[units].max() <= utilities[mature].min()
    assert {place for place, *_ in method.log} == {0, 1}


def test_shares_of_a_unit_add_up() -> None:
    """Sixteen units, all mature after the first step: half a unit a step is one in two."""
    method = Watched(network(), sgd(0.1), rate=1.0 / 32.0, maturity=0)
    for step in range(2):
        assert len(method.log) == 0
        method.learn(*batch(step))
    assert [(place, len(units)) for place, units, *_ in method.log] == [(0, 1), (1, 1)]


def test_everybody_may_be_renewed_at_once() -> None:
    method = Watched(network(), sgd(0.1), rate=1.0, maturity=0)
    method.learn(*batch())
    assert [len(units) for _, units, *_ in method.log] == [HIDDEN, HIDDEN]
    x, _ = batch()
    torch.testing.assert_close(method.scores(x), method.layers[-1].bias.detach().expand(8, CLASSES))


def test_the_loss_is_the_networks() -> None:
    own = nn.Sequential(nn.Flatten(), *network())
    method = ContinualBackprop(own)
    x, y = batch()
    x = x.view(8, 2, SIZE // 2)
    assert torch.equal(method.loss(x, y), F.cross_entropy(own(x), y))
    assert len(method.outputs) == 3
    method.tell([(0, 1), (2, 3)])
    task = y[:, None].div(2, rounding_mode="floor") == torch.arange(CLASSES).div(2, rounding_mode="floor")
    among = own(x).masked_fill(~task, -torch.inf)
    assert torch.equal(method.loss(x, y), F.cross_entropy(among, y))


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContinualBackprop(linear()), "nn.Sequential only, got Linear"),
        (lambda: ContinualBackprop(nn.Sequential(linear())), "there must be a hidden layer"),
        (lambda: ContinualBackprop(nn.Sequential()), "there must be a hidden layer"),
        (
            lambda: ContinualBackprop(nn.Sequential(linear(), nn.ReLU(), linear(), nn.ReLU())),
            "a linear layer at the end",
        ),
        (
            lambda: ContinualBackprop(nn.Sequential(linear(), linear())),
            "an activation is missing where Linear stands",
        ),
        (
            lambda: ContinualBackprop(nn.Sequential(linear(), nn.Softmax(-1), linear())),
            "an activation is missing where Softmax stands",
        ),
        (
            lambda: ContinualBackprop(nn.Sequential(nn.ReLU(), linear())),
            "nn.Linear is missing where ReLU stands",
        ),
        (lambda: ContinualBackprop(network(), rate=1.5), "rate must lie between 0 and 1, got 1.5"),
        (lambda: ContinualBackprop(network(), maturity=-1), "maturity must not be negative, got -1"),
        (lambda: ContinualBackprop(network(), decay=1.0), "decay must lie at 0 or above and below 1"),
    ],
)
def test_values_outside_their_range(make: Callable[[], ContinualBackprop], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
