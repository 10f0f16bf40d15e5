"""Text generation by transformers' own ``generate``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.models.hope import HopeCache, NestedMemoryLayer
from nestlearn.models.hope.outputs import CACHE_NAME, cache_of
from tests.helpers import random_tokens, relative_error, state_tensors, tiny_model
from tests.models.test_padding import padded, rows_of
from tests.models.variants import EVERY, FEW, Changes, over

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


@over(EVERY)
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


@over(EVERY)
def test_beam_search_with_cache_equals_beam_search_without(changes: Changes) -> None:
    model, prompt = tiny_model(**changes), random_tokens(2, 7)
    cached, plain = (
        model.generate(prompt, max_new_tokens=NEW, do_sample=False, num_beams=3, use_cache=use)
        for use in (True, False)
    )
    assert cached.shape == (2, 7 + NEW)
    assert torch.equal(cached, plain)
    assert torch.equal(cached[:, :7], prompt)


@over(EVERY)
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


@over(EVERY)
def test_a_session_goes_on_from_its_cache(changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = tiny_model(**changes), random_tokens(1, 12)
    expected = by_hand(model, tokens)
    cache = HopeCache()
    with torch.no_grad():
        model(tokens[:, :8], past_key_values=cache)
    seen = lengths(model, monkeypatch)
    text = model.generate(tokens, **{CACHE_NAME: cache}, max_new_tokens=NEW, do_sample=False)
    assert torch.equal(expected, text)
    assert seen[0] == 4  # only what the session had not seen
    assert cache.seen_tokens == 12 + NEW - 1


def test_generating_leaves_the_model_as_it_was() -> None:
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.generate(random_tokens(1, 4), max_new_tokens=4, do_sample=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


@over(EVERY)
@pytest.mark.parametrize("chunk", [3])
def test_a_prompt_may_be_read_in_chunks(changes: Changes, chunk: int) -> None:
    model, prompt = tiny_model(**changes), random_tokens(2, 11)
    settings: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    expected = model.generate(prompt, **settings)
    assert torch.equal(expected, model.generate(prompt, prefill_chunk_size=chunk, **settings))


@over(FEW)
def test_beams_of_padded_prompts_equal_beams_without_a_cache(changes: Changes) -> None:
    model = tiny_model(**changes)
    tokens, mask = padded(rows_of((7, 3)), "left", wide=8)
    settings: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "num_beams": 3, "pad_token_id": 0}
    cached, plain = (
        model.generate(tokens, attention_mask=mask, use_cache=use, **settings) for use in (True, False)
    )
    assert torch.equal(cached, plain)


@over(FEW)
def test_several_samples_of_a_prompt(changes: Changes) -> None:
    model, prompt = tiny_model(**changes), random_tokens(2, 5)
    texts = []
    for use in (True, False):
        torch.manual_seed(1)
        texts.append(
            model.generate(
                prompt, max_new_tokens=NEW, do_sample=True, num_return_sequences=3, top_p=0.9, use_cache=use
            )
        )
    assert texts[0].shape == (6, 5 + NEW)
    assert torch.equal(*texts)


@over(EVERY)
def test_scores_with_and_without_a_cache_are_the_same(changes: Changes) -> None:
    model, prompt = tiny_model(**changes), random_tokens(2, 6)
    settings: dict[str, Any] = {
        "max_new_tokens": NEW,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
    }
    cached, plain = (model.generate(prompt, use_cache=use, **settings) for use in (True, False))
    for kind in ("scores", "logits"):
        for expected, got in zip(plain[kind], cached[kind], strict=True):
            assert relative_error(expected, got) < 1e-5
    assert len(cached.hidden_states) == NEW
    assert len(cached.hidden_states[0]) == model.config.num_hidden_layers + 1
    assert isinstance(cache_of(cached), HopeCache)


@over(FEW)
def test_embeddings_may_be_the_prompt(changes: Changes) -> None:
    model, prompt = tiny_model(**changes), random_tokens(2, 6)
    settings: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    embedded = model.generate(inputs_embeds=model.get_input_embeddings()(prompt), **settings)
    assert torch.equal(model.generate(prompt, **settings)[:, 6:], embedded)


def test_a_conversation_goes_on_with_the_whole_text() -> None:
    """What transformers' chat loops do: the whole text again and again, with the cache of what was read."""
    model, cache = tiny_model(), HopeCache()
    text = random_tokens(1, 5)
    for turn in range(3):
        expected = model.generate(text, max_new_tokens=4, do_sample=False)
        text = model.generate(text, **{CACHE_NAME: cache}, max_new_tokens=4, do_sample=False)
        assert torch.equal(expected, text)
        text = torch.cat([text, random_tokens(1, 3, seed=turn + 1)], dim=1)
    assert cache.seen_tokens == text.shape[1] - 4  # all but the last token that was made, and the new ones


