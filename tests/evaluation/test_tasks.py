"""Our tasks in lm-eval: from our streams, and with the likelihoods of the model's own score."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from nestlearn.evaluation import documents
from nestlearn.evaluation.documents import PARAGRAPHS, TASKS, pages, questions
from nestlearn.evaluation.harness import NestlearnLM
from nestlearn.models.scoring import log_likelihoods
from nestlearn.streams import LANGUAGES
from nestlearn.streams.corpus import ParallelCorpus
from nestlearn.streams.intents import Intents
from tests.evaluation.small import hope, one_by_one, pretrained, texts, tokenizer

NAMES = ("card_lost", "exchange rate", "top_up")


def intents() -> Intents:
    """A few messages of three topics, ordered by topic as in the original."""
    own = {split: texts(9, 6, seed) for seed, split in enumerate(("train", "validation", "test"))}
    classes = {split: torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]) for split in own}
    return Intents(own, classes, NAMES, ((0, 1, 2),))


def corpus(languages: Any) -> ParallelCorpus:
    """A few paragraphs in every language."""
    made = {
        language: {
            split: tuple(texts(size, 4, seed))
            for split, size in (("train", 45), ("validation", 2), ("test", 23))
        }
        for seed, language in enumerate(languages)
    }
    return ParallelCorpus("tiny", tuple(languages), made, "0")


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    """Knows our tasks, which are made of little."""
    monkeypatch.setattr(documents, "load_intents", lambda source: intents())
    monkeypatch.setattr(documents, "load_parallel_help", corpus)
    return TaskManager(include_path=str(TASKS), include_defaults=False)


def evaluated(lm: Any, tasks: list[str], manager: TaskManager, **settings: Any) -> dict[str, Any]:
    return simple_evaluate(
        lm, tasks=tasks, task_manager=manager, bootstrap_iters=0, log_samples=True, **settings
    )


def test_every_task_is_there_and_one_name_means_all(manager: TaskManager) -> None:
    names = ["nestlearn_banking77", "nestlearn_clinc150", *(f"nestlearn_help_{name}" for name in LANGUAGES)]
    assert sorted(manager.all_subtasks) == sorted(names)
    assert set(manager.load(["nestlearn"])["tasks"]) == set(names)


@pytest.mark.parametrize("model", [hope(), pretrained()], ids=["hope", "llama"])
def test_likelihoods_are_those_of_the_own_score(model: Any, manager: TaskManager) -> None:
    """Within 1e-4 of a sum: batches and shared contexts change the last bits."""
    found = evaluated(
        NestlearnLM(model, tokenizer(), batch_size=4), ["nestlearn_banking77", "nestlearn_help_en"], manager
    )["samples"]
    for sample in found["nestlearn_banking77"]:
        own = [
            (tokenizer()(context)["input_ids"], tokenizer()(continuation)["input_ids"])
            for context, continuation in sample["arguments"]
        ]
        for expected in (log_likelihoods(model, own), one_by_one(model, own)):
            for ((log, greedy),), (own_log, own_greedy) in zip(sample["resps"], expected, strict=True):
                assert abs(log - own_log) < 1e-4
                assert greedy == own_greedy
        assert [continuation for _, continuation in sample["arguments"]] == [
            " card lost", " exchange rate", " top up"
        ]  # fmt: skip
        best = max(range(3), key=lambda i: sample["resps"][i][0][0])
        assert sample["acc"] == float(best == sample["doc"]["label"])
    if model.config.model_type != "nestlearn_hope":
        return  # its texts are cut into windows of 64 positions, which is lm-eval's business
    for sample in found["nestlearn_help_en"]:
        ids = tokenizer()(sample["doc"]["text"])["input_ids"]
        ((log,),) = sample["resps"]
        for expected in (log_likelihoods(model, [([1], ids)]), one_by_one(model, [([1], ids)])):
            assert abs(log - expected[0][0]) < 1e-4


def test_metrics_are_reported(manager: TaskManager) -> None:
    found = evaluated(NestlearnLM(hope(), tokenizer()), ["nestlearn_help_fr"], manager, limit=2)
    sample = found["samples"]["nestlearn_help_fr"]
    total, size = (sum(s["bits_per_byte"][i] for s in sample) for i in (0, 1))
    bits = found["results"]["nestlearn_help_fr"]["bits_per_byte,none"]
    assert bits == pytest.approx(-total / size / torch.log(torch.tensor(2.0)).item(), rel=1e-6)


def test_examples_can_come_before_a_question(manager: TaskManager) -> None:
    lm = NestlearnLM(hope(), tokenizer())
    found = evaluated(lm, ["nestlearn_banking77"], manager, num_fewshot=2, limit=1)
    context = found["samples"]["nestlearn_banking77"][0]["arguments"][0][0]
    assert context.count("Message: ") == 3
    assert context.count("Topic: ") == 2


def test_questions_are_shuffled_and_whole() -> None:
    made = questions(intents())
    for split, rows in made.items():
        pairs = sorted((row["label"], row["text"]) for row in rows)
        own = intents()
        assert pairs == sorted(zip(own.classes[split].tolist(), own.texts[split], strict=True))
        assert [row["label"] for row in rows] != sorted(row["label"] for row in rows)
        assert all(row["choices"] == ["card lost", "exchange rate", "top up"] for row in rows)
    assert made == questions(intents())


def test_pages_hold_every_paragraph_once() -> None:
    whole = corpus(["en", "fr"])
    for split, rows in whole.paragraphs["fr"].items():
        made = pages(whole, "fr")[split]
        assert "\n".join(row["text"] for row in made) == "\n".join(rows)
        assert [row["text"].count("\n") + 1 for row in made[:-1]] == [PARAGRAPHS] * (len(made) - 1)
