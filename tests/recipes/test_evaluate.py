"""The recipe that holds lm-eval's likelihoods against the model's own, on little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("lm_eval")

import typer
from recipes.figures import evaluation

from nestlearn.evaluation import documents
from recipes import evaluate as recipe
from tests.evaluation.small import hope, tokenizer
from tests.evaluation.test_tasks import corpus, intents


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Corpora and a Hope of very little."""
    monkeypatch.setenv("NESTLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(documents, "load_intents", lambda source: intents())
    monkeypatch.setattr(documents, "load_parallel_help", corpus)
    monkeypatch.setattr(recipe, "load_parallel_help", corpus)
    monkeypatch.setattr(recipe, "VOCABULARY", 300)
    monkeypatch.setattr(recipe, "CONTEXT", 32)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2, "cms_periods": (256,)}
    monkeypatch.setattr(recipe, "SHAPE", shape)


def invoke(*arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(recipe.main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_likelihoods_agree_and_are_written(little: None, tmp_path: Path) -> None:
    out = tmp_path / "made.json"
    result = invoke("--steps", 2, "--limit", 5, "--result", out)
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    rows = content["tasks"]
    assert set(rows) == {recipe.QUESTIONS, recipe.READING}
    assert rows[recipe.QUESTIONS]["requests"] == 5 * 3
    for row in rows.values():
        assert row["nestlearn"]["largest_difference"] < recipe.TOLERANCE
        assert row["hf"]["largest_difference"] < 1e-2  # it sums in float32
    assert content["model"].startswith("Hope of ")
    table = evaluation(content).splitlines()
    assert len(table) == 4 + 2 * 3


def test_a_difference_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = {"task": {"nestlearn": {"largest_difference": 2e-4}}}
    monkeypatch.setattr(recipe, "trained", lambda steps, console: (hope(), tokenizer()))
    monkeypatch.setattr(recipe, "compared", lambda model, tokenizer, limit: apart)
    result = invoke("--result", tmp_path / "made.json")
    assert result.exit_code == 1
    assert "likelihoods differ by 2.0e-04" in result.stderr


def test_differences_are_the_largest() -> None:
    samples = [{"resps": [[(-1.0, False)], [(-5.0, True)]]}, {"resps": [[-7.5]]}]
    assert recipe.answered(samples) == [-1.0, -5.0, -7.5]
    assert recipe._largest([-1.0, -5.5, -7.25], [-1.0, -5.0, -7.5]) == 0.5
