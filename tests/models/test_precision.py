"""bfloat16 and autocast: memories compute in float32, and a session stays what it is."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import in_pieces, random_tokens, relative_error, tiny_model
from tests.models.test_padding import padded, rows_of
from tests.models.variants import FEW, Changes, over


@over(FEW)
@torch.no_grad()
def test_pieces_equal_one_pass_in_bfloat16(changes: Changes) -> None:
    model, tokens = tiny_model(**changes).to(torch.bfloat16), random_tokens(2, 24)
    whole = model(tokens)
    logits, cache = in_pieces(model, tokens, 7)
    assert whole.logits.dtype == torch.bfloat16
    assert relative_error(whole.logits, logits) < 0.02
    for layer in cache.layers:
        if hasattr(layer.state, "memory"):
            assert all(w.dtype == torch.float32 for w in layer.state.memory.weights)


@over(FEW)
@torch.no_grad()
def test_padded_rows_in_bfloat16(changes: Changes) -> None:
    model, rows = tiny_model(**changes).to(torch.bfloat16), rows_of()
    tokens, mask = padded(rows, "left")
    logits = model(tokens, attention_mask=mask, use_cache=True).logits
    for row, got, there in zip(rows, logits, mask.bool(), strict=True):
        assert relative_error(model(row[None]).logits[0], got[there]) < 0.04


@over(FEW)
@pytest.mark.parametrize("cached", [True, False])
def test_autocast_stays_near_float32(changes: Changes, cached: bool) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 24)
    exact = model(tokens, labels=tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(tokens, labels=tokens, use_cache=cached)
        if cached:
            following = random_tokens(2, 5, seed=1)
            more = model(following, past_key_values=out.past_key_values).logits
    assert out.loss.dtype == torch.float32
    assert relative_error(exact.logits, out.logits) < 0.05
    if cached:
        whole = model(torch.cat([tokens, following], dim=1)).logits[:, -5:]
        assert relative_error(whole, more) < 0.05
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@over(FEW)
@torch.no_grad()
def test_a_cache_made_in_autocast_has_initial_states_of_its_types(changes: Changes) -> None:
    """Rows that have not begun stand beside rows that have."""
    model, rows = tiny_model(**changes), rows_of((6, 2))
    tokens, mask = padded(rows, "left", wide=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = model(tokens[:, :3], attention_mask=mask[:, :3], use_cache=True).past_key_values
        logits = model(tokens[:, 3:], attention_mask=mask, past_key_values=cache).logits
        for row, got in zip(rows, logits, strict=True):
            length = min(len(row), 3)
            assert relative_error(model(row[None]).logits[0, -length:], got[-length:]) < 0.05
