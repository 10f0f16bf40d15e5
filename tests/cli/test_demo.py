"""The demo as a user runs it: in processes of its own, interrupted, resumed, and given nonsense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nestlearn.reporting import load_results
from nestlearn.streams import DataError, load_parallel_help

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def nestlearn(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nestlearn.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**ENVIRONMENT, **changes},
    )


@pytest.fixture(scope="module", autouse=True)
def corpus():
    try:
        load_parallel_help(("en", "fr"))
    except DataError as error:
        pytest.skip(f"no corpus on this machine: {error}")


QUICK = ("demo", "--quick", "--steps", "24", "--languages", "en,fr", "--seed", "3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    done = nestlearn(*QUICK, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
    assert "report.html" in done.stdout
    return out


def test_the_demo_writes_results_and_a_report(finished):
    results = load_results(finished / "results.json")
    assert list(results["runs"]) == ["nested", "finetune", "transformer"]
    assert results["seed"] == 3
    sizes = [run["params"] for run in results["runs"].values()]
    assert max(sizes) / min(sizes) < 1.05
    assert len({run["tokens"] for run in results["runs"].values()}) == 1
    for run in results["runs"].values():
        assert len(run["matrix"]) == 2
        assert all(len(row) == 2 for row in run["matrix"])
        assert {sample["stage"] for sample in run["samples"]} == {0, 1}
    nested = results["runs"]["nested"]
    assert [len(nested["updates"][name]) for name in ("fast", "middle", "slow")] == [24, 6, 1]
    assert "<html" in (finished / "report.html").read_text(encoding="utf-8")


def test_resuming_a_finished_demo_prints_it_again(finished):
    before = json.loads((finished / "results.json").read_text())
    again = nestlearn(*QUICK, "--out", finished, "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads((finished / "results.json").read_text()) == before


def test_ctrl_c_saves_and_resume_gives_the_same_figures(finished, tmp_path):
    out = tmp_path / "interrupted"
    process = subprocess.Popen(
        [sys.executable, "-m", "nestlearn.cli.main", *QUICK, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
        # A shell's background job is started deaf to Ctrl-C; the demo under test must hear it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (no threads here)
    )
    log = out / "nested" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count('"step"') > 4):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C: everyone gets it
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume" in stdout
    assert not (out / "results.json").exists()
    resumed = nestlearn(*QUICK, "--out", out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole, parts = (load_results(folder / "results.json") for folder in (finished, out))
    for name, run in whole["runs"].items():
        other = parts["runs"][name]
        for key in ("matrix", "curve", "samples", "updates", "commits"):
            assert other[key] == run[key], (name, key)


def test_a_used_folder_is_not_overwritten(finished):
    refused = nestlearn(*QUICK, "--out", finished)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    assert (finished / "results.json").exists()


def test_a_finished_demo_is_not_passed_off_as_another(finished):
    refused = nestlearn(*QUICK[:-1], "4", "--out", finished, "--resume")
    assert refused.returncode == 2
    assert "another seed" in refused.stderr


def test_resuming_with_other_settings_says_what_differs(finished, tmp_path):
    out = tmp_path / "other"
    (out / "nested").mkdir(parents=True)
    (out / "nested" / "checkpoint.safetensors").write_bytes(
        (finished / "nested" / "checkpoint.safetensors").read_bytes()
    )
    refused = nestlearn("demo", "--quick", "--steps", "12", "--languages", "en,fr", "--out", out, "--resume")
    assert refused.returncode == 2
    assert "stream" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--languages", "en,xx"), "xx"),
        (("--languages", ","), "languages"),
        (("--languages", "en,en"), "en"),
        (("--steps", "1"), "1 steps"),
        (("--seed", "-1"), "-1"),
        (("--workers", "0"), "0"),
        (("--data", "/nowhere/at/all"), "/nowhere/at/all"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, tmp_path):
    refused = nestlearn("demo", "--quick", "--out", tmp_path / "out", *arguments)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_help_is_for_people():
    shown = nestlearn("demo", "--help")
    assert shown.returncode == 0
    for option in ("--quick", "--languages", "--steps", "--seed", "--out", "--resume"):
        assert option in shown.stdout
    assert "Ctrl-C is safe" in shown.stdout
