"""The suites' machinery with runs of two updates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipes._plan import Suite
from recipes._runs import Problem, accuracies, execute, schedule
from recipes._store import complete
from recipes._suite import command
from typer.testing import CliRunner

from nestlearn.bench.store import Store
from nestlearn.streams.synthetic import Copying, MultiQueryRecall, Parity, SwitchingCipher
from recipes import functional, self_modification
from tests.recipes.small import PARITY, SMALL, run


def invoke(suite: Suite, *arguments: str):
    import typer

    app = typer.Typer()
    app.command()(command(suite))
    return CliRunner().invoke(app, ["--workers", "0", "--seeds", "1", *arguments])


def test_a_record_is_reproducible_and_says_what_it_is_of():
    first, second = execute(run()), execute(run())
    assert first["accuracy"] == second["accuracy"]
    assert first["loss"] == second["loss"]
    assert len(first["loss"]) == 2
    assert first["accuracy"]["9"]["length"] == 9
    assert first["accuracy"]["9"]["chance"] == 0.5
    assert first["settings"]["problem"]["curriculum"][1] == {
        "task": "Parity",
        "length": 4,
        "densities": "even",
    }
    assert first["settings"]["fields"] == {"mixer": "attention"}
    assert first["settings"]["config"]["hidden_size"] == 16
    assert first["settings"]["config"]["conv_size"] == 4  # a default
    assert not first["diverged"]
    assert first["cpu_seconds"] >= first["training_seconds"] > 0
    json.dumps(first)


def test_every_setting_is_in_the_key():
    changes = [
        {"fields": {"mixer": "attention", "conv_size": 0}},
        {"problem": replace(PARITY, steps=3)},
        {"problem": replace(PARITY, embedding_noise=0.1)},
        {"problem": replace(PARITY, curriculum=(Parity(2), Parity(4, densities="mixed")))},
        {"problem": replace(PARITY, evaluations={"4": Parity(4)})},
        {"problem": replace(PARITY, curriculum=(Parity(3),))},
        {"lr": 2e-3},
        {"seed": 1},
        {"split": "validation"},
        {"shape": {**SMALL, "num_heads": 1}},
    ]
    assert len({run().key, *(run(**change).key for change in changes)}) == 1 + len(changes)
    assert run().key == run().key


def test_seed_and_split_decide_the_data():
    def loss(**changes):
        return execute(run(**changes))["loss"]

    assert loss() == loss(split="validation")  # the same training
    assert loss() != loss(seed=1)
    task = Copying(symbols=3, vocab=9)
    problem = Problem((task,), {"3": task}, steps=1, tokens=12)
    # Hardly trained, so the same answers to other questions.
    found = {
        s: execute(run(problem=problem, split=s, lr=1e-9, evaluation_tokens=2048))
        for s in ("test", "validation")
    }
    assert found["test"]["accuracy"]["3"]["token"] != found["validation"]["accuracy"]["3"]["token"]


def test_training_learns():
    problem = Problem((Copying(1, 4),), {"1": Copying(1, 4)}, steps=60, tokens=64)
    record = execute(run(problem=problem, lr=1e-2))
    assert record["accuracy"]["1"]["token"] == 1
    assert record["loss"][-1] < 0.3 * record["loss"][0]


def test_accuracies_by_hand():
    phase = torch.tensor([[-1, 0, 1, -1, 2], [0, 0, -1, 1, -1]])
    right = torch.tensor([[True, True, False, True, True], [True, True, False, True, False]])
    assert accuracies(SwitchingCipher(), right, phase) == {
        "token": round(5 / 6, 4), "sequence": 0.5, "last": 1.0, "before": 1.0, "early": 0.5, "late": 1.0
    }  # fmt: skip
    assert set(accuracies(Parity(5), right, phase.clamp(max=0))) == {"token", "sequence", "last"}


def test_the_learning_rate_rises_and_falls():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.05 <= rates[-1] < 0.06


def test_finished_runs_are_not_done_again(tmp_path, monkeypatch):
    store, done = Store(tmp_path / "made.json"), []
    runs = [run(), run(seed=1), run()]
    assert complete(runs, store, workers=0, on_done=lambda r, _: done.append(r.seed)) == {}
    assert done == [0, 1]
    again = Store(tmp_path / "made.json")
    assert again.records == store.records
    monkeypatch.setattr("recipes._store.execute", lambda _: pytest.fail("was done already"))
    assert complete(runs, again, workers=0, on_done=lambda *_: pytest.fail("was done already")) == {}


def test_a_failed_run_does_not_stop_the_others(tmp_path, monkeypatch):
    def odd(one):
        if one.seed == 0:
            raise RuntimeError("odd")
        return execute(one)

    monkeypatch.setattr("recipes._store.execute", odd)
    store = Store(tmp_path / "made.json")
    failures = complete([run(), run(seed=1)], store, workers=0, on_done=lambda *_: None)
    assert failures == {"attention on parity, seed 0": "RuntimeError: odd"}
    assert run(seed=1) in store
    assert run() not in store


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"runs": 3}'])
def test_another_file_is_not_overwritten(tmp_path, content):
    path = tmp_path / "made.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"made.json is not a file of finished runs"):
        Store(path)
    assert path.read_text() == content


def test_noise_is_on_the_embeddings_of_the_training_only():
    still, noisy = execute(run()), execute(run(problem=replace(PARITY, embedding_noise=0.5)))
    assert still["loss"] != noisy["loss"]
    unmoved = [execute(run(problem=replace(PARITY, embedding_noise=n), lr=1e-9)) for n in (0.0, 0.5)]
    assert unmoved[0]["accuracy"] == unmoved[1]["accuracy"]
    with pytest.raises(ValueError, match="Invalid embedding_noise: -1"):
        replace(PARITY, embedding_noise=-1.0)


def test_the_command_writes_results_and_figure_and_goes_on(suite):
    done = invoke(suite)
    assert done.exit_code == 0, done.output
    assert "left out, as the model does not have them: odd" in done.output
    content = json.loads(suite.result.read_text())
    assert len(content["runs"]) == 2 * 2 * (2 + 1)
    row = content["summary"]["cipher"]["gated"]
    assert row["settings"] == {}
    assert row["seeds"] == 1
    assert set(row["accuracy"]["8"]["late"]) == {"mean", "min", "max"}
    assert suite.figure.read_text().count("<svg") == 1
    more = invoke(suite, "--seeds", "2", "--mixers", "gated", "--tasks", "parity")
    assert more.exit_code == 0, more.output
    after = json.loads(suite.result.read_text())
    assert len(after["runs"]) == len(content["runs"]) + 1
    assert content["runs"].items() <= after["runs"].items()
    assert after["summary"]["parity"]["gated"]["seeds"] == 2


def test_chosen_settings_are_in_the_summary_and_the_table(suite):
    suite = replace(suite, grids={"gated": ({"rate_max": 0.5}, {"rate_max": 0.25})})
    done = invoke(suite, "--mixers", "gated,attention", "--tasks", "parity")
    assert done.exit_code == 0, done.output
    content = json.loads(suite.result.read_text())
    assert len(content["runs"]) == (3 + 1) + (2 + 1)
    chosen = content["summary"]["parity"]["gated"]["settings"]["rate_max"]
    assert f"rate_max={chosen}" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mixers", "gated,gate"], "no mixer gate: there are attention, gated, odd"),
        (["--mixers", "odd"], "mixer odd: mixer must be one of"),
        (["--tasks", "parties"], "no task parties: there are parity, cipher"),
        (["--tasks", ","], "no task ','"),
        (["--seeds", "0"], "Invalid seeds: 0"),
        (["--steps", "0"], "Invalid steps: 0"),
        (["--workers", "-1"], "Invalid workers: -1"),
    ],
)
def test_refusals_are_one_sentence(suite, arguments, message):
    done = invoke(suite, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not suite.result.exists()


def test_a_misspelt_field_is_refused():
    with pytest.raises(ValueError, match="'attention' sets windw, which HopeConfig does not have"):
        run(fields={"mixer": "attention", "windw": 3}).config()


def test_a_problem_has_one_vocabulary():
    with pytest.raises(ValueError, match="Must be of one size"):
        Problem((MultiQueryRecall(keys=8),), {"more": MultiQueryRecall(keys=9)}, 1, 1)


@pytest.mark.parametrize("recipe", [functional, self_modification])
def test_the_recipes_own_entries(recipe):
    suite = recipe.SUITE
    assert {"Hope (mlp)", "gated_delta", "attention"} <= set(suite.available())
    assert not any("," in name for name in (*suite.mixers, *suite.problems))  # the options' separator
    for problem in suite.problems.values():
        trained = max(task.length for task in problem.curriculum)
        lengths = [task.length for task in problem.evaluations.values()]
        assert trained in lengths
        assert max(lengths) > trained


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(tmp_path):
    """In processes: one short run is kept, one that would take hours is stopped."""
    path = tmp_path / "made.json"
    code = f"""
if __name__ == "__main__":
    from dataclasses import replace
    from pathlib import Path
    from tests.recipes.small import PARITY, run
    from nestlearn.bench.store import Store
    from recipes._store import complete
    runs = [run(), run(problem=replace(PARITY, steps=10**7))]
    complete(runs, Store(Path({str(path)!r})), workers=1, on_done=lambda *_: print("done", flush=True))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        # A background job's children ignore the signal unless told otherwise.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (no threads here)
    ) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == b"done\n"
        time.sleep(0.5)
        it.send_signal(signal.SIGINT)
        _, errors = it.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    assert list(Store(path).records) == [run().key]
