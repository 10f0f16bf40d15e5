"""Taking tokens back: crop, drafts of a smaller model, and what is remembered for it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from nestlearn.models.hope import HopeCache
from nestlearn.models.hope.outputs import CACHE_NAME
from tests.helpers import difference, random_tokens, relative_error, state_tensors, tiny_model
from tests.models.test_padding import padded, rows_of
from tests.models.variants import EVERY, FEW, Changes, over


def recording() -> HopeCache:
    """A cache that remembers its passes from the first token on."""
    cache = HopeCache()
    cache.activate_past_recording()
    return cache


@over(EVERY)
@pytest.mark.parametrize("removed", [4, 11])
@torch.no_grad()
def test_a_cropped_cache_is_one_that_never_read_the_tokens(changes: Changes, removed: int) -> None:
    model, tokens, following = tiny_model(**changes), random_tokens(2, 23), random_tokens(2, 9, seed=1)
    cache = recording()
    for piece in tokens.split([12, 6, 5], dim=1):
        model(piece, past_key_values=cache)
    cache.crop(-removed)
    kept = 23 - removed
    assert cache.get_seq_length() == cache.seen_tokens == kept
    fresh = model(tokens[:, :kept], use_cache=True).past_key_values
    for expected, got in zip(state_tensors(fresh), state_tensors(cache), strict=True):
        assert relative_error(expected, got) < 1e-5
    expected = model(following, past_key_values=fresh).logits
    assert relative_error(expected, model(following, past_key_values=cache).logits) < 1e-5


@over(FEW)
@torch.no_grad()
def test_going_back_to_where_a_pass_began_changes_no_bit(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 15)
    cache = recording()
    model(tokens[:, :9], past_key_values=cache)
    before = cache.copy()
    model(tokens[:, 9:], past_key_values=cache)
    cache.crop(-6)
    assert difference(before.states, cache.states) is None
    cache.activate_past_recording()
    model(tokens[:, 9:], past_key_values=cache)
    cache.crop(9)  # how many to keep, as older transformers say it
    assert difference(before.states, cache.states) is None


@over(FEW)
@torch.no_grad()
def test_a_crop_of_padded_rows(changes: Changes) -> None:
    model, rows = tiny_model(**changes), rows_of((6, 3, 1))
    tokens, mask = padded(rows, "left", wide=6)
    cache = recording()
    model(tokens, attention_mask=mask, past_key_values=cache)
    cache.crop(-2)
    assert cache.seen_tokens.tolist() == [4, 1, 0]
    following = random_tokens(3, 5, seed=1)
    logits = model(following, past_key_values=cache).logits
    for row, more, got in zip(rows, following, logits, strict=True):
        whole = torch.cat([row[: max(len(row) - 2, 0)], more])
        assert relative_error(model(whole[None]).logits[0, -5:], got) < 1e-5


@torch.no_grad()
def test_what_is_remembered_is_chosen_with_the_samples() -> None:
    model, tokens = tiny_model(), random_tokens(3, 12)
    cache = recording()
    model(tokens[:, :5], past_key_values=cache)
    model(tokens[:, 5:], past_key_values=cache)
    cache.reorder_cache(torch.tensor([2, 0]))
    cache.crop(-4)
    expected = model(tokens[[2, 0], :8], use_cache=True).past_key_values
    for a, b in zip(state_tensors(expected), state_tensors(cache), strict=True):
        assert relative_error(a, b) < 1e-5


@torch.no_grad()
def test_what_was_not_remembered_cannot_be_taken_back() -> None:
    model, tokens = tiny_model(), random_tokens(1, 12)
    cache = model(tokens[:, :6], use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"cannot go back to 5 of 6 tokens.*activate_past_recording"):
        cache.crop(-1)
    cache.activate_past_recording()
    model(tokens[:, 6:], past_key_values=cache)
    before = cache.copy()
    with pytest.raises(ValueError, match=r"cannot go back to 2 of 12 tokens, only to 6 or more"):
        cache.crop(-10)
    assert difference(before.states, cache.states) is None
    cache.crop(-6)
    with pytest.raises(ValueError, match="cannot go back to 5 of 6"):
        cache.crop(-1)  # a crop lets go of what was before it
    cache.crop(0)
    cache.crop(7)  # as many as there are
    assert cache.seen_tokens == 6


@torch.no_grad()
def test_a_crop_lets_go_of_what_was_remembered() -> None:
    model, cache = tiny_model(), recording()
    for token in random_tokens(1, 10).split(1, dim=1):
        model(token, past_key_values=cache)
        assert len(cache.layers[0]._pieces) == 1
        cache.crop(0)
    assert cache.layers[0]._pieces == []


def draft(model: Any) -> Any:
    """A smaller model that knows the same words."""
    layers = {"mixer": model.config.mixer, "num_hidden_layers": model.config.num_hidden_layers}
    return tiny_model(seed=1, hidden_size=8, intermediate_size=16, **layers)


@over(EVERY)
@pytest.mark.parametrize("good", [True, False])
@torch.no_grad()
def test_assisted_decoding_gives_the_tokens_of_greedy_decoding(changes: Changes, good: bool) -> None:
    model, prompt = tiny_model(**changes), random_tokens(1, 7)
    other = model if good else draft(model)  # one that is always right, one that hardly ever is
    plain = model.generate(prompt, max_new_tokens=20, do_sample=False)
    assisted = model.generate(prompt, max_new_tokens=20, do_sample=False, assistant_model=other)
    assert torch.equal(plain, assisted)


@over(FEW)
@torch.no_grad()
def test_drafts_out_of_the_prompt_give_the_tokens_of_greedy_decoding(changes: Changes) -> None:
    model = tiny_model(**changes)
    prompt = random_tokens(1, 6).repeat(1, 4)
    settings: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": 49}
    plain = model.generate(prompt, **settings)
    looked_up = model.generate(prompt, prompt_lookup_num_tokens=4, **settings)
    assert torch.equal(plain, looked_up)


@torch.no_grad()
def test_drafts_are_checked_in_one_pass_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The big model reads several tokens at once, and its session ends where plain decoding's ends."""
    model, prompt = tiny_model(), random_tokens(1, 7)
    lengths: list[int] = []
    embed = model.model._embed
    monkeypatch.setattr(
        model.model, "_embed", lambda ids, given: lengths.append(ids.shape[1]) or embed(ids, given)
    )
    sessions = [HopeCache(), HopeCache()]
    settings: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False}
    model.generate(prompt, **{CACHE_NAME: sessions[0]}, **settings)
    lengths.clear()
    model.generate(prompt, **{CACHE_NAME: sessions[1]}, assistant_model=draft(model), **settings)
    assert max(lengths[1:]) > 1
    assert sessions[0].seen_tokens == sessions[1].seen_tokens
    for a, b in zip(state_tensors(sessions[0]), state_tensors(sessions[1]), strict=True):
        assert relative_error(a, b) < 1e-5


