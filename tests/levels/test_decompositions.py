"""The paper's own decompositions of well-known systems (sections 3 and 4, Fig. 3 and 5)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

import nestlearn as nl
from nestlearn.levels import Memory


def names(system: nl.NestedSystem) -> list[set[str]]:
    """Names of the components, level by level."""
    return [set(level.names) for level in system.levels]


def kinds(system: nl.NestedSystem, source: str, target: str) -> set[str]:
    """Ways in which knowledge goes from one component to another."""
    return {t.kind for t in system.transfers if (t.source, t.target) == (source, target)}


class LinearAttention(nn.Module):
    """Eq. 14 to 18: ``M_t = M_{t-1} + v_t k_t^T``, ``y_t = M_t q_t``."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.key, self.value, self.query = (nn.Linear(width, width, bias=False) for _ in range(3))

    def nested_memories(self) -> tuple[Memory, ...]:
        return (Memory("memory", "fast_weights", "-⟨M k, v⟩", "keys and values", bytes=64),)

    def forward(self, x: Tensor) -> Tensor:
        states = (self.value(x)[..., :, None] * self.key(x)[..., None, :]).cumsum(-3)
        return (states @ self.query(x)[..., None])[..., 0]


def test_gradient_descent_on_one_layer_is_one_level():
    layer = nn.Linear(3, 2)
    system = nl.inspect(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    assert names(system) == [{"weights"}]
    assert system.transfers == ()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, nl.optim.Momentum])
def test_momentum_makes_two_levels(optimizer):
    layer = nn.Linear(3, 2)
    system = nl.inspect(layer, optimizer(layer.parameters(), lr=0.1, momentum=0.9))
    assert names(system) == [{"momentum of weights"}, {"weights"}]
    assert kinds(system, "weights", "momentum of weights") == {"generation"}
    assert kinds(system, "momentum of weights", "weights") == {"parametric"}


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam]
)
def test_adams_two_moments_share_a_level(optimizer):
    layer = nn.Linear(3, 2)
    system = nl.inspect(layer, optimizer(layer.parameters()))
    assert names(system) == [{"momentum of weights", "squares of weights"}, {"weights"}]


def test_linear_attention_has_two_levels_and_three_with_momentum():
    model = LinearAttention()
    plain = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert names(plain) == [{"memory"}, {"weights"}]
    assert plain["memory"].period == 1
    assert plain["memory"].unit == "token"
    momentum = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert names(momentum) == [{"memory"}, {"momentum of weights"}, {"weights"}]
    assert kinds(momentum, "memory", "weights") == {"parametric"}
    assert kinds(momentum, "weights", "memory") == {"generation"}


def hope(**changes: object) -> nl.HopeForCausalLM:
    settings = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 2, **changes}
    return nl.HopeForCausalLM(nl.HopeConfig(**settings))


def test_our_linear_attention_is_the_same():
    model = hope(mixer="linear_attention", cms_periods=(64,))
    system = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert names(system) == [{"main memory"}, {"momentum of weights"}, {"weights"}]
    assert kinds(system, "weights", "main memory") == {"initialisation", "generation"}


def test_a_transformer_trained_with_adamw():
    model = hope(mixer="attention", cms_periods=(64,))
    system = nl.inspect(model, torch.optim.AdamW(model.parameters()))
    assert names(system) == [{"attention"}, {"momentum of weights", "squares of weights"}, {"weights"}]
    assert system.levels[0].frequency == "recomputed for every token"
    assert kinds(system, "attention", "weights") == {"non-parametric"}


def test_a_transformer_that_is_only_used_has_static_weights():
    system = nl.inspect(hope(mixer="attention", cms_periods=(64,)))
    assert names(system) == [{"attention"}, {"weights"}]
    assert system.levels[-1].frequency == "never"


def test_titans_momentum_is_faster_than_its_memory():
    model = hope(mixer="titans", cms_periods=(64,), chunk_size=8)
    system = nl.inspect(model, torch.optim.AdamW(model.parameters()))
    assert names(system) == [
        {"momentum of main memory"},
        {"main memory"},
        {"momentum of weights", "squares of weights"},
        {"weights"},
    ]
    assert system["main memory"].period == 8
    assert kinds(system, "momentum of main memory", "main memory") == {"parametric"}


