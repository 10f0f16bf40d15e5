"""Anything that holds text, as a stream of token windows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Stream = Any
"""What can be learned: a string, strings, chats (lists of turns), records with one of the fields
:data:`FIELDS`, tensors of token ids, or any iterable of these, such as a ``datasets.Dataset``."""

#: Fields of a record that hold what is to be learned, in the order in which they are looked for.
FIELDS = ("input_ids", "messages", "text")
_ROLE = "role"
CONTEXT = 256  # tokens of a window where nobody says otherwise


def window_length(model: nn.Module, context: int | None) -> int:
    """Tokens of a window that a model can take; a window has one more, its first input.

    Args:
        model: Its configuration may say how many positions it has.
        context: What was asked for; None for 256, or fewer where the model has fewer positions.

    Raises:
        ValueError: For what is no number of tokens, or more than the model has positions for.
    """
    config: Any = getattr(model, "config", None)
    longest = getattr(config, "max_position_embeddings", None)
    most = longest - 1 if isinstance(longest, int) else None
    if context is None:
        return CONTEXT if most is None else min(CONTEXT, most)
    if isinstance(context, bool) or not isinstance(context, int) or context < 1:
        raise ValueError(f"context must be a whole number, at least 1; got {context!r}")
    if most is not None and context > most:
        raise ValueError(f"context must be at most {most}, the model has {longest} positions; got {context}")
    return context


def documents(stream: Stream) -> Iterator[Any]:
    """The single documents of a stream: strings, chats and token ids, one by one.

    Raises:
        ValueError: For something that is not text.
    """
    if isinstance(stream, str | Mapping) or _is_chat(stream):
        yield _content(stream)
    elif isinstance(stream, Tensor):
        yield from map(_content, stream if stream.dim() > 1 else [stream])
    elif isinstance(stream, Iterable):
        for document in stream:
            if isinstance(document, Tensor) and document.dim() > 1:
                yield from map(_content, document)
            else:
                yield _content(document)
    else:
        raise ValueError(f"a stream of text is needed, not {_kind(stream)}")


def _is_chat(value: Any) -> bool:
    """Whether a value is one chat, a sequence of turns."""
    if isinstance(value, str | Tensor) or not isinstance(value, Sequence) or not value:
        return False
    return all(isinstance(turn, Mapping) and _ROLE in turn for turn in value)


def _content(document: Any) -> Any:
    """A string, a chat or token ids out of one entry of a stream."""
    if isinstance(document, Mapping):
        for field in FIELDS:
            if field in document:
                return _kept(_content(document[field]), document.get("attention_mask"))
        raise ValueError(
            f"a record needs one of the fields {', '.join(FIELDS)}; this one has {', '.join(document)}"
        )
    if isinstance(document, str) or _is_chat(document):
        return document
    if isinstance(document, Tensor) and document.dim() == 1:
        if document.is_floating_point() or document.is_complex():
            raise ValueError(f"token ids are whole numbers, not {document.dtype}")
        return document
    if isinstance(document, Sequence) and all(isinstance(token, int) for token in document):
        return torch.tensor(document, dtype=torch.long)
    raise ValueError(f"a document is a string, a chat, a record or token ids, not {_kind(document)}")


def _kept(content: Any, mask: Any) -> Any:
    """Token ids without those that a mask leaves out, which are padding."""
    if mask is None or not isinstance(content, Tensor):
        return content
    return content[torch.as_tensor(mask, device=content.device).bool()]


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}: {str(value)[:60]!r}"


def encode(tokenizer: Any, document: Any) -> list[int]:
    """Token ids of a document, with the token that ends a text behind them if the tokenizer has one.

    Raises:
        ValueError: For a chat without a chat template, and for ids that the tokenizer does not have.
    """
    if isinstance(document, Tensor):
        given = [int(token) for token in document.tolist()]
        if given and not 0 <= min(given) <= max(given) < len(tokenizer):
            raise ValueError(
                f"token ids must be from 0 to {len(tokenizer) - 1}; got {min(given)} to {max(given)}"
            )
        return given
    if isinstance(document, str):
        ids = [int(token) for token in tokenizer(document)["input_ids"]] if document else []
    else:
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError("this tokenizer has no chat template: give the turns as text")
        ids = [int(token) for token in tokenizer.apply_chat_template(document, return_dict=True)["input_ids"]]
    end = tokenizer.eos_token_id
    if ids and end is not None and ids[-1] != end:
        ids.append(end)
    return ids


class Windows:
    """Cuts documents into windows of ``context`` targets, in order, each target once.

    Documents follow each other in one stream of tokens; what is longer than a window goes on in the next
    one. Neighbouring windows share one token. The position can be saved and taken up again.

    Args:
        tokenizer: A Hugging Face tokenizer.
        context: Targets of a window.
        batch_size: Windows of a batch.

    Attributes:
        documents: Documents taken in so far.
        longest: Tokens of the longest one.
        ended: Whether the stream has come to its end.
    """

    def __init__(self, tokenizer: Any, context: int, batch_size: int) -> None:
        self.tokenizer, self.context, self.batch_size = tokenizer, context, batch_size
        self.documents, self.longest, self.ended = 0, 0, False
        self._buffer: list[int] = []
        self._start = 0
        self._digest = hashlib.sha256().hexdigest()

    def batches(self, stream: Stream) -> Iterator[Tensor]:
        """Token ids ``[B, context + 1]``; at the end fewer windows, and last a shorter one.

        A stream that was begun before is taken up where it was left; that it is the same is looked at before
        this returns.

        Raises:
            ValueError: If it is another one than before.
        """
        return self._batches(self._opened(stream))

    def _batches(self, source: Iterator[Any]) -> Iterator[Tensor]:
        size = self.batch_size * self.context
        while True:
            while self._left <= size and not self.ended:
                self._take_in(source)
            if self._left <= size:
                break
            yield self._cut(self.batch_size)
        if self._left > self.context:
            yield self._cut((self._left - 1) // self.context)
        if self._left > 1:
            last, self._buffer, self._start = self._buffer[self._start :], [], 0
            yield torch.tensor(last).unsqueeze(0)

    @property
    def _left(self) -> int:
        """Tokens that were taken in and not given out."""
        return len(self._buffer) - self._start

    def _opened(self, stream: Stream) -> Iterator[Any]:
        """The documents behind those that were taken in before; there may be new ones since."""
        source = documents(stream)
        self._skip(source)
        self.ended = False
        return source

    def _take_in(self, source: Iterator[Any]) -> None:
        document = next(source, None)
        if document is None:
            self.ended = True
            return
        ids = encode(self.tokenizer, document)
        self._note(ids)
        self._buffer += ids

    def _note(self, ids: list[int]) -> None:
        self.documents += 1
        self.longest = max(self.longest, len(ids))
        self._digest = hashlib.sha256(f"{self._digest}{ids}".encode()).hexdigest()

    def _skip(self, source: Iterator[Any]) -> None:
        """Pass over the documents that were taken in before."""
        done, expected, longest = self.documents, self._digest, self.longest
        self.documents, self._digest = 0, hashlib.sha256().hexdigest()
        for _ in range(done):
            document = next(source, None)
            if document is None:
                break
            self._note(encode(self.tokenizer, document))
        if (self.documents, self._digest) != (done, expected):
            self.documents, self._digest = done, expected
            raise ValueError(
                f"this is another stream than the one whose first {done} documents were learned: go on with "
                "the same one, or begin anew with another checkpoint"
            )
        self.longest = longest

    def _cut(self, count: int) -> Tensor:
        """The next windows; their last token stays, as the first input of the next."""
        end = self._start + count * self.context
        ids = torch.tensor(self._buffer[self._start : end + 1])
        self._start = end
        if 2 * end > len(self._buffer):  # not at every cut: of one long document it would be much
            self._buffer, self._start = self._buffer[end:], 0
        return ids.unfold(0, self.context + 1, self.context).clone()

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream."""
        return {
            "documents": self.documents,
            "longest": self.longest,
            "ended": self.ended,
            "digest": self._digest,
            "buffer": torch.tensor(self._buffer[self._start :], dtype=torch.long),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to a position."""
        self.documents, self.longest = int(state["documents"]), int(state["longest"])
        self.ended, self._digest = bool(state["ended"]), str(state["digest"])
        self._buffer, self._start = [int(token) for token in state["buffer"].tolist()], 0
