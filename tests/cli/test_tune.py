"""``nestlearn tune`` as a user runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import optuna
import pytest

from nestlearn.streams import DataError, load_parallel_help
from nestlearn.tuning import TuningPlan, load_recipe
from nestlearn.tuning.study import STUDY
from tests.cli.test_demo import ENVIRONMENT, nestlearn


def test_help_is_for_people():
    done = nestlearn("tune", "--help")
    assert done.returncode == 0
    assert "budget" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget", "some"), "--budget is a number of tokens"),
        (("--languages", "en"), "two different languages"),
        (("--budget", "1k"), "does not pay for one trial"),
        (("--languages", "en,xx"), "Unknown language 'xx'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, message):
    done = nestlearn("tune", "--quick", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_quick_search(tmp_path):
    try:
        load_parallel_help(("en", "fr"))
    except DataError as error:
        pytest.skip(f"no corpus on this machine: {error}")
    done = nestlearn("tune", "--quick", "--budget", "80k", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "periods" in done.stdout
    assert load_recipe(tmp_path / "out" / "recipe.json")
    again = nestlearn("tune", "--quick", "--budget", "80k", "--out", tmp_path / "out")
    assert again.stdout.splitlines()[-5:] == done.stdout.splitlines()[-5:]
    other = nestlearn("tune", "--quick", "--budget", "80k", "--seed", "5", "--out", tmp_path / "out")
    assert other.returncode == 2
    assert "another seed" in other.stderr


def evaluations(folder) -> int:
    """How often the trials of a search were judged so far."""
    if not (folder / STUDY).exists():
        return 0
    try:
        (study,) = optuna.get_all_study_summaries(f"sqlite:///{folder / STUDY}")
        trials = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{folder / STUDY}").trials
    except (ValueError, RuntimeError, optuna.exceptions.OptunaError):
        return 0  # it is just being made
    return sum(len(trial.intermediate_values) for trial in trials)


@pytest.mark.slow
def test_ctrl_c_loses_nothing(tmp_path):
    try:
        load_parallel_help(("en", "fr"))
    except DataError as error:
        pytest.skip(f"no corpus on this machine: {error}")
    command = ("tune", "--quick", "--budget", "50M", "--workers", "1", "--out", str(tmp_path / "out"))
    with subprocess.Popen(
        [sys.executable, "-m", "nestlearn.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
        # A shell ignores Ctrl-C for what it runs in the background, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        while evaluations(tmp_path / "out") < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.2)
        second = nestlearn(*command)
        assert second.returncode == 2
        assert "another process searches in" in second.stderr
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert err == ""
    assert "the same command goes on" in out
    before = evaluations(tmp_path / "out")
    plan = TuningPlan.quick()
    budget = plan.trial_tokens // plan.evaluations * (before + 10)  # for two more trials
    done = nestlearn(*command, "--budget", str(budget))
    assert done.returncode == 0, done.stderr
    assert evaluations(tmp_path / "out") > before >= 2
    assert load_recipe(tmp_path / "out" / "recipe.json")
