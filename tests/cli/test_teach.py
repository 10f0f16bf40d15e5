"""The commands that teach a pretrained model, on a tiny one in a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import nestlearn as nl
from nestlearn.cli import teach
from nestlearn.cli.main import app
from nestlearn.continual.methods import METHODS
from nestlearn.training import Interrupted
from tests.continual.small import texts, tokenizer
from tests.retrofitting.small import pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and texts: new ones as lines, old ones in files."""
    root = tmp_path_factory.mktemp("teach")
    pretrained().save_pretrained(root / "model")
    tokenizer().save_pretrained(root / "model")
    (root / "new.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(20)))
    (root / "old" / "deep").mkdir(parents=True)
    for i, text in enumerate(texts(4, seed=7)):
        (root / "old" / "deep" / f"{i}.txt").write_text(text)
    (root / "old" / "picture.png").write_bytes(b"\x89PNG\0\0\xff")
    (root / "old" / ".hidden").write_text("no")
    (root / "empty").mkdir()
    shutil.copytree(root / "model", root / "damaged")
    weights = root / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    return root


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def learned(folder: Path, out: Path, *further: Any) -> Any:
    return invoke(
        "learn", "--model", folder / "model", "--text", folder / "new.jsonl", "--old", folder / "old",
        "--context", 16, "--out", out, *further,
    )  # fmt: skip


def test_learn_writes_a_memory_and_chat_uses_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "memory.safetensors"
    result = learned(folder, out, "--lr", 0.01)
    assert result.exit_code == 0, result.output
    assert "20 documents" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["memory.safetensors"]
    own = nl.Learner.load(type(pretrained()).from_pretrained(folder / "model"), out)
    assert [level.lr for level in own.method.levels] == [0.01, 0.01]  # type: ignore[attr-defined]
    answer = own.generate([{"role": "user", "content": "red"}], 12)
    asked = ["chat", "--model", folder / "model", "--prompt", "red", "--max-new-tokens", 12]
    assert invoke(*asked, "--memory", out).stdout == answer + "\n"
    plain = nl.Learner(own.base, tokenizer()).generate([{"role": "user", "content": "red"}], 12)
    assert invoke(*asked).stdout == plain + "\n"
    assert own.diff()[0].changed


def test_a_taught_model_can_be_looked_at(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert learned(folder, tmp_path / "m.safetensors", "--run-dir", run).exit_code == 0
    report = invoke("report", run)
    assert report.exit_code == 0, report.output
    assert "finished" in report.stdout
    assert (run / "report.html").stat().st_size > 10_000
    again = learned(folder, tmp_path / "2.safetensors", "--run-dir", run)
    assert "has a run already" in str(again.exception)
    assert not (tmp_path / "2.safetensors").exists()


def test_a_conversation_ends_with_the_input(folder: Path) -> None:
    asked = ["chat", "--model", str(folder / "model"), "--max-new-tokens", "3"]
    result = CliRunner().invoke(app, asked, input="red\n\nblue\n")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 2


def test_learning_goes_on_from_a_memory(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    assert learned(folder, first, "--method", "mlp", "--lr", 0.01).exit_code == 0
    assert learned(folder, second, "--memory", first).exit_code == 0
    base = type(pretrained()).from_pretrained(folder / "model")
    scores = [float(nl.Learner.load(base, path).score(texts(20))) for path in (first, second)]
    assert scores[1] < scores[0]


def test_an_interrupted_command_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert learned(folder, whole).exit_code == 0
    inner = nl.Learner.learn

    def stopped(self: nl.Learner, stream: Any, **settings: Any) -> Any:
        inner(self, stream[:7], **settings)
        raise Interrupted("stopped after some steps")

    monkeypatch.setattr(nl.Learner, "learn", stopped)
    result = learned(folder, cut)
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    assert not cut.exists()
    monkeypatch.undo()
    refused = learned(folder, cut)
    assert isinstance(refused.exception, ValueError)
    assert "--resume" in str(refused.exception)
    assert cut.with_suffix(".resume.safetensors").exists()
    assert learned(folder, cut, "--resume").exit_code == 0
    assert not cut.with_suffix(".resume.safetensors").exists()


def test_compare_shows_every_method(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "compared.json"
    result = invoke(
        "compare", "--model", folder / "model", "--text", folder / "new.jsonl", "--old", folder / "old",
        "--methods", ",".join(f"{name}:0.01" for name in METHODS), "--context", 16, "--result", path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())["methods"]
    assert list(rows) == [f"{name}:0.01" for name in METHODS]
    assert all(row["new_after"] < row["new_before"] for row in rows.values())
    assert len({row["new_before"] for row in rows.values()}) == 1


BAD: dict[str, tuple[list[str], str]] = {
    "no such model": (["learn", "--model", "nothing/here", "--text", "{new}"], "there is no model"),
    "no such text": (
        ["learn", "--model", "{model}", "--text", "nowhere.txt"],
        "there is no file nowhere.txt",
    ),
    "no such method": (
        ["learn", "--model", "{model}", "--text", "{new}", "--method", "magic"],
        "there is no method 'magic'; there are levels",
    ),
    "no such memory": (
        ["chat", "--model", "{model}", "--memory", "nowhere.safetensors"],
        "there is no checkpoint at nowhere.safetensors",
    ),
    "too few": (
        ["compare", "--model", "{model}", "--text", "{old}", "--old", "{old}"],
        "needs at least 10 new documents",
    ),
    "no such rate": (
        ["compare", "--model", "{model}", "--text", "{new}", "--old", "{old}", "--methods", "mlp:fast"],
        "--methods mlp:fast: could not convert",
    ),
    "empty": (["learn", "--model", "{model}", "--text", "{new}", "--old", "{empty}"], "there is no text in"),
    "memory and method": (
        ["learn", "--model", "{model}", "--text", "{new}", "--memory", "m", "--method", "mlp"],
        "leave out --method and --lr",
    ),
    "damaged model": (["chat", "--model", "{damaged}"], "there is no model"),
    "rate": (["learn", "--model", "{model}", "--text", "{new}", "--lr", "-1"], "lr must be finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    case: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from nestlearn.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments, message = BAD[case]
    places = {name: folder / name for name in ("model", "old", "empty", "damaged")}
    places["new"] = folder / "new.jsonl"
    monkeypatch.setattr("sys.argv", ["nestlearn", *(a.format(**places) for a in arguments)])
    with pytest.raises(SystemExit) as stopped:
        main.run()
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_broken_files_are_named(tmp_path: Path) -> None:
    from nestlearn.continual.files import read_files

    (tmp_path / "a.jsonl").write_text('"fine"\n{broken\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2, is no JSON"):
        list(read_files([tmp_path / "a.jsonl"]))
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"b\.txt is no text in UTF-8"):
        list(read_files([tmp_path / "b.txt"]))


def test_every_method_has_a_name_and_a_rate() -> None:
    for name, method in METHODS.items():
        assert isinstance(teach.method_of(name, 1e-3), method)
        assert isinstance(teach.method_of(name, None), method)
