"""Measures of plasticity, each against a number worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nestlearn.continual.plasticity import (
    dead_units,
    effective_rank,
    plasticity,
    stable_rank,
    weight_norm,
)


def small() -> nn.Sequential:
    """Four units that copy, negate, or never live, and two that read the first and the second."""
    first, second, head = nn.Linear(2, 4), nn.Linear(4, 2), nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]))
        first.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -1.0]))
        second.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]))
        second.bias.zero_()
        head.weight.fill_(-0.5)
        head.bias.zero_()
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), head)


def test_dead_units_by_hand() -> None:
    """Of six units the fourth is dead, and the third where no first number is negative."""
    network = small()
    assert dead_units(network, torch.tensor([[1.0, 1.0], [-1.0, 1.0]])) == pytest.approx(1 / 6)
    assert dead_units(network, torch.tensor([[1.0, 1.0], [2.0, 1.0]])) == pytest.approx(2 / 6)
    # Nothing passes to the second layer either.
    assert dead_units(network, torch.tensor([[-1.0, -1.0]])) == pytest.approx(5 / 6)


def test_a_unit_that_lives_on_one_input_is_alive() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    nn.init.ones_(network[0].weight)  # type: ignore[arg-type]
    inputs = -torch.ones(1000, 1)
    assert dead_units(network, inputs) == 1.0
    inputs[500] = 1e-6
    assert dead_units(network, inputs) == 0.0


def test_effective_rank_by_hand() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5.0)
    assert effective_rank(torch.ones(7, 3)) == pytest.approx(1.0, abs=1e-5)
    assert effective_rank(torch.diag(torch.tensor([2.0, 2.0, 0.0]))) == pytest.approx(2.0)
    # Shares 3/4 and 1/4.
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(math.exp(entropy))
    assert effective_rank(torch.zeros(4, 3)) == 0.0


def test_effective_rank_does_not_depend_on_scale_rotation_or_order() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 6, generator=generator) * torch.arange(1.0, 7.0)
    rank = effective_rank(features)
    assert 1.0 < rank < 6.0
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    for other in (3.0 * features, features @ rotation, features.flip(0), features.T):
        assert effective_rank(other) == pytest.approx(rank, rel=1e-5)


def test_stable_rank_by_hand() -> None:
    values = torch.diag(torch.tensor([50.0, 49.0, 1.0]))  # shares 0.5, 0.99, 1
    assert stable_rank(values) == 2
    assert stable_rank(values, 0.5) == 1
    assert stable_rank(values, 0.51) == 2
    assert stable_rank(values, 0.995) == 3
    assert stable_rank(values, 1.0) == 3
    assert stable_rank(torch.eye(100)) == 99
    assert stable_rank(torch.eye(10), 0.9) == 9  # nine tenths, added up, are less than 0.9
    assert stable_rank(torch.zeros(2, 2)) == 0
    # Of the squared values, which is another measure, 0.9998 would lie in the first two.
    assert stable_rank(torch.diag(torch.tensor([9.0, 1.0])), 0.95) == 2


def test_weight_norm_by_hand() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -1.0]]))
        layer.bias.fill_(-2.0)
    assert weight_norm(layer) == pytest.approx(2.0)
    # Layers count by their numbers of parameters: 4 of 12, 3 of 10 and 1 of 3.
    assert weight_norm(small()) == pytest.approx((4.0 + 3.0 + 1.0) / (12 + 10 + 3))


def test_all_three() -> None:
    network = small()
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.5]])  # the last hidden layer says (1, 0) and (0, 3)
    found = plasticity(network, inputs)
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert found == {
        "dead": pytest.approx(2 / 6),
        "rank": pytest.approx(math.exp(entropy) / 2),
        "weight": pytest.approx(8 / 25),
    }


def test_a_dead_network_has_no_rank() -> None:
    network = small()
    with torch.no_grad():
        network[2].bias.fill_(-100.0)  # type: ignore[union-attr, operator]
    assert plasticity(network, torch.ones(3, 2))["rank"] == 0.0


def test_units_are_read_before_the_next_module_overwrites_them() -> None:
    network = small()
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.5]])
    found = plasticity(network, inputs)
    zeros = nn.Threshold(1e9, 0.0, inplace=True)
    assert plasticity(nn.Sequential(*network[:4], zeros), inputs)["rank"] == found["rank"]


class Nested(nn.Module):
    """One ReLU for two layers, images, and a dropout that is on when it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)
        self.block = nn.ModuleDict({"relu": nn.ReLU(inplace=True), "dropout": nn.Dropout(0.5)})

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.block["relu"](self.convolution(x)).flatten(1)
        return self.block["relu"](self.head(self.block["dropout"](hidden))) * 0.0


def test_any_module_is_measured_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    network = Nested().train()
    network.head.eval()
    inputs = torch.randn(6, 1, 4, 4)
    before, state = inputs.clone(), torch.get_rng_state()
    found = plasticity(network, inputs)
    assert plasticity(network, inputs) == found
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(inputs, before)
    assert network.training and network.block["dropout"].training and not network.head.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(p.grad is None for p in network.parameters())
    hidden = network.convolution(inputs).relu().flatten(1)
    last = network.head(hidden).relu()
    dead = int((hidden == 0).all(0).sum()) + int((last == 0).all(0).sum())
    assert found["dead"] == pytest.approx(dead / 11)
    assert found["rank"] == pytest.approx(effective_rank(last) / 3)


def test_refusals() -> None:
    for measure in (dead_units, plasticity):
        with pytest.raises(ValueError, match=r"no nn\.ReLU module was called"):
            measure(nn.Linear(2, 2), torch.ones(1, 2))
        with pytest.raises(ValueError, match="there are no inputs"):
            measure(small(), torch.ones(0, 2))
    for rank in (effective_rank, stable_rank):
        with pytest.raises(ValueError, match=r"a matrix with entries, got shape \(3,\)"):
            rank(torch.ones(3))
        with pytest.raises(ValueError, match=r"a matrix with entries, got shape \(0, 3\)"):
            rank(torch.ones(0, 3))
        with pytest.raises(ValueError, match="features must be finite"):
            rank(torch.full((2, 2), torch.nan))
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match=f"share must lie above 0 and not above 1, got {share}"):
            stable_rank(torch.eye(2), share)
    with pytest.raises(ValueError, match="the network has no parameters"):
        weight_norm(nn.ReLU())
