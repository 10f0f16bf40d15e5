"""How well a model predicts texts, in a unit that does not depend on its tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.continual.documents import Stream, documents, encode


@dataclass(frozen=True)
class Score:
    """How well a model predicts texts.

    Attributes:
        bits: Negative log-likelihood.
        bytes: Of the texts in UTF-8.
        tokens: That were predicted.
    """

    bits: float
    bytes: int
    tokens: int

    @property
    def bits_per_byte(self) -> float:
        """The lower the better, whatever the tokenizer."""
        return self.bits / self.bytes

    def __float__(self) -> float:
        return self.bits_per_byte


@torch.no_grad()
def score(model: nn.Module, tokenizer: Any, texts: Stream, context: int) -> Score:
    """Negative log-likelihood of texts, each by itself and in windows.

    Every token counts, the first of a text by the token that texts begin with.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        texts: Strings, or whatever :func:`~nestlearn.continual.documents.documents` takes.
        context: Tokens of a window.

    Raises:
        ValueError: If there is no text.
    """
    device = next(model.parameters()).device
    nats = torch.zeros((), dtype=torch.float64)
    size = tokens = 0
    for text in documents(texts):
        ids = encode(tokenizer, text)
        size += len(text.encode() if isinstance(text, str) else tokenizer.decode(ids).encode())
        first = tokenizer.bos_token_id
        first = tokenizer.eos_token_id if first is None else first
        if first is not None and ids[:1] != [first]:
            ids = [first, *ids]
        tokens += max(0, len(ids) - 1)
        nats += _nats(model, ids, context, device)
    if not size:
        raise ValueError("there is no text to score")
    return Score(float(nats) / math.log(2), size, tokens)


def _nats(model: nn.Module, ids: list[int], context: int, device: torch.device) -> Tensor:
    """Negative log-likelihood of all tokens but the first."""
    total = torch.zeros((), dtype=torch.float64)  # where every device has such numbers
    for start in range(0, len(ids) - 1, context):
        window = torch.tensor([ids[start : start + context + 1]], device=device)
        logits: Any = model(input_ids=window[:, :-1], use_cache=False).logits
        total += F.cross_entropy(logits[0].float(), window[0, 1:], reduction="sum").cpu()
    return total
