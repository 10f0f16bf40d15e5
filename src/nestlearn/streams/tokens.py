"""Token streams, and the windows of them that are trained and evaluated on."""

# Shapes: N = tokens of a stream, B = batch, C = context, n = number of windows. A window is C + 1 tokens: C
# inputs and, one further on, C targets. Neighbouring windows share one token, so every target is in exactly
# one of them.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nestlearn.streams.corpus import ParallelCorpus
from nestlearn.streams.languages import check_languages
from nestlearn.streams.tokenizer import END_ID

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, eq=False)
class TokenizedLanguage:
    """One language as token streams: paragraphs joined, each ended by ``<|end|>``."""

    language: str
    train: Tensor  # int64 [N]
    validation: Tensor  # int64 [N]
    test: Tensor  # int64 [N]


def tokenize(
    corpus: ParallelCorpus,
    tokenizer: Tokenizer,
    languages: Sequence[str] | None = None,
    *,
    max_paragraphs: int | None = None,
) -> dict[str, TokenizedLanguage]:
    """Encode a corpus.

    Args:
        corpus: The texts.
        tokenizer: See `nestlearn.streams.train_tokenizer`.
        languages: Which of the corpus's languages, default all of them.
        max_paragraphs: At most so many paragraphs of each split, spread evenly over it and the same ones in
            every language; default all.

    Returns:
        Language -> its streams, in the order asked for.

    Raises:
        ValueError: ``max_paragraphs`` below 1.
        DataError: A language that the corpus does not have.
    """
    if max_paragraphs is not None and not max_paragraphs >= 1:
        raise ValueError(f"Invalid max_paragraphs: {max_paragraphs}. Must be at least 1.")
    selection = check_languages(corpus.languages if languages is None else languages, corpus.languages)

    def stream(language: str, split: str) -> Tensor:
        return _encode(_spread(corpus.paragraphs[language].get(split, ()), max_paragraphs), tokenizer)

    return {
        language: TokenizedLanguage(
            language, stream(language, "train"), stream(language, "validation"), stream(language, "test")
        )
        for language in selection
    }


class BatchSampler:
    """Draws training batches; batch k is a pure function of (seed, name, k), so that resuming needs no state.

    The stream is cut into windows that do not overlap, and all are drawn once, in random order, before the
    next epoch cuts it again at another random offset. An epoch leaves out fewer than two contexts of tokens
    at the ends.

    Args:
        tokens: int64 ``[N]``.
        batch_size: Windows in a batch.
        context: Tokens predicted in a window.
        seed: Decides offsets and orders.
        name: Of the stream, such as its language: two streams of one seed are then drawn in unrelated orders.

    Raises:
        ValueError: ``batch_size`` or ``context`` below 1, tokens that are no int64 vector or fewer than
            ``2 * context``.
    """

    tokens_per_step: int
    """Tokens predicted in one batch: ``batch_size * context``."""

    def __init__(self, tokens: Tensor, *, batch_size: int, context: int, seed: int, name: str = "") -> None:
        _check_stream(tokens, context)
        if not batch_size >= 1:
            raise ValueError(f"Invalid batch_size: {batch_size}. Must be at least 1.")
        if len(tokens) < 2 * context:
            raise _too_few(tokens, context, 2 * context)
        self.tokens_per_step = batch_size * context
        self._tokens = tokens
        self._batch_size = batch_size
        self._context = context
        self._key = f"{seed}:{name}"
        # The largest offset is context - 1; the number of windows that always fit behind it is the same each
        # epoch, which makes "window number k belongs to epoch k // windows" a plain division.
        self._windows = (len(tokens) - context) // context
        self._latest: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def batch(self, step: int) -> Tensor:
        """Return the batch of a step.

        Args:
            step: Counted from 0.

        Returns:
            int64 ``[batch_size, context + 1]``: inputs are ``[:, :-1]``, targets ``[:, 1:]``.

        Raises:
            ValueError: A negative step.
        """
        if not step >= 0:
            raise ValueError(f"Invalid step: {step}. Must not be negative.")
        first = step * self._batch_size
        starts: list[Tensor] = []
        missing = self._batch_size
        while missing > 0:
            epoch, position = divmod(first + self._batch_size - missing, self._windows)
            starts.append(self._starts(epoch)[position : position + missing])
            missing -= len(starts[-1])
        positions = torch.cat(starts)[:, None] + torch.arange(self._context + 1)
        return self._tokens[positions.to(self._tokens.device)]

    def _starts(self, epoch: int) -> Tensor:
        """Return where each window of an epoch starts, in the order they are drawn: int64 [windows]."""
        if self._latest[0] != epoch:  # drawing is sequential: remembering one epoch makes it cheap
            digest = hashlib.sha256(f"{self._key}:{epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            offset = torch.randint(self._context, (1,), generator=generator)
            order = torch.randperm(self._windows, generator=generator)
            self._latest = (epoch, order * self._context + offset)
        return self._latest[1]


def evaluation_windows(tokens: Tensor, *, context: int, limit: int | None) -> Tensor:
    """Cut a held-out stream into windows.

    Args:
        tokens: int64 ``[N]``.
        context: Tokens predicted in a window.
        limit: At most so many windows, at even distances over the stream, whose text runs in page order;
            None for all.

    Returns:
        int64 ``[n, context + 1]``; the last tokens, too few for a window, are left out.

    Raises:
        ValueError: Fewer than ``context + 1`` tokens, or ``context`` or ``limit`` below 1.
    """
    _check_stream(tokens, context)
    if limit is not None and not limit >= 1:
        raise ValueError(f"Invalid limit: {limit}. Must be at least 1, or None for all windows.")
    if len(tokens) < context + 1:
        raise _too_few(tokens, context, context + 1)
    windows = tokens.unfold(0, context + 1, context)
    count = len(windows) if limit is None else min(limit, len(windows))
    return windows[torch.arange(count) * len(windows) // count].contiguous()


def _check_stream(tokens: Tensor, context: int) -> None:
    if tokens.dim() != 1 or tokens.dtype != torch.int64:
        raise ValueError(f"Invalid tokens: {tokens.dtype} {list(tokens.shape)}. Must be an int64 vector.")
    if not context >= 1:
        raise ValueError(f"Invalid context: {context}. Must be at least 1.")


def _too_few(tokens: Tensor, context: int, needed: int) -> ValueError:
    return ValueError(
        f"Too few tokens: {len(tokens)}. A context of {context} needs at least {needed}: use more text or a "
        "shorter context."
    )


def _spread(texts: Sequence[str], limit: int | None) -> Sequence[str]:
    """Return at most `limit` texts at even distances: the first ones would all be about one chapter."""
    if limit is None or len(texts) <= limit:
        return texts
    return [texts[index * len(texts) // limit] for index in range(limit)]


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> Tensor:
    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        ids.extend(encoding.ids)
        ids.append(END_ID)
    return torch.tensor(ids, dtype=torch.int64)
