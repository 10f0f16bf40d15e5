"""Titans' combinations against their equations, token by token, and what must hold for all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nestlearn.layers import MemoryAsContext, MemoryAsGate, MemoryAsLayer, map_state, tensors_of
from nestlearn.layers.mixer import by_heads, joined
from nestlearn.layers.titans import Combination
from nestlearn.memory import MemoryRule, Streams, initial_state, naive
from nestlearn.memory.functional import hidden_features
from tests.helpers import in_pieces as model_in_pieces
from tests.helpers import random_tokens, relative_error, tiny_model
from tests.layers.reference import attention, sees

B, D, H, T, C = 2, 16, 2, 19, 4
RULE = MemoryRule(
    kind="mlp",
    objective="l2",
    erase="none",
    momentum=True,
    rate_max=1 / C,
    chunk_size=C,
    adaptive=(),
    rest="zero",
)
RULES = {
    "titans": RULE,
    "snapshot reads": replace(RULE, causal_reads=False),
    "rest": replace(RULE, rest="initial"),
    "chunk of one": replace(RULE, chunk_size=1),
    "matrix": replace(RULE, kind="matrix", objective="dot", erase="layers", momentum=False),
    "inner norm": replace(RULE, inner_norm=True, main_residual=True),
}
KINDS = [MemoryAsContext, MemoryAsGate, MemoryAsLayer]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def layer(kind: type[Combination], rule: MemoryRule = RULE, **more: Any) -> Any:
    torch.manual_seed(0)
    made = kind(D, H, rule, **{"window": 5, "persistent_tokens": 2, **more}).double()
    for name, parameter in made.named_parameters():
        if "norm" in name or "inner" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        if name in ("memory", "memory_out", "memory_in"):  # memories that say something from the start
            parameter.data.mul_(5.0)
    return made


def inputs(length: int = T, batch: int = B, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, D, dtype=torch.float64, generator=generator)


def in_pieces(mixer: Any, x: Tensor, sizes: list[int], state: Any = None) -> tuple[Tensor, Any]:
    parts = []
    for piece in x.split(sizes, dim=1):
        y, state = mixer(piece, state)
        parts.append(y)
    return torch.cat(parts, dim=1), state


def remembered(mixer: Any, streams: tuple[Tensor, Tensor, Tensor], state: Any = None) -> tuple[Tensor, Any]:
    y, state = naive.self_modifying(Streams(*streams), mixer.parameters_of_memory(), state, mixer.rule)
    return mixer.norm(y), state


def gate_by_hand(mixer: Any, x: Tensor) -> Tensor:
    """Eq. 26 to 28."""
    streams, _ = mixer.streams(x, None)
    y = mixer.attention_norm(attention(mixer.softmax, streams, sees(x.shape[1], mixer.window)))
    gate = F.silu(mixer.gate_proj(joined(remembered(mixer, streams)[0])))
    return mixer.out_proj(joined(y) * gate)


def layer_by_hand(mixer: Any, x: Tensor) -> Tensor:
    """Eq. 29 to 31."""
    reads, _ = remembered(mixer, mixer.streams(x, None)[0])
    streams, _ = mixer.attention.streams(joined(reads), None)
    y = attention(mixer.softmax, streams, sees(x.shape[1], mixer.window))
    return mixer.out_proj(joined(y) * F.silu(mixer.gate_proj(x)))


def snapshot_read(mixer: Any, query: Tensor, state: Any) -> Tensor:
    """``M(q)`` of the memory at the segment's start, for ``[B, H, e]``."""
    rule, parameters = mixer.rule, mixer.parameters_of_memory()
    weights = [w[:, :, -1] for w in state.snapshot]
    if rule.rest == "initial":
        weights = [w + start[-1] for w, start in zip(weights, parameters.weights, strict=True)]
    q = F.normalize(query, dim=-1)[..., None]
    if rule.kind == "matrix":
        return (weights[0] @ q)[..., 0]
    out = (weights[0] @ hidden_features(weights[1] @ q, rule, -2))[..., 0]
    if rule.inner_norm:
        scale, shift = (n[-1] for n in parameters.norm)
        out = F.layer_norm(out, out.shape[-1:], eps=1e-6) * scale + shift
    return q[..., 0] + out if rule.main_residual else out


