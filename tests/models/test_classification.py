"""One label for a sequence, from its last token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, pipeline

import nestlearn as nl
from tests.helpers import difference, random_tokens, relative_error, tiny_config, tiny_model
from tests.models.variants import FEW, Changes, over

PADDING = 49


def classifier(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = tiny_config(**{"num_labels": 3, **changes})
    return nl.HopeForSequenceClassification(config).eval()


def sequences(*lengths: int) -> list[Tensor]:
    """Sequences without the padding token."""
    return [random_tokens(1, length, seed=length) % PADDING for length in lengths]


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """One batch of them, and its mask."""
    longest = max(row.shape[1] for row in rows)
    pads = [(0, longest - row.shape[1]) if side == "right" else (longest - row.shape[1], 0) for row in rows]
    tokens = torch.cat([F.pad(row, pad, value=PADDING) for row, pad in zip(rows, pads, strict=True)])
    mask = torch.cat([F.pad(torch.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)])
    return tokens, mask


@over(FEW)
@torch.no_grad()
def test_the_label_is_read_off_the_last_token(changes: Changes) -> None:
    model, tokens = classifier(**changes), random_tokens(2, 13)
    hidden = model.model(tokens).last_hidden_state
    expected = hidden[:, -1] @ model.score.weight.T
    for mask in (None, torch.ones_like(tokens)):
        assert torch.equal(model(tokens, attention_mask=mask).logits, expected)
    assert torch.equal(model(inputs_embeds=model.model.embed_tokens(tokens)).logits, expected)


@over(FEW)
@torch.no_grad()
def test_padding_on_the_right_changes_nothing(changes: Changes) -> None:
    model, rows = classifier(pad_token_id=PADDING, **changes), sequences(9, 1, 6)
    alone = torch.cat([model(row).logits for row in rows])
    assert relative_error(alone, model(padded(rows, "right")[0]).logits) < 1e-5
    other = classifier(pad_token_id=0, **changes)(padded(rows, "right")[0]).logits
    assert relative_error(alone, other) > 1e-2  # another padding token, and padding is read


@pytest.mark.parametrize("side", ["left", "right"])
@over(FEW)
@torch.no_grad()
def test_padding_that_is_masked_changes_nothing(changes: Changes, side: str) -> None:
    model, rows = classifier(**changes), sequences(9, 1, 6)
    tokens, mask = padded(rows, side)
    alone = torch.cat([model(row).logits for row in rows])
    assert relative_error(alone, model(tokens, attention_mask=mask).logits) < 1e-5


@torch.no_grad()
def test_a_mask_wins_over_the_padding_token() -> None:
    model, tokens = classifier(pad_token_id=PADDING), padded(sequences(9, 6), "right")[0]
    real = model(tokens, attention_mask=torch.ones_like(tokens)).logits
    assert torch.equal(real, classifier(pad_token_id=None)(tokens).logits)
    assert not torch.equal(real, model(tokens).logits)


def test_a_sequence_without_a_token_is_refused() -> None:
    tokens = padded(sequences(4, 2), "right")[0]
    tokens[1] = PADDING
    with pytest.raises(ValueError, match="sequence 1 of the batch is all padding"):
        classifier(pad_token_id=PADDING)(tokens)


LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
CLASSES, INDEPENDENT = torch.tensor([2, 1]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])


SINGLE = ("single_label_classification", CLASSES, -LOGITS.log_softmax(1)[[0, 1], CLASSES].mean())
MULTI = (
    "multi_label_classification",
    INDEPENDENT,
    -(INDEPENDENT * F.logsigmoid(LOGITS) + (1 - INDEPENDENT) * F.logsigmoid(-LOGITS)).mean(),
)
REGRESSION = ("regression", INDEPENDENT, (LOGITS - INDEPENDENT).square().mean())


@pytest.mark.parametrize(
    ("problem", "labels", "expected", "said"),
    [(*SINGLE, True), (*MULTI, True), (*REGRESSION, True), (*SINGLE, False), (*MULTI, False)],
)
def test_the_losses_are_those_of_the_three_problems(
    problem: str, labels: Tensor, expected: Tensor, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier(problem_type=problem if said else None)
    monkeypatch.setattr(model.score, "forward", LOGITS.to)
    assert torch.allclose(model(random_tokens(2, 5), labels=labels).loss, expected)
    assert model.config.problem_type == problem


def test_one_output_is_a_regression() -> None:
    model, tokens, labels = classifier(num_labels=1), random_tokens(2, 5), torch.tensor([0.5, -1.0])
    out = model(tokens, labels=labels)
    assert torch.allclose(out.loss, (out.logits[:, 0] - labels).square().mean())


def test_every_parameter_learns() -> None:
    model = classifier().train()
    model(random_tokens(4, 13), labels=torch.tensor([0, 1, 2, 1])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_loss_of_bfloat16_logits_is_float32() -> None:
    model = classifier().to(torch.bfloat16)
    out = model(random_tokens(2, 5), labels=torch.tensor([0, 1]))
    assert (out.logits.dtype, out.loss.dtype) == (torch.bfloat16, torch.float32)


@torch.no_grad()
def test_a_sequence_in_pieces_gets_the_same_label() -> None:
    model, tokens = classifier(), random_tokens(2, 13)
    first = model(tokens[:, :6], use_cache=True)
    second = model(tokens[:, 6:], past_key_values=first.past_key_values)
    assert relative_error(model(tokens).logits, second.logits) < 1e-5
    assert model(tokens, use_cache=False).past_key_values is None
    logits, cache = model(tokens, use_cache=True, return_dict=False)
    assert torch.equal(logits, model(tokens).logits)
    assert cache.seen_tokens == 13


def test_it_comes_back_with_its_labels(tmp_path: Path) -> None:
    names = {0: "cold", 1: "mild", 2: "warm"}
    model, tokens = (
        classifier(id2label=names, problem_type="single_label_classification"),
        random_tokens(2, 7),
    )
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is nl.HopeForSequenceClassification
    assert loaded.config.id2label == names
    assert loaded.config.problem_type == "single_label_classification"
    assert difference(dict(model.state_dict()), dict(loaded.state_dict())) is None
    assert torch.equal(model(tokens).logits, loaded(tokens).logits)


@torch.no_grad()
def test_a_pipeline_names_the_label() -> None:
    words = Tokenizer(models.WordLevel({"[pad]": 0, "good": 1, "bad": 2, "very": 3}, unk_token="[pad]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[pad]")
    model = classifier(num_labels=2, id2label={0: "low", 1: "high"}, vocab_size=4)
    label = pipeline("text-classification", model=model, tokenizer=tokenizer)
    texts = ["very very good", "bad"]
    alone, together = label(texts), label(texts, batch_size=2)  # a batch is padded
    for text, first, second in zip(texts, alone, together, strict=True):
        chances = model(tokenizer(text, return_tensors="pt").input_ids).logits[0].softmax(0)
        assert first["label"] == second["label"] == model.config.id2label[int(chances.argmax())]
        assert first["score"] == pytest.approx(float(chances.max()))
        assert second["score"] == pytest.approx(float(chances.max()), abs=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_becomes_a_classifier(tied: bool, tmp_path: Path) -> None:
    language_model = tiny_model(seed=1, tie_word_embeddings=tied)
    language_model.save_pretrained(tmp_path)
    model, found = nl.HopeForSequenceClassification.from_pretrained(
        tmp_path, num_labels=4, output_loading_info=True
    )
    assert found["missing_keys"] == {"score.weight"}
    assert set(found["unexpected_keys"]) == (set() if tied else {"lm_head.weight"})
    assert model.score.weight.shape == (4, 16)
    body = language_model.model.state_dict()
    assert difference(dict(body), dict(model.model.state_dict())) is None


def test_a_tuple_by_configuration() -> None:
    tokens = random_tokens(2, 6)
    model = classifier(return_dict=False)
    assert isinstance(model(tokens), tuple)
    assert torch.equal(model(tokens)[0], model(tokens, return_dict=True).logits)
