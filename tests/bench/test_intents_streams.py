"""Streams of intents, on made-up sentences and a tiny encoder with random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from nestlearn.bench import cells
from nestlearn.bench.base import JOINT
from nestlearn.bench.cells import Cell, Search
from nestlearn.bench.classification import encoder, methods
from nestlearn.bench.classification import intents as module
from nestlearn.bench.classification.encoder import (
    ENCODER_METHODS,
    ByLength,
    EncoderBuilder,
    fix,
    upper_layers,
)
from nestlearn.bench.classification.intents import INTENT_METHODS, INTENTS, features, few, tokens, unit
from nestlearn.bench.classification.stream import ClassificationStream, Setup, learn, together
from nestlearn.continual.classification import FirstSession
from nestlearn.models.encoders import encode
from nestlearn.streams.intents import Intents
from nestlearn.streams.tasks import Labelled, Splits, Task, split_by_class

GROUPS = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
WORDS, WIDTH, LENGTH = 40, 16, 9
MIDDLE = {
    name: {key: values[len(values) // 2] for key, values in entry.space.items()}
    for name, entry in {**INTENT_METHODS, **ENCODER_METHODS}.items()
}


def sentences(each: int = 12) -> dict[str, Labelled]:
    """Rows of three to seven tokens, one or more of them the word of the class; 0 fills up."""
    found = {}
    for seed, name in enumerate(("train", "validation", "test")):
        generator = torch.Generator().manual_seed(seed)
        classes = torch.arange(9).repeat_interleave(each)
        ids = torch.randint(20, WORDS, (len(classes), LENGTH), generator=generator, dtype=torch.int32)
        ids[:, 0] = 2 + classes.int()
        lengths = torch.randint(3, 8, (len(classes), 1), generator=generator)
        ids[torch.arange(LENGTH) >= lengths] = 0
        found[name] = Labelled(ids, classes)
    return found


def tiny() -> tuple[Any, int]:
    """An encoder of two layers."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    model = BertModel(config).eval()
    model.pooler = None
    nn.init.normal_(model.embeddings.word_embeddings.weight)
    return model, 0


def thirds(data: Splits, seed: int) -> list[Task]:
    del seed
    return split_by_class(data, GROUPS)


def small(**changes: Any) -> ClassificationStream:
    settings: dict[str, Any] = {
        "title": "Sentences", "data": "made", "load": lambda data: sentences(), "cut": thirds,
        "table": ENCODER_METHODS, "scenario": "class", "batch_size": 12, "epochs": 2, "every": 10**9,
        "build": EncoderBuilder(tiny, "tiny"), "seeds": 2, "trials": 2,
    }  # fmt: skip
    return ClassificationStream("small-encoder", **{**settings, **changes})


@pytest.fixture(autouse=True)
def _few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "FEATURES", 64)
    monkeypatch.setattr(encoder, "FISHER", 4)
    monkeypatch.setattr(encoder, "LAYERS", (1, 2))


@pytest.mark.parametrize("method", ENCODER_METHODS)
def test_every_method_trains_an_encoder_and_repeats(method: str) -> None:
    own = small(epochs=1)
    first, again = (own.run(method, MIDDLE[method], 0) for _ in range(2))
    assert 0.0 < first["accuracy"] <= 1.0 and "dead" not in first
    json.dumps(first)
    del first["seconds"], again["seconds"]
    assert first == again
    if method != JOINT:
        assert len(first["matrix"]) == 3


