"""``nestlearn evaluate`` and ``perplexity``, on tiny models in folders."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nestlearn.cli import evaluate as module
from nestlearn.cli.main import app
from nestlearn.evaluation import documents
from nestlearn.evaluation.long_texts import perplexity
from tests.continual.small import learner
from tests.evaluation.small import hope, in_folder, pretrained, texts, tokenizer

TASK = """
task: colours
custom_dataset: !function colours.documents
output_type: multiple_choice
test_split: test
doc_to_text: "The sky is"
doc_to_choice: ["red", "blue"]
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
FUNCTION = """
from datasets import Dataset


def documents(**run):
    return {"test": Dataset.from_list([{"label": i % 2} for i in range(6)])}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hope, a Llama with what it learned, texts, and a task of one's own."""
    root = tmp_path_factory.mktemp("evaluate")
    in_folder(hope(), root / "hope")
    base = pretrained()
    in_folder(base, root / "llama")
    taught = learner(base)
    taught.learn(texts(8))
    taught.save(root / "memory.safetensors")
    (root / "long.txt").write_text(" ".join(texts(3)))
    (root / "tasks").mkdir()
    (root / "tasks" / "colours.yaml").write_text(TASK)
    (root / "tasks" / "colours.py").write_text(FUNCTION)
    return root


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_perplexity_of_a_hope_is_that_of_the_library(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = invoke("perplexity", "--model", folder / "hope", "--text", folder / "long.txt", "--result", out)
    assert result.exit_code == 0, result.output
    expected = perplexity(hope(), tokenizer(), (folder / "long.txt").read_text())
    figures = json.loads(out.read_text())
    assert figures["perplexity"] == pytest.approx(expected.perplexity, rel=1e-6)
    assert figures["finished"]
    assert [band["tokens"] for band in figures["bands"]] == [band.tokens for band in expected.bands]
    assert (
        f"perplexity {expected.perplexity:.3f}, {expected.bits_per_byte:.4f} bits per byte" in result.stdout
    )
    assert "33 to 64" in result.stdout
    assert "every token sees all before it" in result.stdout


def test_perplexity_of_what_was_learned_is_lower(folder: Path, tmp_path: Path) -> None:
    asked = ["perplexity", "--model", folder / "llama", "--text", folder / "long.txt", "--context", 32]
    figures = []
    for number, further in enumerate(([], ["--memory", folder / "memory.safetensors"])):
        out = tmp_path / f"{number}.json"
        result = invoke(*asked, "--stride", 16, "--result", out, *further)
        assert result.exit_code == 0, result.output
        figures.append(json.loads(out.read_text()))
    assert figures[1]["perplexity"] < figures[0]["perplexity"]
    assert (figures[0]["context"], figures[0]["stride"]) == (32, 16)
    assert figures[0]["tokens"] == figures[1]["tokens"] == len((folder / "long.txt").read_text()) + 1


def test_ctrl_c_keeps_what_was_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = module.measure

    def stopped(*arguments: Any, **settings: Any) -> Any:
        for number, figures in enumerate(inner(*arguments, **settings)):
            yield figures
            if number == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "measure", stopped)
    out = tmp_path / "figures.json"
    result = invoke(
        "perplexity", "--model", folder / "llama", "--text", folder / "long.txt", "--context", 16,
        "--result", out,
    )  # fmt: skip
    assert result.exit_code == 130
    assert "Stopped after 32 of" in result.stderr
    figures = json.loads(out.read_text())
    assert (figures["tokens"], figures["finished"], figures["bits_per_byte"]) == (32, False, None)
    assert "perplexity" in result.stdout


