"""Tiny models in folders, and what they are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from tests.continual.small import CHARACTERS, texts, tokenizer
from tests.helpers import tiny_model
from tests.retrofitting.small import pretrained

#: Contexts and continuations: shared, alone, of one token, long.
REQUESTS = [
    ([5, 6, 7, 8, 9, 10, 11], [12, 13]),
    ([5, 6, 7, 8, 9, 10, 11], [12]),
    ([1], [20, 21, 22]),
    ([5, 6, 7, 8, 9, 10, 11], [30, 31, 32, 33, 34]),
    ([9, 8, 7], [6]),
    ([5, 6, 7, 8, 9, 10, 12], [13]),
    (list(range(3, 30)), list(range(30, 45))),
]


def hope(seed: int = 0, **changes: Any) -> Any:
    """A Hope for the tokenizer of characters, with sharp predictions that depend on what came before."""
    settings = {"vocab_size": len(CHARACTERS), "bos_token_id": 1, "eos_token_id": 2, **changes}
    model = tiny_model(seed, tie_word_embeddings=False, **settings)
    with torch.no_grad():
        model.lm_head.weight.mul_(6)
    return model


def one_by_one(model: Any, requests: Any) -> list[tuple[float, bool]]:
    """Each request in one pass of its own, by torch's cross-entropy."""
    found = []
    for context, continuation in requests:
        with torch.no_grad():
            inputs = torch.tensor([[*context, *continuation[:-1]]])
            logits = model(inputs).logits[0, len(context) - 1 :]
        targets = torch.tensor(continuation)
        loss = F.cross_entropy(logits, targets, reduction="none").double().sum()
        found.append((-float(loss), bool((logits.argmax(-1) == targets).all())))
    return found


def in_folder(model: Any, folder: Path) -> Path:
    """A model with its tokenizer, saved."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


__all__ = ["CHARACTERS", "REQUESTS", "hope", "in_folder", "one_by_one", "pretrained", "texts", "tokenizer"]