def test_hope_with_three_levels():
    model = hope(cms_periods=(64, 256, 1024), chunk_size=16)
    levels = [nl.Level(name, p) for name, p in (("fast", 64), ("middle", 256), ("slow", 1024))]
    system = nl.inspect(model, nl.optim.Nested(levels, model))
    memories = {"projection memories", "main memory"}
    assert names(system)[0] == memories  # one chunk for both, none of which waits for the other
    for level, sums in (("fast", True), ("middle", False), ("slow", False)):
        moments = {f"momentum of {level}", f"squares of {level}"}
        beside = {"running sum of middle", "running sum of slow"} if sums else set()
        at = system.level_of(level).index
        assert names(system)[at - 1] == {level} | beside
        assert names(system)[at - 2] == moments
    assert [system.level_of(n).index for n in ("main memory", "fast", "middle", "slow")] == [1, 3, 5, 7]
    assert kinds(system, "projection memories", "main memory") == {"generation"}
    assert kinds(system, "slow", "middle") == {"backpropagation"}
    for layer, block, level in ((0, 0, "fast"), (1, 1, "middle"), (1, 2, "slow")):
        parameter = f"model.layers.{layer}.cms.blocks.{block}.up_proj.weight"
        assert level in system.level_of(parameter).names


def test_the_nested_variant_starts_anew():
    model = hope(cms_periods=(64, 256), cms_variant="nested")
    levels = [nl.Level("fast", 64), nl.Level("slow", 256)]
    system = nl.inspect(model, nl.optim.Nested(levels, model))
    assert "initialisation" in kinds(system, "slow", "fast")
    assert system["initial state of fast"].period == 256


def test_m3_has_its_slow_momentum_in_another_level():
    layer = nn.Linear(8, 8)
    optimizer = nl.optim.M3(layer.named_parameters(), lr=1e-3, periods=(10,))
    system = nl.inspect(layer, optimizer)
    fast, slow = (system.level_of(f"{pace} momentum of weights") for pace in ("fast", "slow"))
    assert fast.index < system.level_of("weights").index < slow.index
    assert system["slow momentum of weights"].period == 10


class Maml(nn.Module):
    """One inner step of gradient descent from a meta-learned initial state."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(3, 1)

    def nested_memories(self) -> tuple[Memory, ...]:
        start = ("network.weight", "network.bias")
        return (
            Memory(
                "adapted",
                "fast_weights",
                "the loss of a task",
                "examples of a task",
                initial=start,
                generated_by=(),
            ),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        start = dict(self.network.named_parameters())

        def loss(weights: dict[str, Tensor]) -> Tensor:
            return (functional_call(self.network, weights, (x,)) - y).square().mean()

        found = grad(loss)(start)
        return functional_call(self.network, {k: v - 0.1 * found[k] for k, v in start.items()}, (x,))


def test_maml_transfers_by_initialisation():
    model = Maml()
    assert model(torch.ones(2, 3), torch.ones(2, 1)).shape == (2, 1)
    system = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert names(system) == [{"adapted"}, {"weights"}]
    assert kinds(system, "weights", "adapted") == {"initialisation"}


class Hypernetwork(nn.Module):
    """A network that makes the weights of another."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(2, 12)

    def nested_memories(self) -> tuple[Memory, ...]:
        made = ("maker.weight", "maker.bias")
        return (Memory("made weights", "fast_weights", "the loss", "task codes", generated_by=made),)

    def forward(self, code: Tensor, x: Tensor) -> Tensor:
        return x @ self.maker(code).view(3, 4)


def test_a_hypernetwork_transfers_by_generation():
    model = Hypernetwork()
    assert model(torch.ones(2), torch.ones(5, 3)).shape == (5, 4)
    system = nl.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert names(system) == [{"made weights"}, {"weights"}]
    assert kinds(system, "weights", "made weights") == {"generation"}
