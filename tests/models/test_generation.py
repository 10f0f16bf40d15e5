"""Text generation by transformers' own ``generate``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.models.hope import HopeCache
from tests.helpers import random_tokens, tiny_model
from tests.models.variants import FEW, Changes, over

NEW = 9


def by_hand(model: Any, tokens: Tensor) -> Tensor:
    """Greedy decoding with one whole pass a token."""
    for _ in range(NEW):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return tokens


def lengths(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the pieces that the model is called with from now on."""
    seen: list[int] = []
    embed = model.model._embed
    monkeypatch.setattr(
        model.model,
        "_embed",
        lambda ids, inputs: seen.append((ids if inputs is None else inputs).shape[1]) or embed(ids, inputs),
    )
    return seen


@over(FEW)
def test_greedy_with_and_without_cache_equals_decoding_by_hand(
    changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = tiny_model(**changes), random_tokens(2, 7)
    expected = by_hand(model, prompt)
    seen = lengths(model, monkeypatch)
    cached = model.generate(prompt, max_new_tokens=NEW, do_sample=False, use_cache=True)
    assert seen == [7] + [1] * (NEW - 1)  # the cache was used
    plain = model.generate(prompt, max_new_tokens=NEW, do_sample=False, use_cache=False)
    assert torch.equal(expected, cached)
    assert torch.equal(expected, plain)


@over(FEW)
def test_beam_search_with_cache_equals_beam_search_without(changes: Changes) -> None:
    model, prompt = tiny_model(**changes), random_tokens(2, 7)
    cached, plain = (
        model.generate(prompt, max_new_tokens=NEW, do_sample=False, num_beams=3, use_cache=use)
        for use in (True, False)
    )
    assert cached.shape == (2, 7 + NEW)
    assert torch.equal(cached, plain)
    assert torch.equal(cached[:, :7], prompt)


@over(FEW)
def test_sampling_is_a_function_of_the_seed(changes: Changes) -> None:
    model, prompt = tiny_model(**changes), random_tokens(1, 3)
    texts = []
    for use in (True, False):
        torch.manual_seed(0)
        texts.append(model.generate(prompt, max_new_tokens=NEW, do_sample=True, use_cache=use))
    assert torch.equal(*texts)


@over(FEW)
def test_generation_stops_at_the_end_token(changes: Changes) -> None:
    model, prompt = tiny_model(**changes), random_tokens(1, 7)
    free = by_hand(model, prompt)
    stop = int(free[0, 7 + 3])
    first = int((free[0, 7:] == stop).nonzero()[0])
    text = model.generate(prompt, max_new_tokens=NEW, do_sample=False, eos_token_id=stop, pad_token_id=0)
    assert torch.equal(text, free[:, : 7 + first + 1])


@over(FEW)
def test_a_session_goes_on_from_its_cache(changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = tiny_model(**changes), random_tokens(1, 12)
    expected = by_hand(model, tokens)
    cache = HopeCache()
    with torch.no_grad():
        model(tokens[:, :8], past_key_values=cache)
    seen = lengths(model, monkeypatch)
    text = model.generate(tokens, past_key_values=cache, max_new_tokens=NEW, do_sample=False)
    assert torch.equal(expected, text)
    assert seen[0] == 4  # only what the session had not seen
    assert cache.seen_tokens == 12 + NEW - 1


def test_generating_leaves_the_model_as_it_was() -> None:
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.generate(random_tokens(1, 4), max_new_tokens=4, do_sample=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
