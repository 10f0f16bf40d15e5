"""Streams of text, chats, records and token ids, cut into windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nestlearn.continual.documents import Windows, documents, encode
from tests.continual.small import texts, tokenizer
from tests.helpers import copy_tree

CHAT = [{"role": "user", "content": "red tree"}, {"role": "assistant", "content": "blue"}]
IDS = [5, 6, 7]
FORMS: dict[str, tuple[Any, list[str]]] = {
    "string": ("red tree", ["text"]),
    "strings": (["red", "blue"], ["text", "text"]),
    "generator": ((word for word in ("red", "blue")), ["text", "text"]),
    "chat": (CHAT, ["chat"]),
    "chats": ([CHAT, CHAT], ["chat", "chat"]),
    "records of text": ([{"text": "red", "id": 1}, {"text": "blue", "id": 2}], ["text", "text"]),
    "one record": ({"text": "red"}, ["text"]),
    "records of chats": ([{"messages": CHAT}], ["chat"]),
    "records of ids": ([{"input_ids": IDS, "text": "no"}], ["ids"]),
    "ids": ([IDS, IDS], ["ids", "ids"]),
    "tensor": (torch.tensor(IDS), ["ids"]),
    "batch": (torch.tensor([IDS, IDS]), ["ids", "ids"]),
    "batches": ([torch.tensor([IDS, IDS]), torch.tensor(IDS)], ["ids", "ids", "ids"]),
    "mixed": (["red", CHAT, IDS], ["text", "chat", "ids"]),
    "nothing": ([], []),
}


def kind(document: Any) -> str:
    return "text" if isinstance(document, str) else "ids" if isinstance(document, torch.Tensor) else "chat"


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_a_stream(name: str) -> None:
    stream, kinds = FORMS[name]
    assert [kind(document) for document in documents(stream)] == kinds


@pytest.mark.parametrize("stream", [3, [3.5], [None], [{"body": "red"}], [["red", 1]]], ids=str)
def test_what_is_not_text_is_refused(stream: Any) -> None:
    with pytest.raises(ValueError, match=r"stream of text is needed|a document is|needs one of the fields"):
        list(documents(stream))


def test_a_document_ends_with_the_token_for_it() -> None:
    own = tokenizer()
    assert own.decode(encode(own, "red")) == "red</s>"
    assert own.decode(encode(own, "red</s>")).count("</s>") == 1
    assert own.decode(encode(own, CHAT)) == "u: red tree\na: blue\n</s>"
    assert encode(own, "") == []
    assert encode(own, torch.tensor(IDS)) == IDS
    with pytest.raises(ValueError, match="no chat template"):
        encode(tokenizer(template=False), CHAT)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("context", [1, 5, 1000])
@pytest.mark.parametrize("count", [1, 7])
def test_every_token_is_a_target_once_and_in_order(batch_size: int, context: int, count: int) -> None:
    own, stream = tokenizer(), texts(count)
    whole = [token for text in stream for token in encode(own, text)]
    windows = Windows(own, context, batch_size)
    batches = list(windows.batches(stream))
    targets = [token for batch in batches for row in batch for token in row[1:].tolist()]
    assert targets == whole[1:]
    assert all(row[0] == whole[i] for i, row in _rows(batches))
    assert all(batch.shape[0] <= batch_size and batch.shape[1] <= context + 1 for batch in batches)
    full = [batch for batch in batches if tuple(batch.shape) == (batch_size, context + 1)]
    assert len(full) == (len(whole) - 1) // (batch_size * context)
    assert windows.documents == count
    assert windows.longest == max(len(encode(own, text)) for text in stream)


def _rows(batches: list[torch.Tensor]) -> list[tuple[int, torch.Tensor]]:
    """Rows with the place of their first token in the stream."""
    found, place = [], 0
    for batch in batches:
        for row in batch:
            found.append((place, row))
            place += len(row) - 1
    return found


@pytest.mark.parametrize("stop", range(12))
def test_a_position_is_taken_up_again(stop: int) -> None:
    own, stream = tokenizer(), texts(5)
    windows = Windows(own, 16, 2)
    expected = list(windows.batches(stream))
    assert len(expected) > 9
    first = Windows(own, 16, 2)
    cut = first.batches(stream)
    got = [batch for _, batch in zip(range(stop), cut, strict=False)]
    second = Windows(own, 16, 2)
    second.load_state_dict(copy_tree(first.state_dict()))
    got += list(second.batches(stream))
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert (second.documents, second.longest) == (windows.documents, windows.longest)


@pytest.mark.parametrize("other", [["other", *texts(5)[1:]], texts(1)], ids=["changed", "shorter"])
def test_another_stream_is_noticed(other: list[str]) -> None:
    own = tokenizer()
    windows = Windows(own, 16, 2)
    next(windows.batches(texts(5)))
    state = copy_tree(windows.state_dict())
    assert state["documents"] == 1 or other[0] == "other"
    again = Windows(own, 16, 2)
    again.load_state_dict({**state, "documents": max(2, state["documents"])})
    with pytest.raises(ValueError, match="another stream"):
        next(again.batches(other))
