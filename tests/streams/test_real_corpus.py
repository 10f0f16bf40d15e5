"""The real LibreOffice help; skipped where its packages cannot be fetched."""

import re

from nestlearn.streams import LANGUAGES, ParallelCorpus
from nestlearn.streams.rows import SPLITS


def test_size(real_corpus: ParallelCorpus) -> None:
    counts = {split: len(real_corpus.paragraphs["en"][split]) for split in SPLITS}
    if real_corpus.name == "libreoffice-help 7.4.7":
        assert counts == {"train": 21_916, "validation": 453, "test": 443}
    assert sum(counts.values()) >= 15_000
    for language in LANGUAGES:
        size = sum(len(text.encode()) for split in SPLITS for text in real_corpus.paragraphs[language][split])
        assert 2.0e6 < size < 3.0e6


def test_no_held_out_text_is_trained_on_in_any_language(real_corpus: ParallelCorpus) -> None:
    for language in LANGUAGES:
        texts = {
            split: {re.sub(r"\W", "", text.casefold()) for text in real_corpus.paragraphs[language][split]}
            for split in SPLITS
        }
        assert texts["train"].isdisjoint(texts["validation"] | texts["test"])
        assert texts["validation"].isdisjoint(texts["test"])


def test_texts_are_clean_and_translated(real_corpus: ParallelCorpus) -> None:
    for split in SPLITS:
        for texts in zip(*(real_corpus.paragraphs[language][split] for language in LANGUAGES), strict=True):
            assert len(texts[0]) > 20
            assert all(text and text == " ".join(text.split()) for text in texts)
            assert texts[0] not in texts[1:]
    assert not any("CommandCtrl" in text for text in real_corpus.paragraphs["en"]["train"])
