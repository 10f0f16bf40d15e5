"""What is learned of an answer, and whether a model gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestlearn.bench.generation.packing import answer_logits, owners, pack

#: Sentences that are asked together.
GROUP = 32
#: Maps a packed row to the logits ``[K, V]`` of its answers' tokens.
Speaker = Callable[[Tensor], Tensor]


def answer_loss(model: nn.Module, row: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens, in nats; nobody learns to write the sentences.

    Args:
        model: A causal language model of the library ``transformers``.
        row: See :func:`~nestlearn.bench.generation.packing.pack`.
    """
    said = answer_logits(model, row)
    return F.cross_entropy(said, row[0, row[0, :, 2] == 1, 0].to(said.device))


@torch.no_grad()
def answered(speaker: Speaker, sentences: Tensor, answers: Sequence[Tensor], *, group: int = GROUP) -> Tensor:
    """Whether greedy generation after each sentence gives exactly its answer.

    It does so if and only if each token of the answer, the one that ends it included, is the likeliest after
    the sentence and the tokens of the answer before it. That takes one pass with the right answers, and no
    step by step.

    Args:
        speaker: What is asked.
        sentences: Tokens ``[n, L]``, filled up with :data:`~nestlearn.bench.generation.packing.FILLING`.
        answers: Tokens of the right answer of each.
        group: Sentences of a pass.

    Returns:
        ``[n]``, true where it does.

    Raises:
        ValueError: See :func:`~nestlearn.bench.generation.packing.pack`.
    """
    found = torch.ones(len(sentences), dtype=torch.bool)
    for start in range(0, len(sentences), group):
        row = pack(list(sentences[start : start + group]), answers[start : start + group])
        said = row[0, :, 2] == 1
        missed = speaker(row).argmax(-1).cpu() != row[0, said, 0]
        found[start + owners(row)[said][missed].unique()] = False
    return found
