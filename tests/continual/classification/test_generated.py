"""A language model that writes the names of classes: what is right, and that shortcuts change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.continual.classification import Answers, GeneratedLabels, InContext
from nestlearn.continual.methods import FineTuning, Rehearsal, Rehearsing
from nestlearn.streams.tasks import Labelled
from tests.retrofitting.small import pretrained

END, PAD = 5, 2
NAMES = [(10, END), (11, 12, END), (10, 12, END)]


def answers() -> Answers:
    return Answers(NAMES, PAD)


def questions(seed: int = 0, count: int = 8) -> Tensor:
    """Rows of three to five tokens, filled up."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(20, 60, (count, 5), generator=generator)
    for row in rows[::2]:
        row[3:] = PAD
    return rows.to(torch.int32)


def learning(lr: float = 1e-2, **settings: Any) -> GeneratedLabels:
    method = FineTuning(lr)
    method.attach(pretrained())
    return GeneratedLabels(method, answers(), **settings)


def test_a_row_is_a_question_its_answer_and_ends() -> None:
    asked = torch.tensor([[30, 31, PAD, PAD], [30, 31, 32, 33]])
    rows = answers().rows(asked, torch.tensor([1, 0]))
    assert rows.tolist() == [[30, 31, 11, 12, END, END, END], [30, 31, 32, 33, 10, END, END]]


def test_only_the_whole_name_is_right() -> None:
    own = answers()
    written = [[10, END], [10, 12, END], [10, 12], [10, 13, END], []]
    assert own.scores(written).argmax(-1).tolist() == [0, 2, 3, 3, 3]
    assert own.cut([10, END, 40]) == [10, END] and own.cut([10, 40]) == [10, 40]


def test_names_have_to_differ_and_to_end_alike() -> None:
    for bad in ([], [(1, END), (1, END)], [(1, END), (2, 3)]):
        with pytest.raises(ValueError, match="a name of its own"):
            Answers(bad, PAD)


def test_it_learns_to_write_names() -> None:
    own, asked = learning(), questions()
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    assert (own.scores(asked).argmax(-1) == labels).sum() == 0
    losses = [own.learn(asked, labels) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert (own.scores(asked).argmax(-1) == labels).all()
    assert own.stored_bytes() == 0


def test_questions_of_all_lengths_at_once_are_answered_as_one_by_one() -> None:
    own, asked = learning(), questions()
    for _ in range(15):
        own.learn(asked, torch.arange(8) % 3)
    together = own.scores(asked)
    assert torch.equal(together, torch.cat([own.scores(row[None]) for row in asked]))
    wider = torch.cat([asked, torch.full((8, 3), PAD, dtype=torch.int32)], dim=1)
    assert torch.equal(together, own.scores(wider))
    assert len(together.argmax(-1).unique()) > 1


def test_the_end_of_a_task_is_told_where_that_is_wanted() -> None:
    method = Rehearsing(1e-2, Rehearsal(ahead=4))
    method.attach(pretrained())
    asked = Labelled(questions(), torch.arange(8) % 3)
    GeneratedLabels(method, answers()).end_task(asked)
    assert method.rehearsal.subjects == 1
    own = GeneratedLabels(method, answers(), told=True)
    own.end_task(asked)
    assert method.rehearsal.subjects == 2
    assert own.stored_bytes() == sum(4 * p.numel() for p in method.model.parameters())


def in_context(**settings: Any) -> InContext:
    model = pretrained()
    trained = FineTuning(1e-2)
    trained.attach(model)
    own = GeneratedLabels(trained, answers())
    for _ in range(15):  # so that it writes names at all
        own.learn(questions(), torch.arange(8) % 3)
    return InContext(trained.model, answers(), **settings)


def test_examples_that_are_read_once_are_as_good_as_read_every_time() -> None:
    own, asked = in_context(each=2), questions(1)
    own.learn(questions(), torch.arange(8) % 3)
    found = own.scores(asked)
    assert torch.equal(own.scores(asked), found)  # nothing of a question stays
    model: Any = own.network
    before = torch.cat([row for rows in own.kept.values() for row in rows])
    for row, scores in zip(asked, found, strict=True):
        whole = torch.cat([before, own.answers.question(row)])[None]
        out = model.generate(
            whole, attention_mask=torch.ones_like(whole), do_sample=False, use_cache=False,
            max_new_tokens=own.answers.longest, eos_token_id=END, pad_token_id=END,
        )  # fmt: skip
        written = own.answers.cut(out[0, whole.shape[1] :].tolist())
        assert torch.equal(own.answers.scores([written])[0], scores)


def test_the_first_examples_of_every_class_are_kept_and_the_model_stays() -> None:
    own, asked = in_context(each=2), questions()
    before = [p.clone() for p in own.network.parameters()]
    empty = own.scores(asked)  # without any example
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 0])
    assert own.learn(asked, labels) == 0.0
    assert {label: len(rows) for label, rows in own.kept.items()} == {0: 2, 1: 2, 2: 1}
    assert own.kept[0][1].tolist() == [*answers().question(asked[1]).tolist(), *NAMES[0]]
    assert own.stored_bytes() == 2 * sum(len(row) for rows in own.kept.values() for row in rows)
    own.scores(asked)
    own.learn(questions(2), torch.full((8,), 2))
    assert len(own.kept[2]) == 2
    assert not torch.equal(own.scores(questions(3)), InContext(own.network, answers()).scores(questions(3)))
    assert empty.shape == (8, 4)
    assert all(torch.equal(a, b) for a, b in zip(own.network.parameters(), before, strict=True))


def test_more_than_the_model_can_read_is_refused() -> None:
    with pytest.raises(ValueError, match="each must be at least 1, got 0"):
        in_context(each=0)
    own = in_context(each=8, longest=30)
    with pytest.raises(ValueError, match="the model reads 30 tokens"):
        own.learn(questions(), torch.arange(8) % 3)
