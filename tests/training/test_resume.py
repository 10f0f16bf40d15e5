"""Training that is resumed at any step equals the uninterrupted run bit for bit."""

from __future__ import annotations

import shutil
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from nestlearn.training import Interrupted, StreamTrainer
from tests.helpers import difference
from tests.training.streams import metrics, outcome, stream, trainer

#: With the surprise of the second language inside the run, and both boundaries of the slow level.
CONFIG = stream(13, 6, evaluate_every=4)
STEPS = CONFIG.total_steps


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The uninterrupted run of each kind, and its folder as it was after every step."""

    @cache
    def make(kind: str) -> tuple[StreamTrainer, Path]:
        folder = tmp_path_factory.mktemp(kind)
        run = trainer(kind, CONFIG, folder / "run")
        for step in range(STEPS + 1):
            if step:
                run.run(until=step)
            else:
                run.save()
            shutil.copytree(folder / "run", folder / str(step))
        return run, folder

    return make


@pytest.mark.parametrize(
    ("kind", "step"),
    [("consolidating", step) for step in range(STEPS + 1)]
    + [(kind, step) for kind in ("plain", "nested") for step in (0, 1, 5, 6, 13, 14, 18)],
)
def test_resuming_at_any_step_is_exact(kind: str, step: int, runs: Any) -> None:
    whole, folder = runs(kind)
    if kind == "consolidating":
        assert whole.optimizer.surprises == [13 * CONFIG.tokens_per_step]
    run = trainer(kind, CONFIG, folder / str(step), seed=7)  # other weights, which must all be replaced
    torch.manual_seed(99)
    assert run.resume() is True
    assert run.step == step
    run.run()
    assert difference(outcome(whole), outcome(run)) is None
    assert metrics(folder / str(step)) == metrics(folder / "run")


@pytest.mark.parametrize("step", [3, 13, 16])
def test_resuming_hope_is_exact(step: int, runs: Any) -> None:
    whole, folder = runs("hope")
    run = trainer("hope", CONFIG, folder / str(step), seed=7)
    run.resume()
    run.run()
    assert difference(outcome(whole), outcome(run)) is None
    assert metrics(folder / str(step)) == metrics(folder / "run")


@pytest.mark.parametrize("kind", ["consolidating", "hope"])
def test_in_one_go_equals_step_by_step(kind: str, runs: Any) -> None:
    whole, _ = runs(kind)
    run = trainer(kind, CONFIG)
    run.run()
    assert difference(outcome(whole), outcome(run)) is None


def test_stopping_again_and_again_is_exact(tmp_path: Path, runs: Any) -> None:
    whole, folder = runs("consolidating")
    sessions = 0
    while True:
        stop = threading.Event()  # the first session has the weights of the whole run, the others resume
        run = trainer("consolidating", CONFIG, tmp_path, seed=sessions)
        run.on_event = lambda _, r=run, s=stop: s.set() if r.step % 4 == 3 else None
        assert run.resume() is (sessions > 0)
        sessions += 1
        try:
            run.run(stop=stop)
        except Interrupted:
            continue
        break
    assert sessions == 5
    assert difference(outcome(whole), outcome(run)) is None
    assert metrics(tmp_path) == metrics(folder / "run")


@pytest.mark.parametrize("until", [5, 13, 15])
def test_a_killed_session_is_cut_back_to_its_checkpoint(until: int, tmp_path: Path, runs: Any) -> None:
    """Steps after the last checkpoint are in the log of the dead session, and are done again."""
    whole, folder = runs("plain")
    run = trainer("plain", CONFIG, tmp_path)
    run.run(until=until)
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    run.run(until=until + 3)
    (tmp_path / "checkpoint.safetensors").write_bytes(kept)
    again = trainer("plain", CONFIG, tmp_path)
    again.resume()
    again.run()
    assert difference(outcome(whole), outcome(again)) is None
    assert metrics(tmp_path) == metrics(folder / "run")


def test_a_session_killed_before_its_first_checkpoint_leaves_no_trace_in_the_log(
    tmp_path: Path, runs: Any
) -> None:
    whole, folder = runs("plain")
    run = trainer("plain", CONFIG, tmp_path)
    run.run(until=3)
    (tmp_path / "checkpoint.safetensors").unlink()
    again = trainer("plain", CONFIG, tmp_path)
    assert again.resume() is False
    again.run()
    assert difference(outcome(whole), outcome(again)) is None
    assert metrics(tmp_path) == metrics(folder / "run")


def test_a_half_written_last_line_of_the_log_does_no_harm(tmp_path: Path, runs: Any) -> None:
    _, folder = runs("plain")
    run = trainer("plain", CONFIG, tmp_path)
    run.run(until=5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "st')
    again = trainer("plain", CONFIG, tmp_path)
    again.resume()
    again.run()
    assert metrics(tmp_path) == metrics(folder / "run")


def test_resuming_a_finished_run_does_nothing(tmp_path: Path, runs: Any) -> None:
    whole, folder = runs("plain")
    shutil.copytree(folder / "run", tmp_path / "run")
    run = trainer("plain", CONFIG, tmp_path / "run")
    run.resume()
    run.run()
    assert difference(outcome(whole), outcome(run)) is None
    assert metrics(tmp_path / "run") == metrics(folder / "run")


def test_notes_and_times_are_kept(tmp_path: Path) -> None:
    run = trainer(run_dir=tmp_path)
    run.notes["samples"] = [{"stage": 0, "text": "hello"}]
    run.run(until=4)
    again = trainer(run_dir=tmp_path)
    again.resume()
    assert again.notes == run.notes
    assert again.cpu_seconds == run.cpu_seconds > 0
    assert again.seconds > 0
    again.run()
    assert again.cpu_seconds > run.cpu_seconds


def test_random_numbers_go_on(tmp_path: Path) -> None:
    """A model with dropout depends on the generator too."""

    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(20, 8)
            self.out = torch.nn.Linear(8, 20)

        def forward(self, tokens: torch.Tensor) -> Any:
            from types import SimpleNamespace

            hidden = torch.nn.functional.dropout(self.embed(tokens), 0.5, self.training)
            return SimpleNamespace(logits=self.out(hidden))

    from nestlearn.levels import Level
    from nestlearn.optim import Nested
    from tests.training.streams import DATA, TOKEN_BYTES

    def build(folder: Path | None) -> StreamTrainer:
        torch.manual_seed(0)
        model = Noisy()
        return StreamTrainer(
            model, Nested([Level("all", 16)], model), DATA, TOKEN_BYTES, stream(), run_dir=folder
        )

    whole = build(None)
    whole.run()
    build(tmp_path).run(until=5)
    again = build(tmp_path)
    again.resume()
    again.run()
    assert difference(outcome(whole), outcome(again)) is None
