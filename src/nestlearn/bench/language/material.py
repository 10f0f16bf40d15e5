"""The text of a stream of texts, as windows of tokens."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nestlearn.streams import END_ID, load_parallel_help, token_bytes, train_tokenizer
from nestlearn.streams.cache import cache_folder, write_atomic
from nestlearn.streams.domains import load_domain

LANGUAGES = ("en", "fr", "de", "es", "it")
DOMAINS = ("technical", "legal", "code", "literature")
DRIFT = DOMAINS[:2]
CIPHERS = ("en", "cipher 1", "cipher 2")
#: What rehearsal was made on.
OTHER_CIPHERS = ("en", "cipher 11", "cipher 12", "cipher 13")
VOCABULARY, CONTEXT = 4096, 128
#: Of each task's text, that the tokenizer is trained on.
TOKENIZER_CHARACTERS = 1_000_000

#: By task and split, the documents.
Texts = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True, eq=False)
class Material:
    """The text of a stream.

    Attributes:
        tasks: Their names in the order of the stream.
        documents: By task and split.
        tokenizer: Of the library ``tokenizers``, trained on the training text of all tasks.
        sizes: Bytes that each token stands for, ``[V]``.
    """

    tasks: tuple[str, ...]
    documents: Texts
    tokenizer: Any
    sizes: Tensor

    def tokens(self, task: str, split: str, count: int, seed: int) -> Tensor:
        """At most ``count`` tokens ``[n]`` of documents in an order of the seed, each with its end."""
        texts = list(self.documents[task][split])
        random.Random(seed).shuffle(texts)
        ids: list[int] = []
        for text in texts:
            ids += [*self.tokenizer.encode(text).ids, END_ID]
            if len(ids) >= count:
                break
        return torch.tensor(ids[:count])

    def windows(self, task: str, split: str, count: int, seed: int) -> Tensor:
        """At most ``count`` windows ``[n, CONTEXT + 1]``; neighbours share a token."""
        ids = self.tokens(task, split, count * CONTEXT + 1, seed)
        return ids.unfold(0, CONTEXT + 1, CONTEXT).clone()


def _languages() -> Texts:
    return load_parallel_help(LANGUAGES).paragraphs


def _domains(names: Sequence[str]) -> Texts:
    return {name: load_domain(name).documents for name in names}


def _ciphers(languages: Sequence[str], first: int) -> Texts:
    """English, then languages with their letters exchanged: languages that no text has prepared."""
    own = load_parallel_help(("en", *languages)).paragraphs
    made = {"en": own["en"]}
    for place, name in enumerate(languages, start=first):
        table = substitution(place)
        made[f"cipher {place}"] = {
            split: tuple(text.translate(table) for text in texts) for split, texts in own[name].items()
        }
    return made


def substitution(seed: int) -> dict[int, str]:
    """A letter for every letter of the alphabet, none for itself alike in upper case."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    mixed = list(letters)
    random.Random(seed).shuffle(mixed)
    table = dict(zip(letters, mixed, strict=True))
    return {ord(a): b for a, b in table.items()} | {ord(a.upper()): b.upper() for a, b in table.items()}


SOURCES: Mapping[str, tuple[tuple[str, ...], Callable[[], Texts]]] = {
    "languages": (LANGUAGES, _languages),
    "domains": (DOMAINS, lambda: _domains(DOMAINS)),
    "drift": (DRIFT, lambda: _domains(DRIFT)),
    "ciphers": (CIPHERS, lambda: _ciphers(("fr", "de"), 1)),
    "other ciphers": (OTHER_CIPHERS, lambda: _ciphers(("fr", "de", "es"), 11)),
}


@lru_cache(maxsize=2)
def load_material(name: str) -> Material:
    """The text of a name in :data:`SOURCES`.

    Raises:
        DataError: If it cannot be had.
    """
    tasks, load = SOURCES[name]
    return made_of(tasks, load())


def made_of(tasks: Sequence[str], documents: Texts) -> Material:
    """Material of texts; the tokenizer is kept in the cache folder under a hash of what it was trained on."""
    texts = [text for task in tasks for text in _first(documents[task]["train"])]
    digest = hashlib.sha256(json.dumps([VOCABULARY, texts]).encode()).hexdigest()[:16]
    path = cache_folder() / f"bench-tokenizer-{digest}.json"
    if path.is_file():
        from tokenizers import Tokenizer  # noqa: PLC0415  (an extra)

        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.encode_special_tokens = True  # its file does not keep this
    else:
        tokenizer = train_tokenizer(texts, VOCABULARY)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, tokenizer.to_str().encode())
    return Material(tuple(tasks), documents, tokenizer, token_bytes(tokenizer))


def _first(texts: Sequence[str]) -> list[str]:
    """Texts in a mixed order, up to a number of characters."""
    mixed = list(texts)
    random.Random(0).shuffle(mixed)
    chosen, size = [], 0
    for text in mixed:
        chosen.append(text)
        size += len(text)
        if size >= TOKENIZER_CHARACTERS:
            break
    return chosen
