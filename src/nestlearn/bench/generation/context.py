"""Learning in context: the model stays as it is, and reads examples before every sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.bench.generation.answers import answered
from nestlearn.bench.generation.material import Material
from nestlearn.bench.generation.packing import answer_logits, pack
from nestlearn.retrofitting import positions
from nestlearn.streams.tasks import Labelled

#: Tokens that are read at once: memory grows with their number times all before.
PIECE = 512


class Prefix:
    """What all sentences follow, read once: its keys and values are kept.

    Args:
        model: A causal language model of the library ``transformers``.

    Attributes:
        length: Tokens that were read.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.length = model, 0
        self._kept: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def read(self, tokens: Tensor) -> None:
        """Read tokens ``[n]`` after those before."""
        anything: Any = self.model
        cache = self._cache()
        tokens = tokens.to(next(self.model.parameters()).device)
        for piece in tokens[None].split(PIECE, dim=1):
            anything(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._kept = [(layer.keys, layer.values) for layer in cache.layers]
        self.length += len(tokens)

    @torch.no_grad()
    def speaker(self, row: Tensor) -> Tensor:
        """The logits of the answers in a packed row, each of whose sentences follows the prefix."""
        return answer_logits(self.model, row, self._cache(), self.length)

    def _cache(self) -> Any:
        """A new cache with what is kept, to which a pass may add its own."""
        from transformers import DynamicCache  # noqa: PLC0415  (seconds to import)

        cache = DynamicCache()
        for place, (keys, values) in enumerate(self._kept):
            cache.update(keys, values, place)
        return cache


class InContext:
    """The unchanged model with the first examples of every intent that came in its prompt, in a drawn order.

    In-context learning (Brown et al. 2020, arXiv 2005.14165). Nothing is trained; examples are stored, and
    read when somebody asks. In the order in which they came, the last task's intents would be all that a
    small model says (recency: Zhao et al. 2021, arXiv 2102.09690); as they are stored, their order is free.

    Args:
        material: Model and answers.
        shots: Examples of an intent at most.
        seed: Of the order.

    Attributes:
        prefix: What was read last.

    Raises:
        ValueError: For less than one example.
    """

    def __init__(self, material: Material, shots: int, seed: int = 0) -> None:
        if shots < 1:
            raise ValueError(f"shots must be at least 1, got {shots}")
        self.material, self.shots, self.seed = material, shots, seed
        self.prefix = Prefix(material.model)
        self.counts: dict[int, int] = {}
        self.examples: list[Tensor] = []

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """Keep what is new of examples ``[B, L]`` of classes ``[B]``.

        Returns:
            0.0: there is no loss.

        Raises:
            ValueError: All examples are more than the model has positions.
        """
        for sentence, label in zip(inputs, labels.tolist(), strict=True):
            if self.counts.get(label, 0) < self.shots:
                self.counts[label] = self.counts.get(label, 0) + 1
                self.examples.append(pack([sentence], [self.material.answers[label]])[0, :, 0])
        self._room(0)
        return 0.0

    def end_task(self, data: Labelled) -> None:
        """Nothing: it is not told when a task ends."""

    def right(self, data: Labelled) -> Tensor:
        """Which sentences get exactly their intent, ``[n]``.

        Raises:
            ValueError: A sentence does not fit behind the examples.
        """
        self._room(data.inputs.shape[1] + max(map(len, self.material.answers)))
        if self.prefix.length != self._tokens:
            self.prefix = Prefix(self.material.model)
            self.prefix.read(torch.cat(self._shuffled()))
        return answered(self.prefix.speaker, data.inputs, self.material.named(data.classes))

    def stored_bytes(self) -> int:
        """Of the examples, at two bytes a token."""
        return 2 * self._tokens

    @property
    def _tokens(self) -> int:
        return sum(map(len, self.examples))

    def _shuffled(self) -> list[Tensor]:
        """The examples in an order that their number and the seed decide."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.examples), generator=generator)
        return [self.examples[i] for i in order.tolist()]

    def _room(self, further: int) -> None:
        most, needed = positions(self.material.model), self._tokens + further
        if most is not None and needed > most:
            raise ValueError(f"the model has {most} positions, and {needed} are needed: give fewer shots")