@torch.no_grad()
def test_speculative_sampling_is_a_function_of_the_seed() -> None:
    model, prompt = tiny_model(), random_tokens(1, 7)
    texts = []
    for _ in range(2):
        torch.manual_seed(3)
        texts.append(
            model.generate(prompt, max_new_tokens=12, do_sample=True, assistant_model=draft(model), top_k=0)
        )
    assert torch.equal(*texts)
    assert texts[0].shape == (1, 19)


@torch.no_grad()
def test_a_session_remembers_no_passes_after_assisted_decoding() -> None:
    model, cache = tiny_model(), HopeCache()
    drafts: dict[str, Any] = {"prompt_lookup_num_tokens": 2, "eos_token_id": 49}
    text = model.generate(random_tokens(1, 7), **{CACHE_NAME: cache}, max_new_tokens=3, **drafts)
    assert not cache.recording
    model(text[:, -1:], past_key_values=cache)
    assert cache.layers[0]._pieces == []
    kept = recording()
    model.generate(random_tokens(1, 7), **{CACHE_NAME: kept}, max_new_tokens=3, do_sample=False)
    assert kept.recording  # as its owner wants it
    assert len(kept.layers[0]._pieces) == 3


@torch.no_grad()
@pytest.mark.parametrize("configured", [True, False])
def test_drafts_with_a_cache_of_transformers(configured: bool) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.20")
    model, prompt = tiny_model(), random_tokens(1, 7)
    cache = transformers.DynamicCache(config=model.config) if configured else transformers.DynamicCache()
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    plain = model.generate(prompt, **settings)
    assert torch.equal(
        plain, model.generate(prompt, **{CACHE_NAME: cache}, assistant_model=draft(model), **settings)
    )


def test_detaching_cuts_what_is_remembered() -> None:
    model, cache = tiny_model(), recording()
    for piece in random_tokens(1, 12).split(6, dim=1):
        model(piece, past_key_values=cache)
    cache.detach()
    with torch.no_grad():
        cache.crop(-2)
    assert not any(t.requires_grad for t in state_tensors(cache))


@torch.no_grad()
def test_a_pickled_session_holds_no_model() -> None:
    model, cache = tiny_model(), recording()
    model(random_tokens(1, 9), past_key_values=cache)
    again = pickle.loads(pickle.dumps(cache))
    assert difference(cache.states, again.states) is None
    assert again.layers[0]._pieces == []
