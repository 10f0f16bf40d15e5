"""How well a model predicts long texts, and whether more context helps it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.continual.documents import Stream, documents, encode
from nestlearn.models.scoring import (
    PIECE,
    context_limit,
    evaluating,
    forward,
    is_hope,
    token_log_probabilities,
)

#: Positions of the first band; each further band has twice as many as all before it.
FIRST_BAND = 16


@dataclass(frozen=True)
class Band:
    """Tokens at some positions of their documents.

    Attributes:
        first: First position; 1 is a document's first token.
        last: Last position.
        tokens: How many were predicted there.
        nats: Their negative log-likelihood.
    """

    first: int
    last: int
    tokens: int
    nats: float

    @property
    def bits_per_token(self) -> float:
        """The lower the better; comparable between models of one tokenizer."""
        return self.nats / self.tokens / math.log(2)


@dataclass
class Perplexity:
    """How well a model predicted texts, so far.

    Attributes:
        context: Tokens that a prediction sees at most; None for all before it.
        stride: Tokens that a window goes on by; None without windows.
        documents: That were begun.
        bytes: Of the documents in UTF-8, of those that were begun.
        nats: Negative log-likelihood of all tokens up to now, by band.
        tokens: That were predicted up to now, by band.
        finished: Whether all documents have come to their end.
    """

    context: int | None = None
    stride: int | None = None
    documents: int = 0
    bytes: int = 0
    nats: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    tokens: Counter[int] = field(default_factory=Counter)
    finished: bool = False

    @property
    def total_tokens(self) -> int:
        """Tokens that were predicted."""
        return self.tokens.total()

    @property
    def perplexity(self) -> float:
        """Of a token: the exponential of the mean negative log-likelihood.

        Raises:
            ValueError: If no token was predicted.
        """
        if not self.tokens:
            raise ValueError("no token was predicted: give some text")
        return math.exp(sum(self.nats.values()) / self.total_tokens)

    @property
    def bits_per_byte(self) -> float | None:
        """The lower the better, whatever the tokenizer; None before the end, and without text."""
        if not self.finished or not self.bytes:
            return None
        return sum(self.nats.values()) / math.log(2) / self.bytes

    @property
    def bands(self) -> list[Band]:
        """Where in their documents the tokens are: each band reaches twice as far as the one before."""
        return [
            Band(_first(band), _first(band + 1) - 1, self.tokens[band], self.nats[band])
            for band in sorted(self.tokens)
        ]

    def to_json(self) -> dict[str, Any]:
        """All figures, as JSON knows them."""
        return {
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.total_tokens,
            "bytes": self.bytes,
            "documents": self.documents,
            "context": self.context,
            "stride": self.stride,
            "finished": self.finished,
            "bands": [
                {"first": b.first, "last": b.last, "tokens": b.tokens, "bits_per_token": b.bits_per_token}
                for b in self.bands
            ],
        }


def perplexity(
    model: nn.Module, tokenizer: Any, texts: Stream, *, context: int | None = None, stride: int | None = None
) -> Perplexity:
    """How well a model predicts texts, each by itself.

    Every token counts, the first of a text by the token that texts begin with, and the token that ends it; so
    figures agree with :meth:`nestlearn.Learner.score`. A Hope reads a text once, in pieces through its cache:
    memory does not grow with the text, and every token is predicted from all before it. Other models, and a
    Hope where ``context`` is given, see windows.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        texts: Strings, or whatever :meth:`nestlearn.Learner.learn` takes.
        context: Tokens of a window; by default all that the model has positions for.
        stride: Tokens that a window goes on by, of which each is predicted from at least ``context - stride``
            before it; by default half a window. Smaller is fairer and slower.

    Returns:
        The figures.

    Raises:
        ValueError: For texts without a token to predict, or values outside their range.
    """
    result = Perplexity()
    for result in measure(model, tokenizer, texts, context=context, stride=stride):  # noqa: B007
        pass
    if not result.tokens:
        raise ValueError("there is no text to score")
    return result


def measure(
    model: nn.Module, tokenizer: Any, texts: Stream, *, context: int | None = None, stride: int | None = None
) -> Iterator[Perplexity]:
    """The same piece by piece.

    Args:
        model: See :func:`perplexity`.
        tokenizer: See :func:`perplexity`.
        texts: See :func:`perplexity`.
        context: See :func:`perplexity`.
        stride: See :func:`perplexity`.

    Yields:
        One and the same object after every piece, with the figures up to there.

    Raises:
        ValueError: For values outside their range, at once.
    """
    return _measured(model, tokenizer, texts, *window(model, context, stride))


def window(model: nn.Module, context: int | None, stride: int | None) -> tuple[int | None, int | None]:
    """Tokens of a window and its stride; both None for a model that reads a text as a whole.

    Raises:
        ValueError: For values outside their range.
    """
    limit = context_limit(model)
    for name, value, most in (("context", context, limit), ("stride", stride, context or limit)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1; got {value!r}")
        if most is not None and value > most:
            raise ValueError(f"{name} must be at most {most}; got {value}")
    length = limit if context is None else context
    if length is None:
        if stride is not None:
            raise ValueError("a stride is of windows, and this model reads a text as a whole: give a context")
        if not is_hope(model):
            raise ValueError("the model does not say how many positions it has: give a context")
        return None, None
    return length, max(1, length // 2) if stride is None else stride


def _measured(
    model: nn.Module, tokenizer: Any, texts: Stream, context: int | None, stride: int | None
) -> Iterator[Perplexity]:
    result = Perplexity(context, stride)
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    for text in documents(texts):
        ids = encode(tokenizer, text)
        result.documents += 1
        result.bytes += len(text.encode() if isinstance(text, str) else tokenizer.decode(ids).encode())
        if start is not None and ids[:1] != [start]:
            ids = [start, *ids]
        position = 2 if start is None else 1  # of the first token that is predicted
        for logs in _log_probabilities(model, torch.tensor(ids), context, stride):
            _count(result, position, logs)
            position += len(logs)
            yield result
    result.finished = True
    yield result


@torch.no_grad()
def _log_probabilities(
    model: nn.Module, tokens: Tensor, context: int | None, stride: int | None
) -> Iterator[Tensor]:
    """Log-probabilities of all tokens but the first, piece by piece: float32 ``[n]``.

    Through a cache without a context; else in windows, each of which predicts what those before it have not.
    """
    device, last = next(model.parameters()).device, len(tokens) - 1
    cache, done = None, 0
    while done < last:
        if context is None or stride is None:
            begin, end = done, min(done + PIECE, last)
        else:
            end = min(done + stride, last) if done else min(context, last)
            begin = max(0, end - context)
        new = end - done
        with evaluating(model):  # not while the caller has the turn
            out = forward(
                model, tokens[begin:end].unsqueeze(0).to(device), cache, keep=new, use_cache=context is None
            )
        cache = out.past_key_values if context is None else None
        yield token_log_probabilities(out.logits[0, -new:], tokens[done + 1 : end + 1].to(device))[0]
        done = end


def _count(result: Perplexity, first: int, logs: Tensor) -> None:
    """Add the log-probabilities of the tokens from a position on."""
    at = 0
    while at < len(logs):
        band = _band(first + at)
        end = min(len(logs), _first(band + 1) - first)
        result.nats[band] -= float(logs[at:end].double().sum())
        result.tokens[band] += end - at
        at = end


def _band(position: int) -> int:
    """Which band a position is in: 1 to 16 are band 0, 17 to 32 band 1, 33 to 64 band 2."""
    return ((position - 1) // FIRST_BAND).bit_length()


def _first(band: int) -> int:
    """The first position of a band."""
    return FIRST_BAND * 2 ** (band - 1) + 1 if band else 1


__all__ = ["FIRST_BAND", "Band", "Perplexity", "measure", "perplexity", "window"]
