"""The recipe of the chat model, with a tiny one in its place."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from recipes.smollm import evaluation
from recipes.smollm.evaluation import QUESTIONS, divergence
from typer.testing import CliRunner

from nestlearn.streams.domains import Domain
from recipes import smollm2
from tests.continual.small import texts, tokenizer
from tests.retrofitting.small import pretrained


@pytest.fixture
def tiny(monkeypatch):
    from transformers import AutoTokenizer

    def domain(name: str) -> Domain:
        own = tuple(texts(30, seed=len(name)))
        return Domain(name, {"train": own, "validation": own[:9], "test": own[9:18]}, name)

    monkeypatch.setattr(evaluation, "load_domain", domain)
    monkeypatch.setattr(evaluation, "WINDOWS", 2)
    for module in (evaluation, smollm2):
        monkeypatch.setattr(module, "CONTEXT", 16)
    for name, number in {"ANSWER": 2, "CONTINUATION": 2}.items():
        monkeypatch.setattr(evaluation, name, number)
    monkeypatch.setattr(evaluation, "QUESTIONS", (("red", ""), ("blue", "<never>")))
    monkeypatch.setattr(evaluation, "token_bytes", lambda own: torch.ones(63, dtype=torch.long))
    monkeypatch.setattr(smollm2, "CALIBRATION", 64)
    monkeypatch.setattr(smollm2, "load_pretrained", lambda _: (pretrained(), tokenizer()))
    assert AutoTokenizer is not None


def invoke(folder, *arguments: str):
    app = typer.Typer()
    app.command()(smollm2.main)
    places = ["--work", f"{folder}/w", "--result", f"{folder}/made.json", "--page", f"{folder}/page.md"]
    return CliRunner().invoke(app, ["--threads", "1", "--amount", "1024", *places, *arguments])


def test_runs_are_kept_and_reported(tmp_path, tiny):
    threads = torch.get_num_threads()
    try:
        for arguments in ([], ["--method", "finetune", "--lr", "0.01"]):
            result = invoke(tmp_path, *arguments)
            assert result.exit_code == 0, result.output
        runs = json.loads((tmp_path / "made.json").read_text())["runs"]
        again = invoke(tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "made.json").read_text())["runs"] == runs
    assert [run["name"] for run in runs.values()] == ["levels", "finetune, rate 0.01"]
    for run in runs.values():
        assert run["stages"]["before"]["divergence"] == pytest.approx(0.0, abs=1e-6)
        assert run["stages"]["french"]["divergence"] > 0.0
        assert run["stages"]["french"]["bits"]["french"] < run["stages"]["before"]["bits"]["french"]
        assert [stage["right"] for stage in run["stages"].values()] == [1, 1, 1]
    page = (tmp_path / "page.md").read_text()
    assert "### levels" in page
    assert "goes on" in page


def test_bad_input_is_one_sentence(tmp_path):
    result = invoke(tmp_path, "--method", "magic")
    assert result.exit_code == 2
    assert "there is no method 'magic'" in result.stderr


def test_there_are_twenty_questions():
    assert len(QUESTIONS) == len({question for question, _ in QUESTIONS}) == 20


def test_the_divergence_is_a_mean_over_tokens():
    first, second = pretrained(), pretrained("gpt2")
    windows = {name: torch.randint(3, 60, (3, 9)) for name in evaluation.OLD}
    found = divergence(first, second, windows)
    logs = [
        torch.cat([m(rows[:, :-1]).logits.log_softmax(-1) for rows in windows.values()])
        for m in (first, second)
    ]
    expected = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().detach()
    assert found == pytest.approx(float(expected), rel=1e-4)