def test_a_prompt_that_many_requests_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shared, requests = tiny_model(), random_tokens(1, 20), random_tokens(3, 4, seed=1)
    cache = model(shared, use_cache=True).past_key_values
    for request in requests:
        whole = torch.cat([shared, request[None]], dim=1)
        expected = model.generate(whole, max_new_tokens=NEW, do_sample=False)
        for own in (cache.copy(), copy.deepcopy(cache)):
            text = model.generate(whole, **{CACHE_NAME: own}, max_new_tokens=NEW, do_sample=False)
            assert torch.equal(expected, text)
    assert cache.seen_tokens == 20


@over([{}, {"mixer": "attention"}, {"mixer": "titans_mag", "window": 4}])
def test_an_offloaded_cache_gives_the_same(changes: Changes) -> None:
    model, prompt = tiny_model(**changes), random_tokens(2, 7)
    settings: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
    out = model.generate(prompt, cache_implementation="offloaded", return_dict_in_generate=True, **settings)
    assert cache_of(out).offloading
    assert all(t.device.type == "cpu" for t in state_tensors(cache_of(out)))
    assert torch.equal(model.generate(prompt, **settings), out.sequences)


def test_an_offloaded_cache_moves_states_away_and_back() -> None:
    """On a device that only counts: states arrive there to be read, and leave it afterwards."""
    cache, model = HopeCache(offloading=True), tiny_model(num_hidden_layers=2)
    moves: list[str] = []
    model(random_tokens(1, 5), past_key_values=cache)
    for layer in cache.layers:
        layer.offload = lambda: moves.append("away")  # type: ignore[method-assign]
        here = layer.state_on
        layer.state_on = lambda device, here=here: moves.append(str(device)) or here(device)
    model(random_tokens(1, 5), past_key_values=cache)
    assert moves == ["cpu", "cpu", "away", "away"]


@pytest.mark.parametrize("kind", ["static", "quantized"])
def test_a_cache_for_keys_and_values_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind}.*constant size"):
        tiny_model().generate(random_tokens(1, 3), max_new_tokens=2, cache_implementation=kind)


def test_transformers_builds_the_cache_out_of_the_configuration() -> None:
    transformers = pytest.importorskip("transformers", minversion="5.20")
    model, prompt = tiny_model(mixer=("titans", "attention"), num_hidden_layers=2), random_tokens(1, 9)
    built = transformers.DynamicCache(config=model.config)
    assert [type(layer) for layer in built.layers] == [NestedMemoryLayer] * 2
    logits = [model(piece, past_key_values=built).logits for piece in prompt.split(4, dim=1)]
    assert relative_error(model(prompt).logits, torch.cat(logits, dim=1)) < 1e-5
    assert built.get_seq_length() == 9


