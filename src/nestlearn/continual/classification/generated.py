"""Classes in words: a language model reads an example and writes the name of its class.

A row of tokens is a *question*, an example and whatever asks for its class, and an *answer*, the name, which
ends with a token that no question ends with. A model is right if it writes the whole answer and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestlearn.continual.classification.base import Classifier
from nestlearn.continual.methods import Method
from nestlearn.continual.methods.base import causal_loss
from nestlearn.streams.tasks import Labelled


class Answers:
    """The names of the classes, as tokens.

    Args:
        names: The tokens of each class's name; the last one ends the answer, and is the same for all.
        pad: Fills up questions at their end. It is in no question.

    Raises:
        ValueError: No classes, names that do not end alike, or a name twice.
    """

    def __init__(self, names: Sequence[Sequence[int]], pad: int) -> None:
        if (
            not names
            or len({own[-1] for own in names}) != 1
            or len({tuple(own) for own in names}) < len(names)
        ):
            raise ValueError("every class needs a name of its own in tokens, and all names one last token")
        self.names, self.pad, self.end = [tuple(own) for own in names], pad, names[0][-1]
        self.longest = max(map(len, self.names))

    def question(self, row: Tensor) -> Tensor:
        """The tokens of one question ``[L]`` without what fills it up."""
        return row[row != self.pad].long()

    def rows(self, questions: Tensor, labels: Tensor) -> Tensor:
        """Questions ``[B, L]`` with their answers, filled up with ends: ``[B, L + longest]``."""
        found = torch.full((len(questions), questions.shape[1] + self.longest), self.end)
        for row, question, label in zip(found, questions, labels.tolist(), strict=True):
            whole = torch.cat([self.question(question), torch.tensor(self.names[label])])
            row[: len(whole)] = whole
        return found

    def scores(self, written: Sequence[Sequence[int]]) -> Tensor:
        """One for the class whose name was written, zero for others, ``[B, classes + 1]``; the last is none.

        Args:
            written: Tokens, up to the end and with it.
        """
        places = {name: place for place, name in enumerate(self.names)}
        found = [places.get(tuple(own), len(places)) for own in written]
        return torch.eye(len(places) + 1)[found]

    def cut(self, tokens: Sequence[int]) -> list[int]:
        """Tokens up to the first end, and with it."""
        own = list(tokens)
        return own[: own.index(self.end) + 1] if self.end in own else own


class GeneratedLabels(Classifier):
    """A way of learning on, for rows of question and answer.

    All tokens of a row are learned, the question's as well: what rehearses can then also ask.

    Args:
        method: Attached to a model of the library ``transformers``.
        answers: The names of the classes.
        told: Whether a task's end ends a subject, see :meth:`nestlearn.continual.methods.Method.keep`.
    """

    name: ClassVar[str] = "generated labels"

    def __init__(self, method: Method, answers: Answers, *, told: bool = False) -> None:
        self.method, self.answers, self.told = method, answers, told
        self.network, self.tasks, self.among = method.model, 0, None

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """One step on questions ``[B, L]`` and their classes ``[B]``."""
        device = next(self.network.parameters()).device
        return self.method.step(self.answers.rows(inputs, labels).to(device))

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the rows' tokens, to which the method may add its own."""
        return causal_loss(self.network, self.answers.rows(inputs, labels))

    def end_task(self, data: Labelled) -> None:
        """Keep what was learned, if told."""
        super().end_task(data)
        if self.told:
            self.method.keep()

    @torch.no_grad()
    def scores(self, inputs: Tensor) -> Tensor:
        """The class that is written, see :meth:`Answers.scores`; questions of one length go together."""
        self.network.eval()
        sizes = (inputs != self.answers.pad).sum(1)
        written: list[list[int]] = [[] for _ in inputs]
        for size in sizes.unique().tolist():
            places = (sizes == size).nonzero().flatten()
            questions = torch.stack([self.answers.question(inputs[i]) for i in places])
            for place, own in zip(places.tolist(), self._written(questions), strict=True):
                written[place] = own
        return self.answers.scores(written)

    def _written(self, questions: Tensor) -> list[list[int]]:
        """What the model writes after questions ``[B, L]`` of one length."""
        model: Any = self.network
        ids = questions.to(next(model.parameters()).device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=self.answers.longest,
            eos_token_id=self.answers.end,
            pad_token_id=self.answers.end,
        )
        return [self.answers.cut(own) for own in out[:, ids.shape[1] :].tolist()]

    def stored_bytes(self) -> int:
        """What the method keeps."""
        return self.method.stored_bytes()


class InContext(Classifier):
    """A model that never changes and reads examples of all classes so far before each question.

    The examples are read once; what they left in the cache serves all questions.

    Args:
        model: Of the library ``transformers``.
        answers: The names of the classes.
        each: Examples of a class that are kept, the first ones.
        longest: Tokens that the model can read, question and answer included; None for any number.

    Raises:
        ValueError: For ``each`` below 1.
    """

    name: ClassVar[str] = "in context"

    def __init__(
        self, model: nn.Module, answers: Answers, *, each: int = 1, longest: int | None = None
    ) -> None:
        if each < 1:
            raise ValueError(f"each must be at least 1, got {each}")
        self.network, self.answers, self.each, self.longest = model.eval(), answers, each, longest
        self.tasks, self.among = 0, None
        self.kept: dict[int, list[Tensor]] = {}
        self._cache: Any = None

    def learn(self, inputs: Tensor, labels: Tensor) -> float:
        """Keep examples of classes that have fewer than ``each``.

        Returns:
            Zero: nothing is minimised.

        Raises:
            ValueError: The model cannot read as many.
        """
        for question, label in zip(inputs, labels.tolist(), strict=True):
            own = self.kept.setdefault(label, [])
            if len(own) < self.each:
                own.append(torch.tensor([*self.answers.question(question), *self.answers.names[label]]))
                self._cache = None
        need = self._tokens + inputs.shape[1] + self.answers.longest
        if self.longest is not None and need > self.longest:
            raise ValueError(f"the model reads {self.longest} tokens, the examples need {need}: keep fewer")
        return 0.0

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Zero: nothing is minimised."""
        return torch.zeros(())

    @property
    def _tokens(self) -> int:
        return sum(row.numel() for own in self.kept.values() for row in own)

    @torch.no_grad()
    def scores(self, inputs: Tensor) -> Tensor:
        """The class that is written, see :meth:`Answers.scores`."""
        return self.answers.scores([self._written(self.answers.question(row)) for row in inputs])

    def _written(self, question: Tensor) -> list[int]:
        """What the model writes after the examples and a question ``[L]``."""
        device = next(self.network.parameters()).device
        if self._cache is None and self.kept:
            rows = [row for own in self.kept.values() for row in own]
            self._cache = self._read(torch.cat(rows).to(device), None)[1]
        written: list[int] = []
        step, cache = question.to(device), self._cache
        while len(written) < self.answers.longest and self.answers.end not in written:
            chosen, cache = self._read(step, cache)
            written.append(int(chosen))
            step = chosen.view(1)
        if self.kept:
            self._cache = cache
            self._cache.crop(self._tokens - self._cache.get_seq_length())
        return written

    def _read(self, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """The likeliest next token ``[]`` after tokens ``[L]``, and the cache with them."""
        model: Any = self.network
        out = model(input_ids=tokens[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1].argmax(), out.past_key_values

    def stored_bytes(self) -> int:
        """The examples, two bytes a token."""
        return 2 * self._tokens
