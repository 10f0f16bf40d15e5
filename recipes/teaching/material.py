"""The text: four domains that the base model knows, and two that it is taught."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nestlearn.streams import END, token_bytes, train_tokenizer
from nestlearn.streams.domains import load_domain

OLD = ("technical", "code", "literature", "dictionary")
NEW = ("legal", "french")
VOCABULARY, CONTEXT = 4096, 128
TOKENIZER_CHARACTERS = 1_500_000  # of each old domain
HELD_WINDOWS = 32  # of each domain


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """A tokenizer of the old domains' training text: nobody who made the base knew of the new ones."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415  (seconds to import)

    texts = [piece for name in OLD for piece in _first(load_domain(name).documents["train"])]
    made = train_tokenizer(texts, VOCABULARY)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, bos_token=END, pad_token=END)


def _first(texts: tuple[str, ...]) -> list[str]:
    """Texts from the front of a shuffled domain, up to a number of characters."""
    chosen, size = [], 0
    for text in _shuffled(texts, 0):
        chosen.append(text)
        size += len(text)
        if size >= TOKENIZER_CHARACTERS:
            break
    return chosen


def _shuffled(texts: tuple[str, ...], seed: int) -> list[str]:
    mixed = list(texts)
    random.Random(seed).shuffle(mixed)
    return mixed


def tokens(domain: str, split: str, count: int, seed: int) -> Tensor:
    """At least ``count`` token ids of a domain's documents in an order of the seed, or all there are."""
    ids: list[int] = []
    own = tokenizer()
    for text in _shuffled(load_domain(domain).documents[split], seed):
        ids += [*own(text)["input_ids"], own.eos_token_id]
        if len(ids) >= count:
            break
    return torch.tensor(ids[:count])


@dataclass(frozen=True)
class Held:
    """Held-out windows of every domain, the same for all runs of a split."""

    windows: dict[str, Tensor]
    sizes: Tensor


@lru_cache(maxsize=2)
def held(split: str) -> Held:
    """The windows ``[n, context + 1]`` of a split by domain, and the bytes of each token."""
    windows = {}
    for name in (*OLD, *NEW):
        ids = tokens(name, split, HELD_WINDOWS * CONTEXT + 1, seed=0)
        windows[name] = ids.unfold(0, CONTEXT + 1, CONTEXT).clone()
    return Held(windows, token_bytes(tokenizer().backend_tokenizer))
