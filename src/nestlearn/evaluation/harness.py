"""Models for lm-eval: ``nestlearn``, and ``nestlearn-stream``, whose memory goes on from request to request.

Importing this module registers both names with lm-eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedModel

import nestlearn.models.hope  # noqa: F401  (its classes are known by name then)
from nestlearn.continual.learner import Learner
from nestlearn.models.pretrained import smollm2
from nestlearn.models.scoring import Likelihood, feed, is_hope, log_likelihoods

#: Tokens that lm-eval may give to a model without a limit.
UNLIMITED = 2**31
#: Settings of lm-eval's own class that have no meaning here, and why.
_REFUSED = {
    "softmax_dtype": "log-probabilities are float32",
    "logits_cache": "shared contexts are computed once in any case",
}


@register_model("nestlearn")
class NestlearnLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """Any causal language model, with or without what it learned. Every request starts afresh.

    A Hope begins each request in its meta-learned initial state, so that neither the order of the requests
    nor the batch size has an influence, and its context is never cut: long ones go through its cache in
    pieces. Other models take what they have positions for.

    Args:
        pretrained: A folder (a Hope or any other of Hugging Face's), a name on the hub, ``"smollm2"``, or a
            model.
        tokenizer: A tokenizer or where it is; by default beside the model.
        memory: A file that ``nestlearn learn`` or :meth:`nestlearn.Learner.save` wrote: what the model has
            learned since.
        batch_size: Requests at a time.
        max_length: Tokens of a context at most; by default all that the model takes.
        settings: Of lm-eval's class for Hugging Face models: ``dtype``, ``device``, ``revision``, ``peft``
            and so on.

    Raises:
        ValueError: For a batch size that is no number, a setting without a meaning here, a model that is not
            causal, or a tokenizer that has no token to begin a text with.
        MemoryFileError: If the memory is of another model.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        tokenizer: Any = None,
        *,
        memory: str | Path | None = None,
        batch_size: int | str | None = 1,
        max_length: int | None = None,
        **settings: Any,
    ) -> None:
        for name in _REFUSED.keys() & settings.keys():
            raise ValueError(f"{name} has no meaning for this model ({_REFUSED[name]}): leave it out")
        if not str(batch_size).isdigit() or int(str(batch_size)) < 1:
            raise ValueError(f"batch_size must be a whole number, at least 1; got {batch_size!r}")
        place = str(smollm2()) if pretrained == "smollm2" else pretrained
        place = str(place) if isinstance(place, Path) else place
        super().__init__(
            place, tokenizer=tokenizer, batch_size=int(str(batch_size)), max_length=max_length,
            **{"backend": "causal", "device": "cuda" if torch.cuda.is_available() else "cpu", **settings},
        )  # fmt: skip
        if self.backend != "causal":
            raise ValueError(f"backend {self.backend} has no continuations: use lm-eval's own model hf")
        if self.prefix_token_id is None:
            raise ValueError(
                "the tokenizer has no token that begins or ends a text: give prefix_token_id, the id of one"
            )
        if memory is not None:
            self._model: Any = Learner.load(self.model, memory, self.tokenizer).model
        self._session: Any = None

    @property
    def max_length(self) -> int:
        """Tokens that the model takes."""
        if self._max_length is None and is_hope(self.model):
            return UNLIMITED
        return int(super().max_length)

    def tok_batch_encode(self, strings: list[str], *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        """Prompts as tokens and their mask; an empty one is the token that begins a text."""
        begin = self.tokenizer.decode([self.prefix_token_id], skip_special_tokens=False)
        encoded: tuple[Tensor, Tensor] = super().tok_batch_encode(
            [text or begin for text in strings], *args, **settings
        )
        return encoded

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """What lm-eval asks for all kinds of likelihoods: by :func:`nestlearn.models.scoring`."""
        del override_bs  # the batch size is known
        bar = tqdm(total=len(requests), desc="likelihoods", disable=disable_tqdm or self.rank != 0)

        def done(index: int, result: Likelihood) -> None:
            texts = requests[index][0]
            if texts is not None:  # the windows of a document are put together by the caller
                self.cache_hook.add_partial("loglikelihood", texts, tuple(result))
            bar.update()

        mixed = self.mixed_precision_dtype
        with bar, torch.autocast(self.device.type, mixed, enabled=mixed is not None):
            found = log_likelihoods(
                self.model,
                [(context, continuation) for _, context, continuation in requests],
                batch_size=self.batch_size,
                max_length=None if self.max_length == UNLIMITED else self.max_length,
                past_key_values=self._session,
                on_result=done,
            )
        return [(result.log_probability, result.greedy) for result in found]


@register_model("nestlearn-stream")
class NestlearnStreamLM(NestlearnLM):
    """A Hope whose memory goes on from one document to the next, in the order in which they are asked.

    Not the usual evaluation: **a score depends on what was asked before**, and says how much a model gains
    from having read the same kind of text. All requests of a document (the alternatives of a question) start
    from one snapshot of the memory. When it has answered them, the model reads

    - of a question, its context: what all its requests begin with, and then the token that ends a text.
      Neither the right answer nor any other is read;
    - of a text whose likelihood is asked (``loglikelihood_rolling``), the text;
    - of a prompt that is to be continued, the prompt, and not what the model wrote.

    Args:
        pretrained: As for :class:`NestlearnLM`.
        settings: As for :class:`NestlearnLM`, without ``max_length``.

    Raises:
        ValueError: For a model whose memory does not go on, or ``max_length``, which would cut it.
    """

    def __init__(self, pretrained: str | PreTrainedModel, tokenizer: Any = None, **settings: Any) -> None:
        if settings.get("max_length") is not None:
            raise ValueError("the memory goes on for ever: leave out max_length")
        super().__init__(pretrained, tokenizer, **settings)
        if not is_hope(self.model):
            raise ValueError(
                f"nestlearn-stream needs a memory that goes on from text to text, a Hope; this is a "
                f"{type(self.model).__name__}: use nestlearn"
            )
        if self.world_size > 1:
            raise ValueError("requests have an order, so that one process must do all: start just one")

    def reset(self) -> None:
        """Forget all documents: the next is the first."""
        self._session = None

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's store of answers.

        Raises:
            ValueError: Always: who takes an answer from there does not read the document.
        """
        raise ValueError("an answer depends on what was asked before and cannot be kept: leave out use_cache")

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Likelihoods of continuations, document by document."""
        answers: list[tuple[float, bool]] = []
        with self._bar(requests, disable_tqdm) as bar:
            for _, group in groupby(requests, key=lambda request: (request.task_name, request.doc_id)):
                alternatives = list(group)
                answers += super().loglikelihood(alternatives, disable_tqdm=True)
                bar.update(len(alternatives))
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Likelihoods of whole texts, each read after the one before."""
        answers: list[float] = []
        with self._bar(requests, disable_tqdm) as bar:
            for request in requests:
                answers += super().loglikelihood_rolling([request], disable_tqdm=True)
                bar.update()
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations of prompts, each prompt read after the one before."""
        answers: list[str] = []
        with self._bar(requests, disable_tqdm) as bar:
            for request in requests:
                answers += super().generate_until([request], disable_tqdm=True)
                self._read([*self.tok_encode(request.args[0]), self.eot_token_id])
                bar.update()
        return answers

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """The requests of one document, which is then read."""
        answers = super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)
        if requests[0][0] is None:
            self._read(requests[0][1] + requests[0][2])
            return answers
        # Requests without a context ask how likely an answer is by itself.
        contexts = [context for texts, context, _ in requests if texts is not None and texts[0]]
        shared = _beginning(contexts)
        if shared:
            self._read([*shared, self.eot_token_id])
        return answers

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **settings: Any) -> Any:
        """From the present memory, which stays as it is."""
        if self._session is not None:
            session = self._session.copy()
            rows = settings.get("num_beams", 1) * settings.get("num_return_sequences", 1)
            session.batch_repeat_interleave(rows)
            # With what went before, so that it is clear that the prompt does not begin there.
            seen = torch.ones(1, session.get_seq_length(), dtype=torch.long, device=context.device)
            mask = torch.cat([seen, settings["attention_mask"]], dim=1)
            settings |= {"past_key_values": session, "attention_mask": mask}
        return super()._model_generate(context, max_length, stop, **settings)

    def _read(self, tokens: list[int]) -> None:
        self._session = feed(self.model, tokens, self._session)

    def _bar(self, requests: list[Any], disable: bool) -> Any:
        return tqdm(total=len(requests), desc="in their order", disable=disable)


def _beginning(sequences: Sequence[Sequence[int]]) -> list[int]:
    """What all sequences begin with."""
    shared: list[int] = []
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        shared.append(tokens[0])
    return shared


__all__ = ["UNLIMITED", "NestlearnLM", "NestlearnStreamLM"]
