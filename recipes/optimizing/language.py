"""A small language model on English paragraphs: bits per byte of held-out ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nestlearn.models.hope import HopeConfig, HopeForCausalLM
from nestlearn.streams import load_or_train_tokenizer, load_parallel_help, token_bytes, tokenize
from nestlearn.streams.metric import bits_per_byte
from nestlearn.streams.tokens import BatchSampler, TokenizedLanguage, evaluation_windows
from recipes._runs import schedule
from recipes.optimizing.training import CLIP, finite, lost, train

if TYPE_CHECKING:
    from recipes.optimizing.entries import Maker

STEPS = 500
BATCH, CONTEXT, VOCABULARY = 16, 64, 512
#: One feed-forward block a layer, updated at every step: a Transformer.
SHAPE: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "mixer": "attention",
    "cms_periods": (1,),
}
SETTINGS: Mapping[str, Any] = {
    "shape": dict(SHAPE),
    "batch": BATCH,
    "context": CONTEXT,
    "vocabulary": VOCABULARY,
    "clip": CLIP,
}


@lru_cache(maxsize=1)
def material() -> tuple[TokenizedLanguage, Tensor]:
    """The token streams, and the bytes that each token stands for."""
    corpus = load_parallel_help(("en",))
    tokenizer = load_or_train_tokenizer(corpus, ("en",), VOCABULARY)
    return tokenize(corpus, tokenizer)["en"], token_bytes(tokenizer)


def model() -> HopeForCausalLM:
    """The Transformer, with the tokenizer's vocabulary."""
    return HopeForCausalLM(HopeConfig(vocab_size=len(material()[1]), **SHAPE))


def execute(make: Maker, lr: float, seed: int, split: str, steps: int) -> dict[str, Any]:
    """Train one model.

    Returns:
        ``score`` is bits per byte, None for a training that was lost; ``training`` the mean loss of the last
        tenth of the steps, in nats a token.
    """
    streams, sizes = material()
    torch.manual_seed(seed)
    network = model()
    sampler = BatchSampler(streams.train, batch_size=BATCH, context=CONTEXT, seed=seed)

    def loss(step: int) -> Tensor:
        batch = sampler.batch(step)
        logits: Tensor = network(batch[:, :-1]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    losses = train(network, make(network, lr), loss, steps, schedule=schedule, clip=CLIP)
    score = math.nan
    if not lost(losses):
        windows = evaluation_windows(getattr(streams, split), context=CONTEXT, limit=None)
        score = bits_per_byte(network, windows, sizes)
    return {"score": finite(score), "training": finite(mean(losses[-max(1, steps // 10) :]))}
