"""Perplexity of long documents: in pieces, in windows, by position."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import nestlearn as nl
from nestlearn.continual.documents import encode
from nestlearn.evaluation import long_texts as module
from nestlearn.evaluation.long_texts import Perplexity, measure, perplexity
from nestlearn.models.scoring import log_likelihoods
from tests.evaluation.small import hope, one_by_one, pretrained, texts, tokenizer

LONG = [" ".join(texts(2, 16, seed=seed)) for seed in (1, 2)]  # some 150 characters, a token each


def whole(model: Any, documents: list[str]) -> float:
    """Negative log-likelihood in nats, each document in one pass."""
    ids = [encode(tokenizer(), document) for document in documents]
    return -sum(log for log, _ in one_by_one(model, [([1], own) for own in ids]))


def test_a_hope_reads_a_text_as_a_whole_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = hope(), []
    monkeypatch.setattr(module, "PIECE", 37)
    inner = module.forward
    monkeypatch.setattr(
        module, "forward", lambda m, ids, *a, **k: seen.append(ids.shape[1]) or inner(m, ids, *a, **k)
    )
    found = perplexity(model, tokenizer(), LONG)
    tokens = sum(len(encode(tokenizer(), text)) for text in LONG)
    assert sum(seen) == found.total_tokens == tokens
    assert max(seen) == 37
    expected = whole(model, LONG)
    assert found.perplexity == pytest.approx(math.exp(expected / tokens), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(
        expected / math.log(2) / sum(map(len, (t.encode() for t in LONG))), rel=1e-5
    )
    assert (found.context, found.stride, found.documents) == (None, None, 2)


def test_texts_do_not_see_each_other() -> None:
    alone = [perplexity(hope(), tokenizer(), text) for text in LONG]
    both = perplexity(hope(), tokenizer(), LONG)
    assert sum(sum(one.nats.values()) for one in alone) == pytest.approx(sum(both.nats.values()), rel=1e-9)


@pytest.mark.parametrize("name", ["hope", "llama"])
@pytest.mark.parametrize(("context", "stride"), [(32, 8), (32, 32), (20, None), (5, 3)])
def test_every_token_is_predicted_once_from_its_window(name: str, context: int, stride: int | None) -> None:
    model = hope() if name == "hope" else pretrained()
    found = perplexity(model, tokenizer(), LONG[0], context=context, stride=stride)
    stride = max(1, context // 2) if stride is None else stride
    ids = [1, *encode(tokenizer(), LONG[0])]
    expected, done, requests = 0.0, 0, []
    while done < len(ids) - 1:
        end = min(context if done == 0 else done + stride, len(ids) - 1)
        inputs, new = ids[max(0, end - context) : end], end - done
        kept = len(inputs) - new + 1  # of the window, the inputs before the first new token
        requests.append((inputs[:kept], ids[done + 1 : end + 1]))
        done = end
    expected = -sum(log for log, _ in one_by_one(model, requests))
    assert found.total_tokens == len(ids) - 1
    assert sum(found.nats.values()) == pytest.approx(expected, rel=1e-5)
    assert (found.context, found.stride) == (context, stride)


def test_a_model_with_a_limit_slides_by_half_of_it() -> None:
    found = perplexity(pretrained(), tokenizer(), LONG)
    assert (found.context, found.stride) == (64, 32)


def test_agrees_with_the_learner() -> None:
    model, short = pretrained(), [text[:60] for text in LONG]
    learner = nl.Learner(model, tokenizer(), context=63, old=["red"])
    found = perplexity(model, tokenizer(), short)
    assert found.bits_per_byte == pytest.approx(float(learner.score(short)), rel=1e-5)


def test_bands_are_sums_over_positions() -> None:
    found = perplexity(hope(), tokenizer(), LONG)
    assert [(band.first, band.last) for band in found.bands[:4]] == [(1, 16), (17, 32), (33, 64), (65, 128)]
    for band in found.bands:
        expected = count = 0.0
        for text in LONG:
            ids = [1, *encode(tokenizer(), text)]
            places = range(band.first, min(band.last + 1, len(ids)))
            count += len(places)
            row = ids[: places[0]], ids[places[0] : places[-1] + 1]
            expected -= log_likelihoods(hope(), [row])[0].log_probability
        assert band.tokens == count
        assert band.nats == pytest.approx(expected, rel=1e-4)
        assert band.bits_per_token == pytest.approx(expected / count / math.log(2), rel=1e-4)


def test_what_repeats_is_seen_to_fall_with_the_position() -> None:
    """Of a model that copies what it has seen, by hand: nothing at first, then everything."""

    class Copying(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.config = type("Config", (), {"max_position_embeddings": 512})()

        def forward(self, input_ids: Any, use_cache: bool = False) -> Any:
            # The next token is the one of sixteen before.
            guess = torch.nn.functional.pad(input_ids, (15, 0), value=0)[:, : input_ids.shape[1]]
            return type("Output", (), {"logits": 20 * torch.nn.functional.one_hot(guess, 64).float()})()

    text = "abcdefghijklmnop" * 10
    bands = perplexity(Copying(), tokenizer(), text).bands
    assert bands[0].bits_per_token > 20
    assert bands[1].bits_per_token < 0.01
    assert bands[2].bits_per_token < 0.01


def test_progress_is_told_and_a_part_has_no_bits_per_byte() -> None:
    steps = [
        (figures.total_tokens, figures.bits_per_byte is None)
        for figures in measure(pretrained(), tokenizer(), LONG, context=32)
    ]
    assert steps == sorted(steps, key=lambda step: step[0])
    assert [part for _, part in steps] == [True] * (len(steps) - 1) + [False]
    assert steps[0][0] == 32


def test_a_tokenizer_without_a_first_token_leaves_out_the_first_prediction() -> None:
    plain = tokenizer()
    plain.bos_token = plain.eos_token = None
    found = perplexity(hope(), plain, "red tree")
    assert found.total_tokens == len("red tree") - 1
    assert found.bands[0].tokens == len("red tree") - 1
    with_first = perplexity(hope(), tokenizer(), torch.tensor([1, 20, 21]))
    assert with_first.total_tokens == 2  # it has its first token already


def test_memory_does_not_grow_with_the_text() -> None:
    model, sizes = hope(), []
    inner = module.forward

    def watched(*arguments: Any, **settings: Any) -> Any:
        out = inner(*arguments, **settings)
        sizes.append(out.past_key_values.num_bytes())
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", 16)
        patch.setattr(module, "forward", watched)
        perplexity(model, tokenizer(), LONG)
    assert len(sizes) > 20
    assert max(sizes) == sizes[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"context": 0}, "context must be a whole number"),
        ({"context": 65}, "context must be at most 64"),
        ({"stride": True}, "stride must be a whole number"),
        ({"context": 8, "stride": 9}, "stride must be at most 8"),
    ],
)
def test_bad_windows_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        measure(pretrained(), tokenizer(), LONG, **settings)


def test_a_stride_needs_windows() -> None:
    with pytest.raises(ValueError, match="give a context"):
        measure(hope(), tokenizer(), LONG, stride=3)
    with pytest.raises(ValueError, match="how many positions"):
        measure(torch.nn.Linear(1, 1), tokenizer(), LONG)


def test_no_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="no text"):
        perplexity(hope(), tokenizer(), [""])
    with pytest.raises(ValueError, match="no token"):
        _ = Perplexity().perplexity