def test_the_network_learns_through_the_encoder() -> None:
    own = small()
    network = own.network(own.tasks(0), 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batch = sentences()["train"][torch.arange(0, 108, 9)]
    nn.functional.cross_entropy(network(batch.inputs), batch.classes).backward()
    names = [name for name, _ in network.named_parameters()]
    assert len(names) > 20 and not [name for name in names if "embeddings" in name]
    for name, parameter in network.named_parameters():
        # the softmax does not see what is the same for all keys
        silent = "key.bias" in name
        assert parameter.grad is not None and (silent or bool(parameter.grad.abs().sum() > 0.0)), name
    made, _ = learn(own, ENCODER_METHODS["ordinary"], own.tasks(0), {"lr": 1e-3}, 0, "test")
    moved = {
        name for name, value in made.network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {name for name in before if "embeddings" in name}.isdisjoint(moved)
    assert {name for name in names if "key.bias" not in name} <= moved


def test_joint_training_has_the_same_labels_and_more_of_them_right() -> None:
    table = {**ENCODER_METHODS, JOINT: replace(ENCODER_METHODS[JOINT], passes=None)}
    own = small(epochs=12, table=table)
    tasks = own.tasks(0)
    whole = together(tasks, "class").splits["train"]
    assert torch.equal(whole.classes, sentences()["train"].classes)
    assert torch.equal(whole.inputs, sentences()["train"].inputs)
    joint, ordinary = (own.run(method, {"lr": 1e-2}, 0) for method in (JOINT, "ordinary"))
    assert joint["accuracy"] > 0.8 and ordinary["accuracy"] < 0.5
    assert own.run("exact head", {"gain": 1.0, "ridge": 1e-3}, 0)["accuracy"] > ordinary["accuracy"]


def test_a_store_has_token_rows_and_counts_their_bytes() -> None:
    own = small()
    tasks = own.tasks(0)
    total = 108 * LENGTH * 4
    setup = Setup(own, tasks, 0)
    assert setup.bytes == total
    made, run = learn(own, ENCODER_METHODS["replay, 5 %"], tasks, {"lr": 1e-3}, 0, "test")
    rows, labels = made.store.columns  # type: ignore[attr-defined]
    assert rows.dtype == torch.int32 and rows.shape == (len(labels), LENGTH)
    known = {tuple(row) for row in sentences()["train"].inputs.tolist()}
    assert {tuple(row) for row in rows.tolist()} <= known
    assert run.stored_bytes == len(labels) * (4 * LENGTH + 8) <= 0.05 * total


def test_shares_count_tasks_of_different_sizes() -> None:
    data = sentences()
    tasks = split_by_class(data, [(0,), (1, 2, 3, 4, 5, 6, 7, 8)])
    assert Setup(small(), tasks, 0).bytes == 108 * LENGTH * 4


def test_keys_tell_apart_what_decides_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    variants = [
        small(), small(build=EncoderBuilder(tiny, "another")), small(build=None),
        small(build=None, hidden=()),
        small(epochs=3), small(data="others"),
    ]  # fmt: skip
    for own in variants:
        monkeypatch.setattr(cells, "STREAMS", {own.name: own})
        keys |= {Search(own.name, "ordinary").key, Cell(own.name, "ordinary", 0, {"lr": 0.1}).key}
    assert len(keys) == 2 * len(variants)
    assert len({own.described for own in variants[1:5]}) == 4
    assert "2 passes over each task's examples (joint training: 5)," in small().described
    assert (
        "a linear network" in variants[3].described
        and "a hidden layer of 5," in small(build=None, hidden=(5,)).described
    )


def test_sentences_of_similar_length_go_together() -> None:
    network = small().network(small().tasks(0), 0).eval()
    body = network[0]
    assert isinstance(body, ByLength)
    ids = sentences()["test"].inputs[:30]
    widths: list[int] = []
    body.network.encoder.embeddings.register_forward_hook(lambda m, i, out: widths.append(out.shape[1]))
    together_, alone = network(ids), torch.cat([network(row[None]) for row in ids])
    torch.testing.assert_close(together_, alone)
    assert widths[:2] == sorted(widths[:2]) and widths[0] < 7


def test_the_first_session_trains_features_and_later_ones_do_not() -> None:
    own = small()
    tasks = own.tasks(0)
    made = ENCODER_METHODS["first session"].make(Setup(own, tasks, 0), MIDDLE["first session"])
    assert isinstance(made, FirstSession) and made.memory is None and made.stored_bytes() == 0
    ids = sentences()["test"].inputs
    seen = []
    for batch in own.stream(tasks, 0):
        before = made.features(ids).detach()
        made.learn(batch.inputs, batch.labels)
        seen.append((batch.task, torch.equal(before, made.features(ids))))
        if batch.ends:
            data = tasks[batch.task].splits["train"]
            made.end_task(data)
    assert all(same == (task > 0) for task, same in seen)
    assert made.stored_bytes() == 4 * (64 * 64 + 64 * 9)
    assert made.memory is not None
    ones = made.features(sentences()["train"].inputs).sum()  # every example twice, in the first task too
    torch.testing.assert_close(made.memory.values.sum(), 2.0 * ones, rtol=1e-4, atol=0.0)
    with pytest.raises(ValueError, match=r"ridge must be positive, got 0.0"):
        FirstSession(nn.Linear(2, 2), features=nn.Identity(), size=2, classes=2, ridge=0.0)


def test_upper_layers_are_of_the_network_s_own_encoder() -> None:
    network = small().network(small().tasks(0), 0)
    made, size = upper_layers(network, (1, 2))
    assert size == 2 * WIDTH
    ids = sentences()["test"].inputs[:5]
    found = made(ids)
    torch.testing.assert_close(found.unflatten(1, (2, WIDTH)).norm(dim=-1), torch.ones(5, 2))
    body: Any = network[0]
    own = encode(body.network.eval(), ids)
    torch.testing.assert_close(found[:, WIDTH:], nn.functional.normalize(own, dim=-1))


def test_what_is_fixed_has_no_parameters_and_computes_the_same() -> None:
    layer = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.LayerNorm(3))
    ids = torch.tensor([[0, 1, 4]])
    before = layer(ids).detach()
    fix(layer)
    assert not list(layer.parameters()) and torch.equal(layer(ids), before)
    assert len(layer.state_dict()) == 3


@pytest.mark.parametrize("method", ["class means", "linear probe", "exact head, linear", "ordinary"])
def test_methods_on_frozen_features(method: str) -> None:
    def cloud(seed: int) -> Labelled:
        classes = torch.arange(9).repeat_interleave(20)
        noise = torch.randn(180, 12, generator=torch.Generator().manual_seed(seed))
        return Labelled(3.0 * torch.eye(9, 12)[classes] + 0.5 * noise, classes)

    data = {"train": cloud(0), "validation": cloud(1), "test": cloud(2)}
    own = small(build=None, hidden=(8,), table=INTENT_METHODS, load=lambda _: data)
    first, again = (own.run(method, MIDDLE[method], 0) for _ in range(2))
    assert {**first, "seconds": 0.0} == {**again, "seconds": 0.0}
    exact = method in ("class means", "exact head, linear")
    assert first["accuracy"] > 0.9 if exact else first["accuracy"] < 0.7
    assert ("dead" in first) == (method == "ordinary")


def test_every_layer_has_the_same_length() -> None:
    values = torch.tensor([[3.0, 4.0, 0.0, 10.0]])
    torch.testing.assert_close(unit(values, 2), 2**0.5 * torch.tensor([[0.6, 0.8, 0.0, 1.0]]))


def test_few_examples_of_every_class() -> None:
    data = Labelled(torch.arange(30), torch.arange(30) % 3)
    found = few(data, 4)
    assert found.classes.bincount().tolist() == [4, 4, 4]
    assert torch.equal(found.inputs, found.inputs.sort().values) and len(found.inputs.unique()) == 12
    assert torch.equal(found.classes, found.inputs % 3)
    assert torch.equal(few(data, 4).inputs, found.inputs) and len(few(data, 99)) == 30


def made_up() -> Intents:
    texts = {name: [f"word {i}" for i in range(24)] for name in ("train", "validation", "test")}
    classes = {name: torch.arange(24) % 2 for name in texts}
    return Intents(texts, classes, ("a", "b"), ((0,), (1,)))


def test_what_the_streams_load(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tokenizer:
        pad_token_id = 0

        def __call__(self, texts: list[str], **settings: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1] * settings["max_length"] for _ in texts]}

    def loaded(intents: Intents, name: str, *, layers: tuple[int, ...]) -> dict[str, Labelled]:
        assert name == "minilm" and layers == (4, 5, 6)
        return intents.labelled({split: torch.ones(24, 6) for split in intents.texts})

    monkeypatch.setattr(module, "load_intents", lambda source: made_up())
    monkeypatch.setattr(module, "load_encoder", lambda name: (None, Tokenizer()))
    monkeypatch.setattr(module, "load_features", loaded)
    for load in (features, tokens):
        load.cache_clear()
    rows, numbers = tokens("clinc150/7"), features("clinc150")
    for load in (features, tokens):
        load.cache_clear()
    assert rows["train"].inputs.dtype == torch.int32 and rows["train"].inputs.shape == (14, module.LENGTH)
    assert {name: len(own) for name, own in rows.items()} == {"train": 14, "validation": 24, "test": 20}
    assert {name: own.inputs.shape for name, own in numbers.items()} == dict.fromkeys(rows, (24, 6))
    for own in INTENTS:
        assert [task.classes for task in own.cut(rows, 0)] == [(0,), (1,)]
        everything = {*INTENT_METHODS, *ENCODER_METHODS} - {"first session"}
        assert everything <= set(own.left_out) | set(own.table)


def test_importing_the_streams_loads_neither_data_nor_transformers() -> None:
    code = (
        "import sys, nestlearn.bench.streams; "
        "print([m for m in ('transformers', 'peft', 'tokenizers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert replace(INTENTS[0], seeds=1).seeds == 1