def context_by_hand(mixer: Any, x: Tensor) -> Tensor:
    """Eq. 21 to 25, a token at a time; attention is computed anew over the segment for every token."""
    (key, value, query), _ = mixer.attention.streams(x, None)
    state = initial_state(mixer.parameters_of_memory(), Streams(key, value, query), mixer.rule)
    size, tail, out = mixer.rule.chunk_size, None, []
    recalled: list[Tensor] = []
    for t in range(x.shape[1]):
        start = t - t % size
        if t == start:
            recalled = []
        recalled.append(snapshot_read(mixer, query[:, :, t], state))
        h = joined(torch.stack(recalled, dim=2))
        extra = tuple(by_heads(p(h), H) for p in (mixer.attention.key_proj, mixer.attention.value_proj))
        segment = tuple(s[:, :, start : t + 1] for s in (key, value, query))
        y = attention(mixer.softmax, segment, sees(t + 1 - start, None), extra)[:, :, -1:]  # type: ignore
        y = mixer.attention_norm(y)
        streams, tail = mixer.streams(joined(y), tail)
        read, state = remembered(mixer, streams, state)
        out.append(mixer.out_proj(joined(y) * F.silu(mixer.gate_proj(joined(read)))))
    return torch.cat(out, dim=1)


BY_HAND = {
    MemoryAsContext: context_by_hand,
    MemoryAsGate: gate_by_hand,
    MemoryAsLayer: layer_by_hand,
}


@every_kind
@every_rule
def test_it_is_the_papers_equations_forward_and_backward(kind: type[Combination], rule: MemoryRule) -> None:
    mixer, x = layer(kind, rule), inputs().requires_grad_()
    everything = [x, *mixer.parameters()]
    expected, got = BY_HAND[kind](mixer, x), mixer(x)[0]
    assert relative_error(expected, got) < 1e-4  # unit vectors: an epsilon here, a maximum there
    weight = inputs(seed=1)
    for a, b in zip(
        torch.autograd.grad((expected * weight).sum(), everything),
        torch.autograd.grad((got * weight).sum(), everything),
        strict=True,
    ):
        assert a.norm() > 1e-6
        assert relative_error(a, b) < 1e-3


@every_kind
@every_rule
@pytest.mark.parametrize("conv_size", [0, 4])
def test_pieces_of_any_sizes_equal_one_pass(
    kind: type[Combination], rule: MemoryRule, conv_size: int
) -> None:
    mixer, x = layer(kind, rule, conv_size=conv_size), inputs()
    with torch.no_grad():
        whole, end = mixer(x)

        @settings(max_examples=6, deadline=None)
        @given(st.lists(st.integers(1, T - 1), max_size=6, unique=True))
        def any_cuts(cuts: list[int]) -> None:
            sizes = [b - a for a, b in pairwise([0, *sorted(cuts), T])]
            got, state = in_pieces(mixer, x, sizes)
            assert relative_error(whole, got) < 1e-9
            for a, b in zip(tensors_of(end), tensors_of(state), strict=True):
                assert relative_error(a.double(), b.double()) < 1e-9

        any_cuts()
        assert relative_error(whole, in_pieces(mixer, x, [1] * T)[0]) < 1e-9


@every_kind
def test_gradients_in_pieces_equal_those_of_one_pass(kind: type[Combination]) -> None:
    mixer, x = layer(kind), inputs()
    parameters = list(mixer.parameters())
    whole = torch.autograd.grad(mixer(x)[0].square().sum(), parameters)
    pieces = torch.autograd.grad(in_pieces(mixer, x, [6, 1, 12])[0].square().sum(), parameters)
    for a, b in zip(whole, pieces, strict=True):
        assert relative_error(a, b) < 1e-9


@every_kind
@torch.no_grad()
def test_a_token_changes_nothing_before_it_and_no_other_sample(kind: type[Combination]) -> None:
    mixer, x = layer(kind), inputs()
    before = mixer(x)[0]
    for position in range(T):
        other = x.clone()
        other[0, position] += 1.0
        after = mixer(other)[0]
        assert torch.equal(before[0, :position], after[0, :position])
        assert torch.equal(before[1], after[1])
        assert (before[0, position:] != after[0, position:]).any(-1).all()  # memory: for ever


@every_kind
@pytest.mark.parametrize("ages", [(1, 2, 3, 17), (4, 6), (5, 5), (8, 4, 9)])
@pytest.mark.parametrize("more", [1, 11])
@torch.no_grad()
def test_samples_of_different_ages_are_one_batch(
    kind: type[Combination], ages: tuple[int, ...], more: int
) -> None:
    mixer = layer(kind)
    streams = [inputs(age + more, 1, seed=i) for i, age in enumerate(ages)]
    states = [mixer(x[:, :age])[1] for x, age in zip(streams, ages, strict=True)]
    alone = [mixer(x)[0][:, age:] for x, age in zip(streams, ages, strict=True)]
    now = torch.cat([x[:, age:] for x, age in zip(streams, ages, strict=True)])
    y, state = mixer(now, map_state(lambda *t: torch.cat(t), states))
    assert relative_error(torch.cat(alone), y) < 1e-9
    assert state.memory.position.tolist() == [(age + more) % C for age in ages]


