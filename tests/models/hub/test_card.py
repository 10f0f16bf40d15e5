"""A card says what the model is, and only that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn

import nestlearn as nl
from nestlearn.models.hub import model_card
from tests.helpers import random_tokens, tiny_config, tiny_model
from tests.models.variants import SOME, Changes, over


def rows(card: ModelCard, head: str) -> list[list[str]]:
    """The cells below the table whose first column is called so."""
    lines = card.text.splitlines()
    found = []
    for line in lines[next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |")) + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def number(text: str) -> int:
    return int(text.replace(",", ""))


@over(SOME)
def test_the_numbers_are_those_of_the_model(changes: Changes) -> None:
    model = tiny_model(**changes)
    card = model_card(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f"{total:,} parameters in float32" in card.text
    weights = rows(card, "weights")
    assert sum(number(row[2]) for row in weights) == total
    assert [row[1] for row in weights[:-1]] == [f"every {p:,} tokens" for p in model.config.cms_periods]
    blocks = [block for layer in model.model.layers for block in layer.cms.blocks[:1]]
    assert number(weights[0][2]) == sum(p.numel() for block in blocks for p in block.parameters())
    memories = {c.name for c in nl.inspect(model).components if c.kind != "parameters"}
    assert {row[0] for row in rows(card, "memory")} == memories
    for mixer in model.config.mixers:
        assert f"{mixer} ({model.config.mixers.count(mixer)})" in card.text


@over(SOME)
@torch.no_grad()
def test_the_size_of_a_session_is_what_it_says(changes: Changes) -> None:
    model, cache = tiny_model(**changes), nl.HopeCache()
    said = re.search(r"([\d,]+) bytes for each sequence(?:, and ([\d,]+) more with)?", model_card(model).text)
    first, further = (number(part or "0") for part in said.groups())
    for length in (1, 7, 12):
        model(random_tokens(1, length), past_key_values=cache)
        assert cache.num_bytes() == first + further * (int(cache.seen_tokens) - 1)


CASES = [
    (tiny_model, "text-generation", "AutoModelForCausalLM"),
    (lambda: tiny_model().model, "feature-extraction", "AutoModel"),
    (
        lambda: nl.HopeForSequenceClassification(tiny_config(id2label={0: "no", 1: "yes"})),
        "text-classification",
        "AutoModelForSequenceClassification",
    ),
]


@pytest.mark.parametrize(("make", "task", "auto"), CASES)
def test_the_hub_can_read_it(make: Any, task: str, auto: str, tmp_path: Path) -> None:
    model_card(make(), name="me/it", licence="mit", exported=True).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": task,
        "tags": ["nestlearn", "nested-learning", "hope", "custom_code"],
    }
    assert card.content == model_card(make(), name="me/it", licence="mit", exported=True).content
    assert f'{auto}.from_pretrained("me/it", trust_remote_code=True)' in card.text
    assert ("no, yes" in card.text) is (auto == "AutoModelForSequenceClassification")


@pytest.mark.parametrize(("make", "task", "auto"), CASES)
def test_what_it_says_of_loading_works(
    make: Any, task: str, auto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", model_card(model).text, flags=re.DOTALL)
    assert len(code) == 1
    names: dict[str, Any] = {}
    exec(code[0], names)
    assert type(names["model"]) is type(model)


def test_nothing_is_claimed_that_nobody_said() -> None:
    card = model_card(tiny_model())
    assert "license" not in card.data.to_dict()
    assert card.data.tags == ["nestlearn", "nested-learning", "hope"]
    for word in ("trust_remote_code", "Training", "owner"):
        assert word not in card.text


def test_facts_are_shown_as_they_are_given() -> None:
    facts = {"Tokens": 1_000_000, "Text": "help pages | two\nlanguages"}
    card = model_card(tiny_model(), facts=facts)
    assert rows(card, "fact") == [["Tokens", "1000000"], ["Text", "help pages \\| two languages"]]


def test_a_model_in_training_stays_in_training() -> None:
    model = tiny_model().train()
    before = torch.get_rng_state()
    model_card(model)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_hope_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear is no Hope: a retrofitted model keeps its class"):
        model_card(nn.Linear(2, 2))
