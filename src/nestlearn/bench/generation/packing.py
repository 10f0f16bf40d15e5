"""Sentences of different lengths one after the other in one row, so that nothing is filling.

A row is what the model would compute of each sentence by itself: a mask keeps them apart, and each begins at
position 0. A batch of short sentences costs as much as its tokens, and key memories look at nothing else
(sequence packing: Krell et al. 2021, arXiv 2107.02027).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: What fills up a row of tokens that is kept in a table; no tokenizer has it.
FILLING = -1


def pack(sentences: Sequence[Tensor], answers: Sequence[Tensor]) -> Tensor:
    """Sentences, each with its answer, in one row.

    Args:
        sentences: Tokens of each ``[L]``, at the end of which :data:`FILLING` is left out.
        answers: Tokens of each one's answer ``[A]``.

    Returns:
        Whole numbers ``[1, N, 3]``: the token, its position in its own sentence, and 1 where it is one of an
        answer's. It is a batch of one window as :meth:`nestlearn.continual.methods.Method.step` counts them.

    Raises:
        ValueError: For no sentence, one without tokens, or another number of answers.
    """
    if not len(sentences) or len(sentences) != len(answers):
        raise ValueError(f"every sentence has one answer; got {len(sentences)} and {len(answers)}")
    parts = []
    for sentence, answer in zip(sentences, answers, strict=True):
        own = sentence[sentence != FILLING].long()
        if not len(own):
            raise ValueError("a sentence has no tokens: leave it out")
        ids = torch.cat([own, answer.long()])
        places = torch.arange(len(ids))
        parts.append(torch.stack([ids, places, (places >= len(own)).long()], dim=1))
    return torch.cat(parts)[None]


def owners(row: Tensor) -> Tensor:
    """Which sentence each token of a packed row ``[1, N, 3]`` belongs to, ``[N]`` from 0 on."""
    return (row[0, :, 1] == 0).cumsum(0) - 1


def answer_logits(model: nn.Module, row: Tensor, cache: Any = None, before: int = 0) -> Tensor:
    """What the model says where the answers' tokens are.

    Args:
        model: A causal language model of the library ``transformers``.
        row: See :func:`pack`.
        cache: Keys and values of ``before`` tokens that every sentence follows; those of the row are added.
        before: How many those are.

    Returns:
        Logits ``[K, V]`` in float32 at least, of the ``K`` tokens of answers in their order.
    """
    row = row.to(next(model.parameters()).device)
    ids, places = row[:, :, 0], row[:, :, 1]
    anything: Any = model
    # a token is said by what stands before it
    said = row[0, :, 2].nonzero().flatten() - 1
    found: Tensor = anything(
        input_ids=ids,
        position_ids=places + before,
        attention_mask=_mask(row, before, next(model.parameters()).dtype),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=said,
    ).logits[0]
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _mask(row: Tensor, before: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores ``[1, 1, N, before + N]``.

    A sentence sees what comes before all of them, and its own past.
    """
    own = owners(row)
    seen = (own[:, None] == own).tril()
    seen = torch.cat([seen.new_ones(len(own), before), seen], dim=1)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=row.device)
    return hidden.masked_fill(~seen, torch.finfo(dtype).min)[None, None]
