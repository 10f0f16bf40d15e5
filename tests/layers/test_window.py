"""Window attention and persistent tokens against an explicit mask, in pieces, and at any ages."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nestlearn.layers import Attention, Softmax, Window, WindowState, map_state, tensors_of
from tests.helpers import relative_error
from tests.layers.reference import attention, sees

B, D, H = 2, 16, 2
T = 23
WINDOWS = (1, 2, 3, 5, 8, 64)


def layer(window: int | None, persistent: int = 0, conv_size: int = 0, seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    made = Attention(D, H, window=window, persistent_tokens=persistent, conv_size=conv_size).double()
    torch.nn.init.uniform_(made.softmax.sharpness, 1.0, 2.0)
    return made


def inputs(length: int = T, batch: int = B, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, D, dtype=torch.float64, generator=generator)


def by_mask(att: Attention, x: Tensor) -> Tensor:
    streams, _ = att.streams(x, None)
    return att.finish(attention(att.softmax, streams, sees(x.shape[1], att.window)), x)


def in_pieces(att: Attention, x: Tensor, sizes: list[int], state: Any = None) -> tuple[Tensor, Any]:
    parts = []
    for piece in x.split(sizes, dim=1):
        y, state = att(piece, state)
        parts.append(y)
    return torch.cat(parts, dim=1), state


@pytest.mark.parametrize("persistent", [0, 3])
@pytest.mark.parametrize("window", [None, *WINDOWS])
def test_it_is_attention_under_a_mask_forward_and_backward(window: int | None, persistent: int) -> None:
    att = layer(window, persistent)
    x = inputs().requires_grad_()
    whole = [x, *att.parameters()]
    expected, got = by_mask(att, x), att(x)[0]
    assert relative_error(expected, got) < 1e-5  # unit vectors: an epsilon here, a maximum there
    weight = inputs(seed=1)
    gradients = zip(
        torch.autograd.grad((expected * weight).sum(), whole),
        torch.autograd.grad((got * weight).sum(), whole),
        strict=True,
    )
    for a, b in gradients:
        if a.norm() > 1e-8:
            assert relative_error(a, b) < 1e-4
        else:  # with one key there is nothing to be sharp about
            assert (window, persistent) == (1, 0)
            assert b.norm() < 1e-8


@pytest.mark.parametrize("conv_size", [0, 4])
@pytest.mark.parametrize("persistent", [0, 3])
@pytest.mark.parametrize("window", [None, *WINDOWS])
def test_pieces_of_any_sizes_equal_one_pass(window: int | None, persistent: int, conv_size: int) -> None:
    att, x = layer(window, persistent, conv_size), inputs()
    whole, end = att(x)

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.integers(1, T - 1), max_size=6, unique=True))
    def any_cuts(cuts: list[int]) -> None:
        sizes = [b - a for a, b in pairwise([0, *sorted(cuts), T])]
        got, state = in_pieces(att, x, sizes)
        assert relative_error(whole, got) < 1e-12
        for a, b in zip(tensors_of(end), tensors_of(state), strict=True):
            assert relative_error(a.double(), b.double()) < 1e-12

    any_cuts()
    assert relative_error(whole, in_pieces(att, x, [1] * T)[0]) < 1e-12


@pytest.mark.parametrize("window", WINDOWS)
def test_the_state_is_of_one_size_and_keeps_no_piece_alive(window: int) -> None:
    att, x = layer(window, conv_size=4), inputs(300)
    state, shapes = None, set()
    for piece in x.split([1, 2, 97, 200], dim=1):
        _, state = att(piece, state)
        shapes.add(tuple(tuple(t.shape) for t in tensors_of(state)))
        for tensor in tensors_of(state):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert shapes == {((B, H, window - 1, D // H),) * 2 + ((B,), (B, 3, 3 * D))}


@pytest.mark.parametrize("persistent", [0, 2])
def test_only_the_window_and_no_position_counts(persistent: int) -> None:
    """Whatever came before the window, and however much of it, changes nothing."""
    att, x = layer(5, persistent), inputs(9)
    whole, _ = att(x)
    for before in (1, 7, 300):
        late, _ = att(torch.cat([inputs(before, seed=before), x], dim=1))
        assert relative_error(whole[:, 4:], late[:, before + 4 :]) < 1e-12
        assert not torch.allclose(whole[:, :4], late[:, before : before + 4])


@pytest.mark.parametrize("window", WINDOWS)
def test_nothing_flows_from_outside_the_window(window: int) -> None:
    att, x = layer(window), inputs().requires_grad_()
    (gradient,) = torch.autograd.grad(att(x)[0][:, 15].sum(), x)
    seen = (gradient.abs().sum((0, 2)) > 0).tolist()
    assert seen == [max(0, 16 - window) <= s <= 15 for s in range(T)]


def test_a_window_of_the_whole_length_is_full_attention() -> None:
    full, windowed = layer(None, 2, 4), layer(T, 2, 4)
    assert relative_error(full(inputs())[0], windowed(inputs())[0]) < 1e-12


@pytest.mark.parametrize("persistent", [0, 2])
@pytest.mark.parametrize("window", [1, 3, 8])
@pytest.mark.parametrize("ages", [(0, 1, 2, 30), (5, 6), (2, 2), (0, 0, 9)])
@pytest.mark.parametrize("more", [1, 4, 20])
def test_samples_of_different_ages_are_one_batch(
    window: int, persistent: int, ages: tuple[int, ...], more: int
) -> None:
    att = layer(window, persistent, conv_size=4)
    start = att(inputs(1, 1))[1]
    fresh = map_state(torch.zeros_like, [start])
    states, alone = [], []
    for i, age in enumerate(ages):
        x = inputs(age + more, 1, seed=i)
        states.append(att(x[:, :age])[1] if age else fresh)
        alone.append(att(x)[0][:, age:])
    joined = map_state(lambda *t: torch.cat(t), states)
    now = torch.cat([inputs(age + more, 1, seed=i)[:, age:] for i, age in enumerate(ages)])
    y, after = att(now, joined)
    assert relative_error(torch.cat(alone), y) < 1e-12
    assert after.window.filled.tolist() == [min(age + more, window - 1) for age in ages]
    again, _ = in_pieces(att, now, [1] * more, joined)
    assert relative_error(y, again) < 1e-12


def test_the_cost_is_linear_in_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []
    attend = Softmax.attend

    def counted(self: Softmax, query: Tensor, *rest: Any) -> Tensor:
        products.append(query.shape[0] * query.shape[2] * rest[1].shape[2])
        return attend(self, query, *rest)

    monkeypatch.setattr(Softmax, "attend", counted)
    for length in (256, 512, 1024):
        layer(16)(inputs(length, 1))
    assert products == [length * 31 for length in (256, 512, 1024)]


def test_persistent_values_are_read_where_nothing_else_matches() -> None:
    att = layer(4, persistent=1)
    with torch.no_grad():
        att.softmax.sharpness.fill_(30.0)
        att.query_proj.weight.zero_()
        for h in range(H):  # every query is the persistent key, every token's key its opposite
            att.softmax.persistent_key[h] = torch.eye(D // H)[0]
        streams = att.streams(inputs(), None)[0]
        query = att.softmax.persistent_key.expand(B, H, T, -1)
        from nestlearn.layers.window import attend_window

        y, _ = attend_window(att.softmax, (-query, streams[1], query), None, 4)
    expected = att.softmax.persistent_value.expand(B, H, T, -1)
    assert relative_error(expected[:, :, :1], y[:, :, :1]) < 1e-12


def test_wrong_settings_and_states_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1 or None, got 0"):
        Attention(D, H, window=0)
    with pytest.raises(ValueError, match=r"persistent_tokens must be 0 .none. or more, got -1"):
        Attention(D, H, persistent_tokens=-1)
    _, state = layer(5)(inputs())
    with pytest.raises(ValueError, match=r"window state is \(2, 2, 4, 8\), .* \(2, 2, 2, 8\)"):
        layer(3)(inputs(), state)
    with pytest.raises(ValueError, match="one batch size"):
        layer(5)(inputs(batch=3), state._replace(tail=inputs(0, 3).repeat(1, 1, 3)))
    with pytest.raises(ValueError, match="WindowState, this layer needs AttentionState"):
        layer(None)(inputs(), state)
    broken = WindowState(Window(state.window.key, state.window.value, torch.zeros(3)), state.tail)
    with pytest.raises(ValueError, match="window state"):
        layer(5)(inputs(), broken)
