import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nestlearn.streams import (
    END,
    END_ID,
    DataError,
    ParallelCorpus,
    load_or_train_tokenizer,
    token_bytes,
    train_tokenizer,
)

TEXTS = [f"The quick brown fox number {n} jumps over été, Straße & naïve dogs." for n in range(50)]
TOKENIZER = train_tokenizer(TEXTS, 330)
BYTES = token_bytes(TOKENIZER)


@given(st.text())
def test_any_text_round_trips_and_its_bytes_are_counted(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert int(BYTES[torch.tensor(ids, dtype=torch.int64)].sum()) == len(text.encode())


@pytest.mark.parametrize(
    "text", ["", " ", "  two  spaces ", "\r\n\t\0", END, f"a {END}{END} b", "🙂👩‍👩‍👧", "ſ\u2028"]
)
def test_texts_that_trip_tokenizers(text: str) -> None:
    test_any_text_round_trips_and_its_bytes_are_counted.hypothesis.inner_test(text)  # type: ignore[attr-defined]


def test_end_token() -> None:
    assert TOKENIZER.token_to_id(END) == END_ID == 0
    assert BYTES[END_ID] == 1
    assert END_ID not in TOKENIZER.encode(f"a {END} b").ids


def test_shape_of_token_bytes() -> None:
    assert BYTES.dtype == torch.int64
    assert list(BYTES.shape) == [TOKENIZER.get_vocab_size()] == [330]
    assert int((BYTES == 1).sum()) >= 257


def test_training_is_deterministic() -> None:
    assert train_tokenizer(iter(TEXTS), 330).to_str() == TOKENIZER.to_str()


def test_smallest_vocabulary() -> None:
    assert train_tokenizer(TEXTS, 258).get_vocab_size() == 258
    with pytest.raises(ValueError, match="Invalid vocab_size: 257"):
        train_tokenizer(TEXTS, 257)


def test_no_texts() -> None:
    with pytest.raises(DataError, match="no texts"):
        train_tokenizer([])


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match="run `pip install tokenizers`"):
        train_tokenizer(TEXTS)


def same(first: Any, second: Any) -> bool:
    return bool(first.to_str() == second.to_str())


def test_tokenizer_is_trained_once_and_cached(
    small_corpus: ParallelCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    explode: Callable[..., None],
) -> None:
    cache = tmp_path / "tokenizers"
    first = load_or_train_tokenizer(small_corpus, ("fr", "en"), 300, cache_dir=cache)
    monkeypatch.setattr("nestlearn.streams.tokenizer.train_tokenizer", explode)
    cached = load_or_train_tokenizer(small_corpus, ("en", "fr"), 300, cache_dir=cache)
    assert same(first, cached)
    assert END_ID not in cached.encode(END).ids
    assert len(list(cache.iterdir())) == 1
    for languages, size in ((("en",), 300), (("en", "fr"), 301)):
        with pytest.raises(AssertionError, match="must not be called"):
            load_or_train_tokenizer(small_corpus, languages, size, cache_dir=cache)


def test_only_training_texts_of_the_languages_are_seen(
    small_corpus: ParallelCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(texts: Any, vocab_size: int) -> Any:
        seen.extend(texts)
        return train_tokenizer(seen, vocab_size)

    monkeypatch.setattr("nestlearn.streams.tokenizer.train_tokenizer", spy)
    load_or_train_tokenizer(small_corpus, ["it", "de"], 300, cache_dir=tmp_path / "tokenizers")
    expected = (*small_corpus.paragraphs["de"]["train"], *small_corpus.paragraphs["it"]["train"])
    assert tuple(seen) == expected


def test_damaged_tokenizer_names_the_file(small_corpus: ParallelCorpus, tmp_path: Path) -> None:
    cache = tmp_path / "tokenizers"
    load_or_train_tokenizer(small_corpus, ["en"], 300, cache_dir=cache)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"{file.name} is damaged .*: delete it"):
        load_or_train_tokenizer(small_corpus, ["en"], 300, cache_dir=cache)


def test_language_that_the_corpus_does_not_have(small_corpus: ParallelCorpus) -> None:
    with pytest.raises(DataError, match="Unknown language 'ru': choose from en, fr, de, es, it"):
        load_or_train_tokenizer(small_corpus, ["ru"], 300)
