"""Streams of intents in words, on made-up sentences and a tiny language model with random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nestlearn.bench import cells
from nestlearn.bench.base import JOINT
from nestlearn.bench.cells import Cell, Search
from nestlearn.bench.generation import context
from nestlearn.bench.generation import material as module
from nestlearn.bench.generation.answers import answer_loss, answered
from nestlearn.bench.generation.context import InContext, Prefix
from nestlearn.bench.generation.intents import ANSWERED
from nestlearn.bench.generation.material import Material, answer, load_material, prompts
from nestlearn.bench.generation.methods import METHODS, AnswerLevels, AnswerTuning, Setup, Trained
from nestlearn.bench.generation.packing import FILLING, answer_logits, owners, pack
from nestlearn.bench.generation.stream import GenerationStream
from nestlearn.continual.methods import Levels
from nestlearn.streams.intents import Intents
from nestlearn.streams.tasks import Labelled
from tests.retrofitting.small import pretrained

END, CLASSES, ASKED = 2, 6, 3
GROUPS = ((0, 1), (2, 3), (4, 5))
SETTINGS: dict[str, dict[str, float]] = {
    "ordinary": {"lr": 1e-2}, JOINT: {"lr": 1e-2}, "levels": {"lr": 1e-2, "strength": 0.3},
    "in context": {"shots": 1},
}  # fmt: skip


def sentences(each: int, seed: int) -> Labelled:
    """Three to six tokens, the first of which is the class's, and one that asks."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(CLASSES).repeat_interleave(each)
    rows = torch.full((len(classes), 8), FILLING, dtype=torch.int32)
    for row, own in zip(rows, classes.tolist(), strict=True):
        length = int(torch.randint(3, 7, (), generator=generator))
        words = torch.randint(30, 64, (length,), generator=generator, dtype=torch.int32)
        row[: length + 1] = torch.tensor([10 + own, *words[1:].tolist(), ASKED], dtype=torch.int32)
    return Labelled(rows, classes)


def made(each: int = 4) -> Material:
    """Answers of one or two tokens and an end."""
    answers = [torch.tensor([20 + own, *([25] if own % 2 else []), END]) for own in range(CLASSES)]
    splits = {name: sentences(each, seed) for seed, name in enumerate(("train", "validation", "test"))}
    return Material(pretrained("llama, tied"), splits, tuple(answers), GROUPS)


def small(**changes: Any) -> GenerationStream:
    settings: dict[str, Any] = {"batch_size": 4, "passes": 2, "own_tokens": 64, **changes}
    own = made()
    return GenerationStream("small", "Sentences", "made/4/4/4", lambda data: own, **settings)


def trained(own: Material, steps: int = 12) -> Any:
    """A model that knows some of the answers."""
    method = AnswerTuning(1e-2)
    method.attach(own.model)
    data = own.splits["train"]
    for _ in range(steps):
        method.step(pack(list(data.inputs), own.named(data.classes)))
    return method.model


def written(model: Any, prompt: Tensor, count: int) -> list[int]:
    """Greedy generation up to an end, step by step, without cache or other sentences."""
    ids, found = prompt[None].long(), []
    while len(found) < count and END not in found:
        found.append(int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([[found[-1]]])], dim=1)
    return found


def generated(model: Any, data: Labelled, own: Material, before: Sequence[int] = ()) -> list[bool]:
    """Whether greedy generation gives each answer, one sentence after the other."""
    found = []
    for row, right in zip(data.inputs, own.named(data.classes), strict=True):
        prompt = torch.tensor([*before, *row[row != FILLING].tolist()])
        found.append(written(model, prompt, 4) == right.tolist())
    return found


def test_it_is_right_where_greedy_generation_gives_the_answer() -> None:
    own = made(6)
    model, data = trained(own), own.splits["test"]
    expected = generated(model, data, own)
    assert 0.2 < sum(expected) / len(expected) < 1.0
    for group in (1, 5, 100):
        found = answered(partial(answer_logits, model), data.inputs, own.named(data.classes), group=group)
        assert found.tolist() == expected


