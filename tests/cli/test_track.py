"""The option --track of the commands that train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nestlearn.cli import demo, main
from nestlearn.cli.main import app
from nestlearn.streams import DataError
from tests.continual.small import texts, tokenizer
from tests.retrofitting.small import pretrained


def learn(folder: Path, *further: Any) -> list[str]:
    pretrained().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    (folder / "new.txt").write_text("\n".join(texts(4)))
    command = ["learn", "--model", folder / "model", "--text", folder / "new.txt", "--method", "finetune"]
    return [str(word) for word in (*command, "--context", 16, "--out", folder / "m.safetensors", *further)]


def test_learn_writes_to_a_tracker(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    done = CliRunner().invoke(app, learn(tmp_path, "--run-dir", run, "--track", "tensorboard"))
    assert done.exit_code == 0, done.exception
    assert len(list((run / "tensorboard").glob("events.*"))) == 1
    assert (run / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (("--track", "mlflow", "--run-dir", "runs"), "track='mlflow' names no tracker 'mlflow': choose from"),
        (("--track", "tensorboard"), "needs the folder of a run"),
    ],
)
def test_a_wrong_tracker_is_one_sentence(
    further: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["nestlearn", *learn(tmp_path, *further)])
    with pytest.raises(SystemExit) as stopped:
        main.run()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"model", "new.txt"}


def test_the_demo_hands_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[str] = []

    def compare(*arguments: Any, track: str, **further: Any) -> None:
        asked.append(track)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "compare", compare)
    for given, expected in (([], "auto"), (["--track", "none"], "none")):
        done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out"), *given])
        assert (done.exit_code, asked[-1]) == (130, expected)
        command = shlex.split(done.stdout.split("Go on with: ")[1])
        again = CliRunner().invoke(app, command[command.index("demo") :])
        assert (again.exit_code, asked[-1]) == (130, expected)


def test_the_demo_refuses_a_wrong_tracker_before_it_fetches_anything(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out"), "--track", "mlflow"])
    assert isinstance(done.exception, ValueError)
    assert not isinstance(done.exception, DataError)
    assert "no tracker 'mlflow'" in str(done.exception)
    assert not (tmp_path / "out").exists()
