"""Self-modifying Titans as a layer, around the memories."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nestlearn.layers import SelfModifyingTitans
from nestlearn.memory import MemoryRule, Streams, naive
from nestlearn.memory.rule import PROJECTIONS, QUERY
from tests.helpers import copy_tree, relative_error, state_tensors
from tests.memory.rules import short

B, T, D, H = 2, 11, 16, 2

RULES = [
    MemoryRule(kind="matrix", chunk_size=4),
    MemoryRule(kind="mlp", chunk_size=4),
    MemoryRule(kind="mlp", chunk_size=4, adaptive=("key", "value", "query"), causal_reads=False),
    MemoryRule(kind="matrix", chunk_size=4, adaptive=(), rest="zero"),
    MemoryRule(kind="mlp", chunk_size=4, objective="l2", inner_norm=True, momentum=True, rate_max=0.1),
    MemoryRule(kind="matrix", chunk_size=4, gates="channel"),
    MemoryRule(
        kind="matrix", chunk_size=4, adaptive=(), erase="none", rate="one", retention="fixed", rest="zero"
    ),
]


def layer(rule: MemoryRule, **changes: Any) -> SelfModifyingTitans:
    torch.manual_seed(0)
    return SelfModifyingTitans(D, H, rule, **changes).double()


def inputs(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("conv_size", [0, 4])
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_it_is_the_equations_between_projections_norm_and_gate(rule: MemoryRule, conv_size: int) -> None:
    titans, x = layer(rule, conv_size=conv_size), inputs()
    torch.nn.init.normal_(titans.norm.weight)
    streams = torch.cat([titans.key_proj(x), titans.value_proj(x), titans.query_proj(x)], dim=-1)
    mixed, _ = titans.convolution(streams)
    heads = [s.view(B, T, H, D // H).transpose(1, 2) for s in mixed.chunk(3, dim=-1)]
    reads, memory = naive.self_modifying(Streams(*heads), titans.parameters_of_memory(), None, rule)
    y = reads / (reads.square().mean(-1, keepdim=True) + 1e-6).sqrt() * titans.norm.weight
    expected = titans.out_proj(y.transpose(1, 2).reshape(B, T, D) * F.silu(titans.gate_proj(x)))
    got, state = titans(x)
    assert relative_error(expected, got) < 1e-10
    for a, b in zip(memory.weights, state.memory.weights, strict=True):
        assert relative_error(a, b) < 1e-10


@pytest.mark.parametrize("sizes", [[1] * T, [4, 4, 3], [5, 6], [10, 1]])
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_pieces_equal_one_pass_and_leave_states_as_they_were(rule: MemoryRule, sizes: list[int]) -> None:
    titans, x = layer(rule), inputs()
    whole, end = titans(x)
    state, parts, seen = None, [], []
    for piece in x.split(sizes, dim=1):
        y, state = titans(piece, state)
        parts.append(y)
        seen.append((state, copy_tree(state_tensors(state))))
    assert relative_error(whole, torch.cat(parts, dim=1)) < 1e-12
    for a, b in zip(state_tensors(end), state_tensors(state), strict=True):
        assert relative_error(a, b) < 1e-12
    for kept, bits in seen:
        assert all(torch.equal(a, b) for a, b in zip(state_tensors(kept), bits, strict=True))


@pytest.mark.parametrize("rule", RULES, ids=short)
def test_heads_are_independent(rule: MemoryRule) -> None:
    """Values of one head never reach another before the output projection."""
    titans, x = layer(rule), inputs()
    titans.out_proj.weight.data.copy_(torch.eye(D))
    before, _ = titans(x)
    titans.value_proj.weight.data[D // H :] += 1.0  # the second head's
    after, _ = titans(x)
    assert torch.equal(before[..., : D // H], after[..., : D // H])
    assert not torch.equal(before[..., D // H :], after[..., D // H :])


def test_initial_states() -> None:
    titans = SelfModifyingTitans(64, 2, MemoryRule(kind="matrix"))
    parameters = titans.parameters_of_memory()
    assert parameters.weights[0].shape == (5, 2, 32, 32)
    assert torch.linalg.matrix_norm(parameters.weights[0], 2).max() < 0.5
    assert torch.allclose(parameters.write_scale[:-1], torch.tensor(0.1))
    assert torch.equal(parameters.write_scale[-1], torch.ones(2))
    assert torch.sigmoid(parameters.gate_bias[1]).allclose(torch.tensor(0.982), atol=1e-3)
    mlp = SelfModifyingTitans(64, 2, MemoryRule(adaptive=(*PROJECTIONS, QUERY)), memory_expansion=3)
    outer, inner = mlp.parameters_of_memory().weights
    assert (outer.shape, inner.shape) == ((6, 2, 32, 96), (6, 2, 96, 32))


def test_a_static_layer_has_one_memory_and_no_write_scale() -> None:
    titans = layer(RULES[3])
    assert titans.write_logit is None
    assert titans.memory.shape == (1, H, D // H, D // H)
    assert torch.equal(titans.parameters_of_memory().write_scale, torch.ones(1, H).double())


def test_parameters_are_those_that_the_rule_reads() -> None:
    names = [
        {name for name, _ in layer(rule).named_parameters() if "." not in name}
        for rule in (RULES[4], RULES[6])
    ]
    common = {
        "memory_out",
        "memory_in",
        "gate_weight",
        "gate_bias",
        "write_logit",
        "inner_scale",
        "inner_shift",
    }
    assert names == [common, {"memory"}]  # linear attention and retention have no gates
    assert layer(RULES[4]).gate_weight.shape == (3, H, D // H)  # rate, retention and momentum
    assert layer(RULES[5]).gate_bias.shape == (2, H, D // H)  # one per channel


@pytest.mark.parametrize("rule", RULES, ids=short)
def test_reset_parameters_is_a_function_of_the_seed(rule: MemoryRule) -> None:
    titans = layer(rule)
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        titans.reset_parameters()
        states.append(copy_tree(dict(titans.named_parameters())))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("rule", RULES, ids=short)
def test_it_can_be_made_without_storage(rule: MemoryRule) -> None:
    """Large models are made on the meta device and filled from a file."""
    with torch.device("meta"):
        titans = SelfModifyingTitans(D, H, rule)
    assert all(p.is_meta for p in titans.parameters())


@pytest.mark.parametrize("conv_size", [0, 4])
@pytest.mark.parametrize("rule", RULES, ids=short)
def test_a_state_of_another_batch_size_is_refused(rule: MemoryRule, conv_size: int) -> None:
    titans = layer(rule, conv_size=conv_size)
    _, state = titans(inputs())
    with pytest.raises(ValueError, match="batch size"):
        titans(inputs()[:1], state)


def test_a_state_of_another_rule_is_refused() -> None:
    _, state = layer(RULES[0])(inputs())
    with pytest.raises(ValueError, match="state"):
        layer(RULES[1])(inputs(), state)
    short = state.memory._replace(weights=tuple(w[..., :4] for w in state.memory.weights))
    with pytest.raises(ValueError, match="configuration"):
        layer(RULES[0])(inputs(), state._replace(memory=short))
