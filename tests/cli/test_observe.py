"""``nestlearn inspect``, ``report`` and ``watch`` as a user runs them."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

import nestlearn as nl
from nestlearn.cli.main import app
from nestlearn.reporting.live import Server
from nestlearn.reporting.status import curve
from tests.cli.test_demo import nestlearn
from tests.observing.test_run import observed
from tests.training.streams import trainer

TINY = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def invoke(*arguments: str | Path):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def llama(tmp_path) -> Path:
    """A folder with a configuration and no weights."""
    from transformers import LlamaConfig

    folder = tmp_path / "llama"
    LlamaConfig(**TINY, num_attention_heads=2, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    return folder


def system_of(*arguments: str | Path, out: Path) -> nl.NestedSystem:
    done = invoke("inspect", *arguments, "--json", out)
    assert done.exit_code == 0, done.exception
    return nl.NestedSystem.load(out)


def test_a_model_that_is_only_used(llama, tmp_path):
    system = system_of(llama, out=tmp_path / "s.json")
    assert [set(level.names) for level in system.levels] == [{"attention"}, {"weights"}]
    assert system["weights"].parameters > 10_000


@pytest.mark.parametrize("optimizer", ["adamw", "SGD", "m3", "muon"])
def test_an_optimizer_by_name(llama, tmp_path, optimizer):
    system = system_of(llama, "--optimizer", optimizer, "--tokens-per-step", "256", out=tmp_path / "s.json")
    assert system.tokens_per_step == 256
    assert any(c.kind == "optimizer_state" and c.bytes > 0 for c in system.components)


def test_levels_of_a_pretrained_model(llama, tmp_path):
    system = system_of(llama, "--levels", "fast=512,slow=4096", out=tmp_path / "s.json")
    assert system["slow"].period == 4096
    assert system["frozen"].parameters > 0


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef build():\n    model = torch.nn.Linear(2, 2)\n"
        "    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)\n\n\n"
        "def wrong():\n    return 1\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    system = system_of("mine:build", out=tmp_path / "s.json")
    assert [level.names for level in system.levels] == [("momentum of weights",), ("weights",)]
    for wrong in ("mine:nothing", "mine:wrong", "not_there_at_all:build"):
        assert isinstance(invoke("inspect", wrong).exception, ValueError)


def test_all_drawings(llama, tmp_path):
    files = [tmp_path / name for name in ("s.html", "s.svg", "s.mmd")]
    done = invoke("inspect", llama, "--html", files[0], "--svg", files[1], "--mermaid", files[2])
    assert done.exit_code == 0
    assert "attention" in done.stdout
    assert "<!doctype html>" in files[0].read_text(encoding="utf-8").lower()
    ElementTree.fromstring(files[1].read_text(encoding="utf-8"))
    assert files[2].read_text(encoding="utf-8").startswith("flowchart")


def test_what_was_written_down_is_shown_again(tmp_path):
    trainer(run_dir=tmp_path / "run").run()
    for target in (
        tmp_path / "run",
        tmp_path / "run" / "checkpoint.safetensors",
        tmp_path / "run" / "system.json",
    ):
        done = invoke("inspect", target)
        assert done.exit_code == 0, done.exception
        assert "slow" in done.stdout
    assert "leave out --optimizer" in str(
        invoke("inspect", tmp_path / "run", "--optimizer", "adamw").exception
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "no/such/model"), "there is no model 'no/such/model'"),
        (("inspect", "{llama}", "--optimizer", "magic"), "'magic' is not known; there are adadelta"),
        (("inspect", "{llama}", "--levels", "fast"), "fast=512,slow=4096; got 'fast'"),
        (("inspect", "{llama}", "--levels", "a=1", "--optimizer", "sgd"), "leave out --optimizer"),
        (("inspect", "missing.safetensors"), "there is no checkpoint missing.safetensors"),
        (("report", "{llama}"), "is not the folder of a training run"),
        (("watch", "{llama}"), "is not the folder of a training run"),
    ],
)
def test_bad_input_is_one_sentence(llama, arguments, message):
    done = invoke(*(str(a).replace("{llama}", str(llama)) for a in arguments))
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)


def test_bad_input_ends_with_code_two(tmp_path):
    done = nestlearn("report", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_report_of_a_run(tmp_path):
    observed(tmp_path / "run")
    done = invoke("report", tmp_path / "run")
    assert done.exit_code == 0, done.exception
    assert "finished" in done.stdout
    assert "accuracy" in done.stdout
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Linear trained by SGD" in page
    assert invoke("report", tmp_path / "run", "--html", tmp_path / "other.html").exit_code == 0
    assert (tmp_path / "other.html").exists()


def test_a_folder_of_runs_names_them(tmp_path):
    observed(tmp_path / "one")
    observed(tmp_path / "two")
    message = str(invoke("report", tmp_path).exception)
    assert str(tmp_path / "one") in message
    assert str(tmp_path / "two") in message


def test_a_finished_run_is_watched_to_its_end(tmp_path):
    observed(tmp_path / "run")
    done = invoke("watch", tmp_path / "run")
    assert done.exit_code == 0, done.exception
    assert "finished" in done.stdout


def test_a_run_under_way_is_followed(tmp_path):
    folder = tmp_path / "run"
    observed(folder)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:5]), encoding="utf-8")
    later = threading.Timer(
        2.0, lambda: (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    )
    later.start()
    done = invoke("watch", folder, "--every", "0.1")
    later.join()
    assert done.exit_code == 0, done.exception
    assert "under way" in done.stdout


def test_the_page_is_served_on_this_machine_only(tmp_path):
    observed(tmp_path / "run")
    server = Server(tmp_path / "run", 0)
    try:
        assert server.address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(server.address, timeout=10) as answer:
            page = answer.read().decode()
        assert "Linear trained by SGD" in page
        assert "/run.json" in page
        with urllib.request.urlopen(f"{server.address}run.json", timeout=10) as answer:
            assert json.load(answer)["end"] == 48
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{server.address}../secret", timeout=10)
        with pytest.raises(ValueError, match="give another --port, or 0"):
            Server(tmp_path / "run", int(server.address.rsplit(":", 1)[1].rstrip("/")))
        (tmp_path / "run" / "metrics.jsonl").unlink()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{server.address}run.json", timeout=10)
    finally:
        server.close()


def test_curves_in_a_line():
    assert curve([]) == ""
    assert curve([1.0]) == "▁"
    assert curve([0.0, 1.0]) == "▁█"
    assert curve([2.0, 2.0]) == "▁▁"
    long = curve([float(i) for i in range(100)], 8)
    assert (len(long), long[0], long[-1]) == (8, "▁", "█")