@pytest.mark.parametrize("piece", [512, 4])
def test_examples_that_were_read_before_are_as_if_they_were_read_again(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "PIECE", piece)
    own = made(6)
    model = trained(own, steps=6)
    first, second = torch.tensor([11, 40, 3, 21, 25, 2]), torch.tensor([14, 50, 51, 3, 24, 2])
    prefix = Prefix(model)
    prefix.read(first)
    prefix.read(second)
    data = own.splits["test"]
    row = pack(list(data.inputs[:4]), own.named(data.classes[:4]))
    for _ in range(2):  # what was asked leaves nothing behind
        found = prefix.speaker(row)
    alone = []
    for i in range(4):
        ids = torch.cat([first, second, row[0, owners(row) == i, 0]])
        said = len(own.named(data.classes[i : i + 1])[0])
        alone.append(model(input_ids=ids[None], use_cache=False).logits[0, -said - 1 : -1])
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)
    before = torch.cat([first, second]).tolist()
    right = answered(prefix.speaker, data.inputs, own.named(data.classes))
    assert right.tolist() == generated(model, data, own, before)


def test_the_loss_is_that_of_the_answers_tokens() -> None:
    own = made()
    data = own.splits["train"]
    answers = own.named(data.classes)
    total, count = 0.0, 0
    for row, wanted in zip(data.inputs, answers, strict=True):
        ids = torch.cat([row[row != FILLING].long(), wanted])
        logits = own.model(input_ids=ids[None], use_cache=False).logits[0, -len(wanted) - 1 : -1]
        total += float(F.cross_entropy(logits.detach(), wanted, reduction="sum"))
        count += len(wanted)
    assert answer_loss(own.model, pack(list(data.inputs), answers)).item() == pytest.approx(
        total / count, rel=1e-5
    )


def test_what_fills_up_a_row_changes_nothing() -> None:
    data = made().splits["train"]
    wider = F.pad(data.inputs, (0, 5), value=FILLING)
    answers = made().named(data.classes)
    row = pack(list(data.inputs), answers)
    assert torch.equal(pack(list(wider), answers), row) and FILLING not in row
    assert row.shape[1] == int((data.inputs != FILLING).sum()) + sum(map(len, answers))
    assert owners(row)[-1] == len(data) - 1
    assert torch.equal(row[0, row[0, :, 2] == 1, 0], torch.cat(answers))


def test_a_row_needs_sentences_with_tokens_and_an_answer_for_each() -> None:
    one = torch.tensor([5, 6])
    with pytest.raises(ValueError, match="got 0 and 0"):
        pack([], [])
    with pytest.raises(ValueError, match="got 2 and 1"):
        pack([one, one], [one])
    with pytest.raises(ValueError, match="no tokens"):
        pack([torch.tensor([FILLING])], [one])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeats_and_has_what_the_page_shows(method: str) -> None:
    own = small()
    first, again = (own.run(method, SETTINGS[method], 0) for _ in range(2))
    json.dumps(first)
    assert {**first, "seconds": 0.0} == {**again, "seconds": 0.0}
    measured = {"learned", "forgetting", "backward", "forward", "minimum", "worst"}
    assert measured.isdisjoint(first) if method == JOINT else measured <= set(first)
    assert [len(row) for row in first["matrix"]] == [3] * (1 if method == JOINT else 3)
    assert (first["stored_bytes"] > 0) == (method in ("levels", "in context"))
    assert 0.0 <= own.trial(method, SETTINGS[method], 1000, 2) <= 1.0
    assert not own.entries[method].told


def test_what_comes_last_is_known_and_with_all_at_once_more() -> None:
    own = small(passes=24)
    ordinary, joint = (own.run(method, {"lr": 3e-3}, 0) for method in ("ordinary", JOINT))
    assert ordinary["matrix"][-1][-1] > 0.7 and ordinary["accuracy"] < 0.6 < joint["accuracy"]


def test_levels_are_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(self: Levels) -> bool:
        raise AssertionError("somebody told them")

    own = small()
    expected = own.run("levels", SETTINGS["levels"], 0)
    monkeypatch.setattr(Levels, "keep", told)
    monkeypatch.setattr(Trained, "end_task", lambda self, data: None)
    found = own.run("levels", SETTINGS["levels"], 0)
    assert {**found, "seconds": 0.0} == {**expected, "seconds": 0.0}


