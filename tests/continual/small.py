"""A tiny language model with a tokenizer of characters, and text for it."""

from __future__ import annotations

import random
import string
from typing import Any

import torch

import nestlearn as nl
from tests.retrofitting.small import pretrained

CHARACTERS = [
    "<pad>",
    "<s>",
    "</s>",
    "?",
    *string.ascii_lowercase,
    *"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    *" .,:;-\n",
]
TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}: {{ m['content'] }}\n{% endfor %}"


def tokenizer(template: bool = True) -> Any:
    """One token a character, 63 of them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: i for i, character in enumerate(CHARACTERS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    made.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="?"
    )
    if template:
        fast.chat_template = TEMPLATE
    return fast


def texts(count: int = 6, words: int = 12, seed: int = 0) -> list[str]:
    """Sentences of a few words."""
    draw = random.Random(seed)
    vocabulary = ["red", "blue", "tree", "house", "sings", "walks", "and", "the", "under", "over"]
    return [" ".join(draw.choice(vocabulary) for _ in range(words)) + "." for _ in range(count)]


def levels(**settings: Any) -> list[nl.Level]:
    """Two levels, of which the slow one protects."""
    settings = {"lr": 1e-2, **settings}
    return [
        nl.Level("fast", 32, **settings),
        nl.Level("slow", 64, **{"consolidate": True, "refresh": 32, **settings}),
    ]


def learner(model: Any = None, **settings: Any) -> nl.Learner:
    """A learner with windows of sixteen tokens, two a step."""
    settings = {"levels": levels(), "old": texts(seed=9), "context": 16, "batch_size": 2, **settings}
    model = pretrained() if model is None else model
    return nl.Learner(model, tokenizer(), calibration_tokens=64, **settings)


def logits(model: Any) -> torch.Tensor:
    """What a model says to some tokens."""
    with torch.no_grad():
        return model(torch.arange(3, 35).view(2, 16)).logits
