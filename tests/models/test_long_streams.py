"""Memories are bounded by construction: thousands of tokens, at any gate values."""

from __future__ import annotations

import pytest
import torch

from nestlearn.models.hope import HopeCache
from tests.helpers import in_pieces, random_tokens, tiny_model
from tests.models.variants import Changes, over

# One head each: both gates as far as they go, and in between.
GATES = torch.tensor([[30.0, 30.0, -30.0, 0.0], [30.0, -30.0, 30.0, 30.0]])
MIXERS: list[Changes] = [
    {"memory": "mlp"},
    {"memory": "matrix"},
    {"memory": "mlp", "rest": "zero"},
    {"mixer": "gated_delta"},
]


def stream(kind: str, length: int) -> torch.Tensor:
    if kind == "repeating":
        return random_tokens(1, 16).repeat(1, length // 16)
    return random_tokens(1, length)


@over(MIXERS)
@pytest.mark.parametrize(
    ("kind", "gates"), [("random", "initial"), ("random", "extreme"), ("repeating", "extreme")]
)
@torch.no_grad()
def test_a_long_stream_stays_bounded_in_constant_space(changes: Changes, kind: str, gates: str) -> None:
    model = tiny_model(**changes, hidden_size=32, num_heads=4, chunk_size=16)
    if gates == "extreme":
        model.model.layers[0].mixer.gate_bias.copy_(GATES[..., None])
    cache, sizes = HopeCache(), set()
    for piece in stream(kind, 2400).split(400, dim=1):
        logits = model(piece, past_key_values=cache).logits
        largest = max(w.abs().max().item() for layer in cache.states for w in layer.memory.weights)
        assert torch.isfinite(logits).all(), f"not finite after {cache.seen_tokens} tokens"
        assert largest < 1e3, f"a memory reached {largest} after {cache.seen_tokens} tokens"
        sizes.add(cache.num_bytes())
    assert cache.seen_tokens == 2400
    assert len(sizes) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
@over(MIXERS)
@torch.no_grad()
def test_a_stream_that_repeats_chunk_by_chunk_stays_bounded(changes: Changes, seed: int) -> None:
    """Every chunk writes the same keys at the same snapshot: what one chunk overshoots, the next doubles."""
    model = tiny_model(seed, **changes, chunk_size=16)
    model.model.layers[0].mixer.gate_bias.copy_(torch.tensor([4.0, 8.0])[:, None, None].expand(2, 2, 1))
    _, cache = in_pieces(model, random_tokens(1, 16, seed).repeat(1, 96), 384)
    largest = max(w.abs().max().item() for layer in cache.states for w in layer.memory.weights)
    assert largest < 1e3


@torch.no_grad()
def test_attention_stays_finite() -> None:
    model, cache = tiny_model(mixer="attention"), HopeCache()
    for piece in random_tokens(1, 2000).split(500, dim=1):
        assert torch.isfinite(model(piece, past_key_values=cache).logits).all()


@over(MIXERS)
def test_gradients_through_a_long_stream_are_finite(changes: Changes) -> None:
    model, tokens = tiny_model(**changes, chunk_size=16).train(), random_tokens(1, 512)
    model(tokens, labels=tokens).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