def test_a_cache_of_another_kind_of_model_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    )
    cache = cache_of(llama(random_tokens(1, 3), use_cache=True))
    with pytest.raises(ValueError, match=r"DynamicLayer.*MixerState.*belongs to one model"):
        tiny_model()(random_tokens(1, 3), past_key_values=cache)
    own = cache_of(tiny_model()(random_tokens(1, 3), use_cache=True))
    with pytest.raises(ValueError, match="no keys and values to append to"):
        llama(random_tokens(1, 3), **{CACHE_NAME: own})


@over(EVERY)
def test_a_models_score_is_the_sum_of_its_log_probabilities(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(1, 12)[0].tolist()
    with torch.no_grad():
        logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    expected = [sum(logs[t - 1, tokens[t]].item() for t in range(start, 12)) for start in (7, 9)]
    scores = model.score([(tokens[:7], tokens[7:]), (tokens[:9], tokens[9:])])
    assert [s.log_probability for s in scores] == pytest.approx(expected, rel=1e-5)


def test_a_conversation_goes_on_with_new_tokens() -> None:
    model, text = tiny_model(), random_tokens(1, 14)
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(text, **settings)
    for read in (2, 7, 11):
        cache = cache_of(model(text[:, :read], use_cache=True))
        new = text[:, read:]
        got = model.generate(new, attention_mask=torch.ones(1, 14), **{CACHE_NAME: cache}, **settings)
        assert torch.equal(expected[:, read:], got)


@pytest.mark.parametrize("length", [3, 8])
def test_a_text_that_is_not_longer_than_the_session_is_refused(length: int) -> None:
    model = tiny_model()
    cache = cache_of(model(random_tokens(1, 8), use_cache=True))
    with pytest.raises(ValueError, match=rf"{length} columns, and the cache has read 8.*attention_mask"):
        model.generate(random_tokens(1, length), **{CACHE_NAME: cache}, max_new_tokens=2)


def test_rows_that_have_ended_without_padding() -> None:
    model, tokens = tiny_model(), random_tokens(2, 6)
    free = model.generate(tokens, max_new_tokens=12, do_sample=False)
    cache, end = HopeCache(), int(free[0, 6 + 2])
    settings: dict[str, Any] = {
        "max_new_tokens": 12,
        "do_sample": False,
        "eos_token_id": end,
        "pad_token_id": 0,
    }
    model.generate(tokens, **{CACHE_NAME: cache}, **settings)
    for i, row in enumerate(tokens):
        alone = HopeCache()
        model.generate(row[None], **{CACHE_NAME: alone}, **settings)
        assert cache.split()[i].seen_tokens == alone.seen_tokens


@over([{}, {"mixer": ("self_modifying", "attention"), "num_hidden_layers": 2}])
@pytest.mark.parametrize("chunk", [None, 3])
def test_rows_that_have_ended_learn_nothing_more(changes: Changes, chunk: int | None) -> None:
    """Their sessions are what they are after the same prompt alone, and so is the next turn."""
    model = tiny_model(**changes)
    tokens, mask = padded(rows_of((7, 4)), "left", wide=7)
    free = model.generate(tokens, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
    ends = [int(row[7 + at]) for row, at in zip(free, (2, 5), strict=True)]
    settings: dict[str, Any] = {
        "max_new_tokens": 12,
        "do_sample": False,
        "eos_token_id": ends,
        "pad_token_id": 0,
        "prefill_chunk_size": chunk,
    }
    cache = HopeCache()
    model.generate(tokens, attention_mask=mask, **{CACHE_NAME: cache}, **settings)
    following = random_tokens(2, 5, seed=3)
    logits = model(following, past_key_values=cache.copy()).logits
    for i, row in enumerate(rows_of((7, 4))):
        alone = HopeCache()
        ones = torch.ones(1, len(row))
        model.generate(row[None], attention_mask=ones, **{CACHE_NAME: alone}, **settings)
        assert cache.split()[i].seen_tokens == alone.seen_tokens
        assert relative_error(model(following[i : i + 1], past_key_values=alone).logits[0], logits[i]) < 1e-5
