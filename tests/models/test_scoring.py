"""Likelihoods of continuations, against one pass a request."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import nestlearn as nl
from nestlearn.models import scoring
from nestlearn.models.hope import HopeCache
from nestlearn.models.scoring import Likelihood, feed, log_likelihoods
from tests.evaluation.small import REQUESTS, hope, one_by_one, pretrained
from tests.models.variants import FEW, Changes, over
from tests.retrofitting.small import ARCHITECTURES, two_levels


def close(expected: Any, got: Any, tolerance: float = 1e-4) -> None:
    assert len(expected) == len(got)
    for (log, greedy), (own_log, own_greedy) in zip(expected, got, strict=True):
        assert abs(log - own_log) < tolerance, f"{log} and {own_log}"
        assert greedy == own_greedy


@over(FEW)
def test_equals_one_pass_a_request(changes: Changes) -> None:
    model = hope(**changes)
    found = log_likelihoods(model, REQUESTS, batch_size=3)
    close(one_by_one(model, REQUESTS), found)
    assert len({round(log, 3) for log, _ in found}) == len(REQUESTS)  # each has its own


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "," not in name])
def test_equals_one_pass_for_models_of_transformers(name: str) -> None:
    model = pretrained(name)
    close(one_by_one(model, REQUESTS), log_likelihoods(model, REQUESTS))


def test_a_recurrent_model_of_transformers_has_all_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    torch.manual_seed(0)
    config = Qwen3NextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=16, linear_value_head_dim=16, num_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=16, shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    model, caches, inner = Qwen3NextForCausalLM(config).eval(), [], scoring.forward

    def watched(model: Any, ids: Any, cache: Any = None, **settings: Any) -> Any:
        caches.append(cache)
        return inner(model, ids, cache, **settings)

    monkeypatch.setattr(scoring, "forward", watched)
    close(one_by_one(model, REQUESTS), log_likelihoods(model, REQUESTS))
    assert caches == [None]


def test_a_retrofitted_model_scores_as_its_base() -> None:
    base = pretrained()
    close(log_likelihoods(base, REQUESTS), log_likelihoods(nl.retrofit(base, two_levels()), REQUESTS), 1e-9)


def test_greedy_says_what_generate_would_do() -> None:
    model, context = hope(3), [5, 9, 30, 7]
    with torch.no_grad():
        written = model.generate(torch.tensor([context]), max_new_tokens=5, do_sample=False)[0, 4:].tolist()
    other = [*written[:-1], (written[-1] + 1) % 60]
    found = log_likelihoods(model, [(context, written), (context, other), (context, written[:2])])
    assert [result.greedy for result in found] == [True, False, True]
    assert found[0].log_probability > found[1].log_probability


@pytest.mark.parametrize("model", [hope(), pretrained()], ids=["hope", "llama"])
def test_order_and_batch_size_change_nothing(model: Any) -> None:
    expected = log_likelihoods(model, REQUESTS, batch_size=1)
    order = list(range(len(REQUESTS)))
    random.Random(0).shuffle(order)
    for batch_size in (2, 7, 100):
        found = log_likelihoods(model, [REQUESTS[i] for i in order], batch_size=batch_size)
        close([expected[i] for i in order], found)
    for i, request in enumerate(REQUESTS):
        close([expected[i]], log_likelihoods(model, [request]))


def test_a_long_text_goes_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = hope(), []
    tokens = [i % 60 for i in range(3, 100)]
    requests = [(tokens[:1], tokens[1:]), (tokens[:40], tokens[40:]), (tokens[:40], tokens[41:])]
    expected = one_by_one(model, requests)
    monkeypatch.setattr(scoring, "PIECE", 16)
    inner = scoring.forward
    monkeypatch.setattr(
        scoring, "forward", lambda m, ids, *a, **k: seen.append(ids.shape[1]) or inner(m, ids, *a, **k)
    )
    close(expected, log_likelihoods(model, requests))
    assert max(seen) == 16


def test_a_shared_context_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, inner = [], scoring.forward
    monkeypatch.setattr(
        scoring, "forward", lambda m, ids, *a, **k: seen.append(tuple(ids.shape)) or inner(m, ids, *a, **k)
    )
    requests = [(list(range(3, 40)), [token]) for token in range(3, 13)]
    for model in (hope(), pretrained()):
        seen.clear()
        log_likelihoods(model, requests, batch_size=4)
        assert seen == [(1, 36), (4, 1), (4, 1), (2, 1)]


def test_a_session_is_gone_on_from_and_stays_as_it_is() -> None:
    model, before = hope(), [4, 5, 6, 7, 8, 9, 10]
    session = feed(model, before)
    assert isinstance(session, HopeCache)
    expected = one_by_one(model, [(before + context, continuation) for context, continuation in REQUESTS])
    for _ in range(2):
        close(expected, log_likelihoods(model, REQUESTS, past_key_values=session))
    assert session.get_seq_length() == len(before)
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        log_likelihoods(pretrained(), REQUESTS, past_key_values=session)


def test_contexts_are_cut_on_the_left() -> None:
    model = pretrained("gpt2")  # 64 positions
    long = [i % 60 for i in range(100)]
    found = log_likelihoods(model, [(long, [5, 6])])
    close(one_by_one(model, [(long[-63:], [5, 6])]), found)
    close(one_by_one(model, [(long[-3:], [5, 6])]), log_likelihoods(model, [(long, [5, 6])], max_length=4))


def test_every_result_is_told_and_modes_are_restored() -> None:
    model, told = hope().train(), {}
    model.lm_head.eval()
    found = log_likelihoods(model, REQUESTS, on_result=lambda index, result: told.update({index: result}))
    assert [told[i] for i in range(len(REQUESTS))] == found
    assert model.training
    assert not model.lm_head.training
    assert all(isinstance(result, Likelihood) for result in found)
    assert log_likelihoods(model, []) == []


def test_likelihoods_in_half_precision_are_summed_in_whole() -> None:
    model = hope().to(torch.bfloat16)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6]])).logits[0].float().log_softmax(-1)
    expected = float(logits[0, 6] + logits[1, 7])
    assert log_likelihoods(model, [([5], [6, 7])])[0].log_probability == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("requests", "settings", "named"),
    [
        ([([], [1])], {}, "request 0 has 0 tokens"),
        ([([1], [2]), ([1], [])], {}, "request 1 has 1 tokens of context and 0"),
        ([([1], [2])], {"batch_size": 0}, "batch_size"),
        ([([1], [2])], {"max_length": True}, "max_length"),
        ([([1], [2] * 65)], {}, "65 tokens, the model takes 64"),
    ],
)
def test_bad_requests_are_named(requests: Any, settings: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        log_likelihoods(pretrained(), requests, **settings)