def test_levels_look_at_sentences_and_their_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    own = made()
    shapes = []
    calibrate = AnswerLevels.calibrate

    def seen(self: AnswerLevels, batches: Sequence[Tensor], seed: int = 0) -> None:
        shapes.extend(batch.shape for batch in batches)
        calibrate(self, batches, seed)

    monkeypatch.setattr(AnswerLevels, "calibrate", seen)
    before = {name: value.clone() for name, value in own.model.state_dict().items()}
    method = METHODS["levels"].make(Setup(own, 64, 0), SETTINGS["levels"])
    assert shapes and all(len(shape) == 2 for shape in shapes)
    bare = METHODS["levels"].make(Setup(own, 0, 0), SETTINGS["levels"])
    assert method.method.optimizer.memories["fast"].committed == 1
    assert bare.method.optimizer.memories["fast"].committed == 0
    batch = own.splits["train"][torch.arange(4)]
    loss = answer_loss(own.model, pack(list(batch.inputs), own.named(batch.classes))).item()
    assert method.learn(batch.inputs, batch.classes) == pytest.approx(loss, rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in own.model.state_dict().items())


def test_a_prompt_has_the_first_examples_of_every_intent_in_a_drawn_order() -> None:
    own = made()
    data = own.splits["train"]
    method = InContext(own, 1)
    order = torch.arange(0, len(data), 2)  # two of each class
    method.learn(data.inputs[order[:6]], data.classes[order[:6]])
    assert not bool(method.right(own.splits["test"][torch.arange(2)]).all())
    few = method.prefix.length
    method.learn(data.inputs[order[6:]], data.classes[order[6:]])
    method.right(own.splits["test"][torch.arange(2)])
    kept = [pack([data.inputs[4 * c]], [own.answers[c]])[0, :, 0].tolist() for c in range(CLASSES)]
    assert [example.tolist() for example in method.examples] == kept
    assert method.prefix.length == sum(map(len, kept)) > few
    assert method.stored_bytes() == 2 * method.prefix.length


def test_a_prompt_must_fit_and_have_examples() -> None:
    own = made()  # its model has 64 positions
    with pytest.raises(ValueError, match=r"64 positions, and \d+ are needed: give fewer shots"):
        InContext(own, 4).learn(own.splits["train"].inputs, own.splits["train"].classes)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        InContext(own, 0)


def test_names_in_words() -> None:
    assert answer("Refund_not_showing_up") == " refund not showing up\n"
    own = made()
    with pytest.raises(ValueError, match="6 classes have 5 different answers"):
        replace(own, answers=(*own.answers[:-1], own.answers[0]))


class Letters:
    """A tokenizer of single letters."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 64 for letter in text]}


def test_what_a_stream_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {name: [f"word {'x' * i}" for i in range(24)] for name in ("train", "validation", "test")}
    classes = {name: torch.arange(24) % 2 for name in texts}
    intents = Intents(texts, classes, ("a_b", "c"), ((0,), (1,)))
    monkeypatch.setattr(module, "load_intents", lambda source: intents)
    monkeypatch.setattr(module, "load_pretrained", lambda name, dtype: (pretrained(), Letters()))
    load_material.cache_clear()
    found = load_material("clinc150/8/4/2")
    load_material.cache_clear()
    assert {name: len(own) for name, own in found.splits.items()} == {
        "train": 16, "validation": 8, "test": 4,
    }  # fmt: skip
    assert found.answers[0].tolist() == Letters()(" a b\n")["input_ids"]
    row = prompts(["it", "is"], Letters())
    assert row.tolist() == [Letters()(f"{text}\nIntent:")["input_ids"] for text in ("it", "is")]
    for own in ANSWERED:
        assert [len(task.splits["test"]) for task in replace(own, load=lambda data: found).tasks()] == [2, 2]
        assert "8 training" in own.described


def test_keys_tell_apart_what_decides_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    variants = [small(), small(passes=3), small(batch_size=5), small(own_tokens=0), *ANSWERED]
    for own in variants:
        monkeypatch.setattr(cells, "STREAMS", {own.name: own})
        keys |= {Search(own.name, "ordinary").key, Cell(own.name, "ordinary", 0, {"lr": 0.1}).key}
    assert len(keys) == 2 * len(variants)


def test_importing_the_streams_loads_neither_data_nor_transformers() -> None:
    code = (
        "import sys, nestlearn.bench.generation.intents; "
        "print([m for m in ('transformers', 'peft', 'tokenizers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