def test_ctrl_c_before_the_first_piece_has_nothing_to_show(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(module, "measure", stopped)
    out = tmp_path / "figures.json"
    result = invoke("perplexity", "--model", folder / "hope", "--text", folder / "long.txt", "--result", out)
    assert result.exit_code == 130
    assert not out.exists()


@pytest.mark.parametrize(
    ("further", "named"),
    [
        (["--text", "nowhere.txt"], "there is no file nowhere.txt"),
        (["--context", "65"], "context must be at most 64"),
        (["--stride", "65"], "stride must be at most 64"),
        (["--memory", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_bad_input_is_named(folder: Path, further: list[str], named: str) -> None:
    result = invoke("perplexity", "--model", folder / "llama", "--text", folder / "long.txt", *further)
    assert isinstance(result.exception, ValueError)
    assert named in str(result.exception)


def test_an_empty_file_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    result = invoke("perplexity", "--model", folder / "hope", "--text", tmp_path / "empty.txt")
    assert isinstance(result.exception, ValueError)
    assert "no token" in str(result.exception)


def test_our_tasks_are_named_without_a_model() -> None:
    result = invoke("evaluate", "--list")
    assert result.exit_code == 0
    assert result.stdout.split() == documents.task_names()
    assert "nestlearn_banking77" in result.stdout


def test_evaluate_writes_figures_and_answers(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    out, answers = tmp_path / "figures.json", tmp_path / "answers.json"
    asked = ["evaluate", "--model", folder / "hope", "--tasks", "colours", "--include", folder / "tasks"]
    result = invoke(*asked, "--limit", 4, "--result", out, "--samples", answers)
    assert result.exit_code == 0, result.output
    assert "colours" in result.stdout
    figures = json.loads(out.read_text())
    assert figures["results"]["colours"]["acc,none"] == 0.5  # always the same answer, half the time right
    assert "pretty_env_info" not in figures
    usual = [[response[0] for response in sample["resps"]] for sample in _answers(answers, "colours")]
    assert len(usual) == 4
    assert usual == [usual[0]] * 4  # nothing is remembered
    result = invoke(*asked, "--limit", 4, "--stream", "--samples", answers)
    assert result.exit_code == 0, result.output
    streamed = [[response[0] for response in sample["resps"]] for sample in _answers(answers, "colours")]
    assert math.isclose(streamed[0][0][0], usual[0][0][0], abs_tol=1e-4)
    assert not math.isclose(streamed[3][0][0], usual[3][0][0], abs_tol=1e-2)


def _answers(path: Path, task: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())[task]
    return found


def test_evaluate_takes_a_memory(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    asked = ["evaluate", "--model", folder / "llama", "--tasks", "colours", "--include", folder / "tasks"]
    logs = []
    for further in ([], ["--memory", folder / "memory.safetensors"]):
        result = invoke(*asked, "--limit", 1, "--samples", tmp_path / "answers.json", *further)
        assert result.exit_code == 0, result.output
        logs.append(_answers(tmp_path / "answers.json", "colours")[0]["resps"][0][0][0])
    assert logs[1] > logs[0]  # it has read of red and blue


@pytest.mark.slow  # all that lm-eval has is looked through
def test_unknown_tasks_are_named(folder: Path) -> None:
    pytest.importorskip("lm_eval")
    result = invoke("evaluate", "--model", folder / "hope", "--tasks", "nowhere")
    assert isinstance(result.exception, ValueError)
    assert "there is no task nowhere; ours are nestlearn_banking77" in str(result.exception)


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = invoke("evaluate", "--model", folder / "hope", "--tasks", "colours")
    assert isinstance(result.exception, ValueError)
    assert "nestlearn[evaluation]" in str(result.exception)


@pytest.mark.slow
def test_the_harness_command_line_knows_our_models(folder: Path) -> None:
    pytest.importorskip("lm_eval")
    command = [
        sys.executable, "-m", "nestlearn.evaluation", "run", "--model", "nestlearn-stream", "--model_args",
        f"pretrained={folder / 'hope'}", "--tasks", "colours", "--include_path",
        str(folder / "tasks"), "--limit", "2",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert result.returncode == 0, result.stderr
    assert "nestlearn-stream" in result.stdout


def test_the_harness_command_line_knows_our_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    seen: list[list[str]] = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append(sys.argv[1:]))
    own = ["--include_path", str(documents.TASKS)]
    for given, passed in (
        (["ls", "tasks"], ["ls", "tasks", *own]),
        (["run", "--include_path", "mine"], ["run", "--include_path", "mine"]),
        (["--help"], ["--help"]),
    ):
        monkeypatch.setattr(sys, "argv", ["lm-eval", *given])
        runpy.run_module("nestlearn.evaluation", run_name="__main__")
        assert seen[-1] == passed
