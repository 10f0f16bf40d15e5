"""The recipe of the chat model, with a tiny one in its place."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
import typer
from recipes.smollm import base, cells, evaluation
from recipes.smollm.evaluation import QUESTIONS, divergence
from typer.testing import CliRunner

from nestlearn.streams.domains import Domain
from recipes import smollm2
from tests.continual.small import texts, tokenizer
from tests.retrofitting.small import pretrained


@pytest.fixture
def tiny(monkeypatch):
    def domain(name: str) -> Domain:
        own = tuple(texts(30, seed=len(name)))
        return Domain(name, {"train": own, "validation": own[:9], "test": own[9:18]}, name)

    monkeypatch.setattr(evaluation, "load_domain", domain)
    monkeypatch.setattr(evaluation, "WINDOWS", 2)
    for module in (base, cells, evaluation):
        monkeypatch.setattr(module, "CONTEXT", 16)
    for name, number in {"ANSWER": 2, "CONTINUATION": 2}.items():
        monkeypatch.setattr(evaluation, name, number)
    monkeypatch.setattr(evaluation, "QUESTIONS", (("red", ""), ("blue", "<never>")))
    monkeypatch.setattr(evaluation, "token_bytes", lambda own: torch.ones(63, dtype=torch.long))
    for name, number in {"CALIBRATION": 64, "AMOUNT": 1024, "EVERY": 512}.items():
        monkeypatch.setattr(cells, name, number)
    monkeypatch.setattr(base, "SEEN", 256)
    monkeypatch.setattr(base, "load_pretrained", lambda _: (pretrained(), tokenizer()))


def invoke(folder, *arguments: str):
    app = typer.Typer()
    app.command()(smollm2.main)
    files = {"result": "made.json", "page": "page.md", "figure": "figure.svg", "work": "work"}
    places = [part for name, file in files.items() for part in (f"--{name}", f"{folder}/{file}")]
    return CliRunner().invoke(app, ["--workers", "0", *places, *arguments])


def test_runs_are_kept_and_reported(tmp_path, tiny):
    threads = torch.get_num_threads()
    try:
        first = invoke(tmp_path, "--methods", "levels")
        assert first.exit_code == 0, first.output
        result = invoke(tmp_path, "--methods", "levels;finetune")
        assert result.exit_code == 0, result.output
        made = json.loads((tmp_path / "made.json").read_text())
        again = invoke(tmp_path, "--methods", "levels;finetune")
    finally:
        torch.set_num_threads(threads)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "made.json").read_text())["runs"] == made["runs"]
    runs = [run for run in made["runs"].values() if run["method"] != "base"]
    assert Counter(run["method"] for run in runs) == {"levels": 2, "finetune": 2}
    for run in runs:
        assert [point["stage"] for point in run["curve"]] == [0, 1, 1, 2, 2]
        assert run["curve"][-1] == {
            "stage": 2,
            "tokens": 2 * 1024,
            "bits": run["stages"]["french"]["bits"],
        }
        assert run["stages"]["before"]["divergence"] == pytest.approx(0.0, abs=1e-6)
        assert run["stages"]["french"]["divergence"] > 0.0
        assert [stage["right"] for stage in run["stages"].values()] == [1, 1, 1]
    starts = [run["curve"][0]["bits"] for run in runs]
    assert all(start == starts[0] for start in starts)
    assert made["summary"]["matched"][0]["levels"][0]["forgotten"].keys() == {"levels", "finetune"}
    page = (tmp_path / "page.md").read_text()
    assert "### levels, lr" in page
    assert "goes on" in page
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


def test_bad_input_is_one_sentence(tmp_path):
    for arguments, message in {
        ("--methods", "magic"): "no method 'magic': there are levels; finetune",
        ("--split", "train"): "Invalid split: 'train'",
    }.items():
        result = invoke(tmp_path, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    assert not (tmp_path / "made.json").exists()


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
