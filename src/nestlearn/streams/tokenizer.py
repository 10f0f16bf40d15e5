"""A byte-level BPE tokenizer: any text goes through it and comes back the same, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nestlearn.streams.cache import cache_folder, write_atomic
from nestlearn.streams.corpus import ParallelCorpus
from nestlearn.streams.errors import DataError
from nestlearn.streams.languages import check_languages

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|end|>"
"""The special token after every paragraph."""

END_ID = 0
MINIMUM_VOCABULARY = 258  # the end token, the 256 bytes, and one merge


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """Train a byte-level BPE tokenizer; the same texts give the same tokenizer.

    Its alphabet is all 256 bytes, so every text can be encoded. The end token has id 0 and is never made from
    text: the characters ``<|end|>`` inside a paragraph are encoded like any others.

    Args:
        texts: What to learn the merges from.
        vocab_size: Number of tokens, the end token and the bytes included. Little text may give fewer.

    Raises:
        ValueError: ``vocab_size`` below 258.
        DataError: No texts, or the library ``tokenizers`` is not installed.
    """
    if not vocab_size >= MINIMUM_VOCABULARY:
        raise ValueError(
            f"Invalid vocab_size: {vocab_size}. Must be at least {MINIMUM_VOCABULARY}: the end token, 256 "
            "bytes and one merge."
        )
    library = _library()
    byte_level = library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_at_least_one(texts), trainer)
    return _literal(tokenizer)


def load_or_train_tokenizer(
    corpus: ParallelCorpus, languages: Sequence[str], vocab_size: int = 4096, *, cache_dir: Path | None = None
) -> Tokenizer:
    """Return the tokenizer of some languages of a corpus, from the cache or trained on its training split.

    Args:
        corpus: The texts.
        languages: Which of its languages; their order makes no difference.
        vocab_size: See `train_tokenizer`.
        cache_dir: See `nestlearn.streams.load_parallel_help`.

    Raises:
        ValueError: ``vocab_size`` below 258.
        DataError: A language that the corpus does not have; a damaged file in the cache.
    """
    selection = sorted(check_languages(languages, corpus.languages))
    # A corpus made by hand may carry any checksum; hashing it again keeps the file name plain.
    identity = hashlib.sha256(corpus.checksum.encode()).hexdigest()[:16]
    path = cache_folder(cache_dir) / f"tokenizer-{identity}-{'-'.join(selection)}-{vocab_size}.json"
    if path.exists():
        return _load(path)
    tokenizer = train_tokenizer(_training_texts(corpus, selection), vocab_size)
    write_atomic(path, tokenizer.to_str().encode())
    return tokenizer


def token_bytes(tokenizer: Tokenizer) -> Tensor:
    """Return how many bytes of text each token stands for.

    The end token counts as one byte: the line break that would stand between paragraphs.

    Returns:
        int64 ``[vocabulary]``.
    """
    # Byte-level tokens are spelled with one printable character per byte.
    tokens = [tokenizer.id_to_token(index) or "" for index in range(tokenizer.get_vocab_size())]
    return torch.tensor([1 if token == END else len(token) for token in tokens], dtype=torch.int64)


def _library() -> Any:
    """Import ``tokenizers``: an optional extra, and slow to load, so only who tokenizes needs it."""
    try:
        import tokenizers  # noqa: PLC0415
    except ImportError as error:
        raise DataError("The library `tokenizers` is not installed: run `pip install tokenizers`.") from error
    return tokenizers


def _training_texts(corpus: ParallelCorpus, languages: Iterable[str]) -> Iterator[str]:
    for language in languages:
        yield from corpus.paragraphs[language]["train"]


def _at_least_one(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise DataError("There are no texts to train a tokenizer on: pass the training split of a corpus.")


def _load(path: Path) -> Tokenizer:
    library = _library()
    try:
        return _literal(library.Tokenizer.from_str(path.read_text(encoding="utf-8")))
    except Exception as error:  # the library raises a bare Exception for what it cannot parse
        raise DataError(
            f"The cached file {path} is damaged ({error}): delete it and run again to build it anew."
        ) from error


def _literal(tokenizer: Tokenizer) -> Tokenizer:
    """Make it read ``<|end|>`` in a text as characters; this is a setting that its file does not keep."""
    tokenizer.encode_special_tokens = True
    return tokenizer