@every_kind
@pytest.mark.parametrize("gate", [-20.0, 0.0, 20.0])
@torch.no_grad()
def test_a_long_stream_stays_bounded_in_constant_space(kind: type[Combination], gate: float) -> None:
    mixer, state, sizes = layer(kind), None, set()
    mixer.gate_bias[0] = gate  # the learning rate
    mixer.gate_bias[1:] = 20.0  # keep everything, and all of the momentum
    for piece in inputs(2000, 1).split(400, dim=1):
        y, state = mixer(piece, state)
        assert torch.isfinite(y).all()
        assert y.abs().max() < 1e3
        sizes.add(tuple(t.shape for t in tensors_of(state)))
        kept = sum(
            {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_of(state)}.values()
        )
        assert kept <= 2 * sum(t.numel() * t.element_size() for t in tensors_of(state))
    assert len(sizes) == 1


@pytest.mark.parametrize("mixer", ["titans_mac", "titans_mag", "titans_mal"])
@torch.no_grad()
def test_rounding_errors_do_not_grow_along_a_stream(mixer: str) -> None:
    """What memory recalls is context for what it learns: a loop that must not amplify."""
    model, tokens = tiny_model(mixer=mixer), random_tokens(1, 2000)
    whole, pieces = model(tokens).logits, model_in_pieces(model, tokens, 37)[0]
    assert relative_error(whole[:, -500:], pieces[:, -500:]) < 1e-4


@torch.no_grad()
def test_memory_reaches_behind_the_window_and_the_segment() -> None:
    """Attention to two tokens or a segment of four do not reach from 18 to 0; by the memory, it counts."""
    for kind in KINDS:
        for silent in (False, True):
            mixer = layer(kind, window=2, conv_size=0)
            if silent:
                mixer.gate_bias[0], mixer.gate_bias[1] = -1e9, 1e9  # nothing written, nothing forgotten
            other = inputs()
            other[:, 0] += 1.0
            assert torch.equal(mixer(inputs())[0][:, -1], mixer(other)[0][:, -1]) == silent


@torch.no_grad()
def test_context_is_what_memory_recalls() -> None:
    """With the recalled tokens' values silenced, something changes from the second segment on."""
    mixer, x = layer(MemoryAsContext), inputs()
    with_context = mixer(x)[0]
    mixer._recalled = lambda query, memory: torch.zeros_like(query)
    without = mixer(x)[0]
    assert not torch.allclose(with_context[:, C:], without[:, C:])


def test_the_graph_is_cut_after_so_many_segments() -> None:
    x = inputs(12, 1).requires_grad_()
    seen = {}
    for cut in (None, 1, 2):
        mixer = layer(MemoryAsContext, replace(RULE, backprop_chunks=cut), conv_size=0)
        (gradient,) = torch.autograd.grad(mixer(x)[0][:, 8].sum(), x)
        seen[cut] = (gradient.abs().sum(-1) > 0)[0].tolist()
    assert seen[None] == [True] * 9 + [False] * 3
    assert seen[1] == seen[2] == [False] * 8 + [True] + [False] * 3  # token 8 is the first after either cut
    mixer = layer(MemoryAsContext, replace(RULE, backprop_chunks=2), conv_size=0)
    (gradient,) = torch.autograd.grad(mixer(x)[0][:, 7].sum(), x)
    assert (gradient.abs().sum(-1) > 0)[0].tolist() == [True] * 8 + [False] * 4


@every_kind
def test_wrong_settings_and_states_are_refused(kind: type[Combination]) -> None:
    with pytest.raises(ValueError, match="static projections, got a rule with adaptive key"):
        kind(D, H, MemoryRule())
    with pytest.raises(ValueError, match="window must be at least 1 or None, got 0"):
        kind(D, H, RULE, window=0)
    with pytest.raises(ValueError, match="even width"):
        kind(6, 2, RULE)
    assert kind(D, H, RULE).window == 64
    _, state = layer(kind)(inputs())
    with pytest.raises(ValueError, match="one batch size"):
        layer(kind)(inputs(batch=3), state)
    with pytest.raises(ValueError, match=r"one configuration|at positions"):
        layer(kind, RULES["matrix"])(inputs(), state)
    if kind is MemoryAsContext:
        with pytest.raises(ValueError, match=r"segment state is \(2, 2, 2, 3, 8\)"):
            layer(kind, replace(RULE, chunk_size=8))(inputs(), state)


def test_the_layers_have_no_more_projections_than_they_need() -> None:
    squares = {}
    for kind in KINDS:
        mixer = layer(kind)
        squares[kind] = sum(p.numel() for p in mixer.parameters() if p.shape == (D, D)) // D**2
    assert squares == {MemoryAsContext: 8, MemoryAsGate: 5, MemoryAsLayer: 8}
