"""Sequences of different lengths in one batch: each is read as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.layers import Padding
from nestlearn.models.hope import HopeCache
from tests.helpers import difference, random_tokens, relative_error, state_tensors, tiny_model
from tests.models.variants import ALL, EVERY, FEW, Changes, over

LENGTHS = (9, 4, 17, 1, 9)
WIDE = max(LENGTHS) + 2  # two columns that are padding everywhere
SIDES = pytest.mark.parametrize("side", ["left", "right"])


def padded(rows: list[Tensor], side: str, wide: int = WIDE) -> tuple[Tensor, Tensor]:
    """Tokens and mask of a batch; what stands at padding is random."""
    tokens, mask = random_tokens(len(rows), wide, seed=99), torch.zeros(len(rows), wide, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(wide - len(row), wide) if side == "left" else slice(len(row))
        tokens[i, place], mask[i, place] = row, 1
    return tokens, mask


def rows_of(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    return [random_tokens(1, length, seed)[0] for seed, length in enumerate(lengths)]


@over(ALL)
@pytest.mark.parametrize(("side", "use_cache"), [("left", True), ("right", False)])
@torch.no_grad()
def test_each_row_is_read_as_if_it_were_alone(changes: Changes, side: str, use_cache: bool) -> None:
    model, rows = tiny_model(**changes), rows_of()
    tokens, mask = padded(rows, side)
    out = model(tokens, attention_mask=mask, use_cache=use_cache)
    for row, got, there in zip(rows, out.logits, mask.bool(), strict=True):
        assert relative_error(model(row[None], use_cache=False).logits[0], got[there]) < 1e-5
    assert torch.isfinite(out.logits).all()


@over(EVERY)
@SIDES
@torch.no_grad()
def test_the_state_is_the_one_after_each_rows_last_token(changes: Changes, side: str) -> None:
    model, rows = tiny_model(**changes), rows_of()
    tokens, mask = padded(rows, side)
    cache = model(tokens, attention_mask=mask, use_cache=True).past_key_values
    assert cache.seen_tokens.tolist() == list(LENGTHS)
    assert cache.get_seq_length() == WIDE  # columns, as transformers counts them
    following = random_tokens(len(rows), 6, seed=7)
    logits = model(following, past_key_values=cache).logits
    for row, more, got in zip(rows, following, logits, strict=True):
        assert relative_error(model(torch.cat([row, more])[None]).logits[0, len(row) :], got) < 1e-5


@over(FEW)
@pytest.mark.parametrize("size", [1, 3, 8])
@torch.no_grad()
def test_a_padded_prefill_in_pieces_equals_one_pass(changes: Changes, size: int) -> None:
    """Rows that have not begun have an initial state; the mask covers all columns so far."""
    model, rows = tiny_model(**changes), rows_of()
    tokens, mask = padded(rows, "left")
    whole = model(tokens, attention_mask=mask, use_cache=True)
    cache, logits = HopeCache(), []
    for start in range(0, WIDE, size):
        seen = mask[:, : start + size]
        out = model(tokens[:, start : start + size], attention_mask=seen, past_key_values=cache)
        logits.append(out.logits)
    assert relative_error(whole.logits[mask.bool()], torch.cat(logits, 1)[mask.bool()]) < 1e-5
    for expected, got in zip(state_tensors(whole.past_key_values), state_tensors(cache), strict=True):
        assert relative_error(expected, got) < 1e-5


@over(FEW)
@torch.no_grad()
def test_what_stands_at_padding_changes_no_bit(changes: Changes) -> None:
    model, rows = tiny_model(**changes), rows_of()
    tokens, mask = padded(rows, "left")
    other = torch.where(mask.bool(), tokens, random_tokens(*tokens.shape, seed=5))
    assert not torch.equal(tokens, other)
    first, second = (model(t, attention_mask=mask, use_cache=True) for t in (tokens, other))
    assert torch.equal(first.logits[mask.bool()], second.logits[mask.bool()])
    assert difference(first.past_key_values.states, second.past_key_values.states) is None


@over(FEW)
@SIDES
def test_gradients_are_those_of_the_rows_alone(changes: Changes, side: str) -> None:
    model, rows = tiny_model(**changes), rows_of((9, 4, 11))
    tokens, mask = padded(rows, side, wide=12)
    labels = tokens.masked_fill(mask == 0, -100)
    model(tokens, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    count = sum(len(row) - 1 for row in rows)
    for row in rows:
        (model(row[None], labels=row[None]).loss * (len(row) - 1) / count).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert relative_error(parameter.grad, got[name]) < 1e-4, name


@over([{}, {"mixer": "attention"}])
def test_checkpointing_changes_no_gradient_of_padded_rows(changes: Changes) -> None:
    tokens, mask = padded(rows_of((9, 4, 11)), "left", wide=12)
    labels, gradients = tokens.masked_fill(mask == 0, -100), []
    for checkpointing in (False, True):
        model = tiny_model(**changes).train()
        if checkpointing:
            enable = (
                getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            )
            enable()
        model(tokens, attention_mask=mask, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert relative_error(gradient, gradients[1][name]) < 1e-6, name


@over([{}, {"mixer": "attention"}])
def test_gradients_go_through_a_cache_of_padded_rows(changes: Changes) -> None:
    model, rows = tiny_model(**changes), rows_of((5, 3))
    tokens, mask = padded(rows, "left", wide=5)
    cache = model(tokens, attention_mask=mask, use_cache=True).past_key_values
    model(random_tokens(2, 3, seed=4), past_key_values=cache).logits.sum().backward()
    gradient = model.get_input_embeddings().weight.grad
    for row in rows:
        assert gradient[row].norm() > 0


@over(EVERY)
@torch.no_grad()
def test_greedy_generation_of_padded_prompts_equals_each_prompt_alone(changes: Changes) -> None:
    model, rows = tiny_model(**changes), rows_of()
    tokens, mask = padded(rows, "left")
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    texts = model.generate(tokens, attention_mask=mask, **settings)
    for row, text in zip(rows, texts, strict=True):
        alone = model.generate(row[None], attention_mask=torch.ones(1, len(row)), **settings)
        assert torch.equal(alone[0, len(row) :], text[WIDE:])


@torch.no_grad()
def test_a_row_without_tokens_leaves_its_session_as_it_was() -> None:
    model = tiny_model()
    cache = model(random_tokens(2, 7), use_cache=True).past_key_values
    before = cache.split()[0]
    mask = torch.tensor([[0, 0, 0], [1, 1, 1]])
    model(random_tokens(2, 3, seed=1), attention_mask=mask, past_key_values=cache)
    assert cache.seen_tokens.tolist() == [7, 10]
    assert difference(before.states, cache.split()[0].states) is None


def test_padding_names_where_the_tokens_are() -> None:
    padding = Padding.of(torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]]))
    assert padding is not None
    assert padding.lengths.tolist() == [2, 1, 0]
    assert padding.starts.tolist()[:2] == [1, 0]
    x = torch.arange(3.0).expand(3, 3)[:, :, None]
    assert padding.aligned(x)[0, :2, 0].tolist() == [1, 2]
    assert padding.back(padding.aligned(x))[:, :, 0].tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]
    assert Padding.of(torch.ones(2, 3)) is None
    assert Padding.of(None) is None
