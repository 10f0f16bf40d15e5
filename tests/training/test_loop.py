"""The loop along a stream: what it trains, what it writes down, and how it stops."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nestlearn.levels import Level
from nestlearn.optim import Nested, NonFiniteGradientError
from nestlearn.streams import BatchSampler, bits_per_byte, evaluation_windows
from nestlearn.training import CheckpointError, Interrupted, StreamTrainer, load_tree
from tests.helpers import difference, tiny_model
from tests.training.streams import (
    DATA,
    TOKEN_BYTES,
    TOKENS,
    VOCABULARY,
    metrics,
    outcome,
    poison,
    stream,
    trainer,
)


def test_a_run_leaves_a_curve_a_matrix_and_the_updates() -> None:
    run = trainer()
    run.run()
    assert (run.step, run.tokens) == (12, 12 * TOKENS)
    # Before the first step, every third step of a stage, and the last of each.
    assert [(p["step"], p["stage"], p["tokens"]) for p in run.curve] == [
        (step, stage, step * TOKENS) for step, stage in ((0, 0), (3, 0), (6, 0), (7, 0), (10, 1), (12, 1))
    ]
    assert all(list(p["bits_per_byte"]) == ["en", "fr"] for p in run.curve)
    by_step = {p["step"]: list(p["bits_per_byte"].values()) for p in run.curve}
    assert run.matrix == [by_step[7], by_step[12]]
    assert run.updates == {
        "fast": [n * TOKENS for n in (2, 4, 6, 8, 10, 12)],
        "slow": [n * TOKENS for n in (6, 12)],
    }
    assert run.seconds >= 0 < run.cpu_seconds


def test_it_learns_what_it_is_shown() -> None:
    run = trainer(config=stream(30, 30))
    run.run()
    first, last = run.curve[0]["bits_per_byte"], run.curve[-1]["bits_per_byte"]
    assert run.matrix[0][0] < 0.5 * first["en"]
    assert last["fr"] < 0.5 * first["fr"]


def test_it_is_the_plain_loop_written_out() -> None:
    """AdamW, batches, loss, learning rate and evaluation by hand."""
    config = stream()

    def build() -> Any:
        return tiny_model(mixer="attention", vocab_size=VOCABULARY)

    model = build()
    levels = [Level("all", TOKENS, lr=1e-2, max_grad_norm=1.0)]
    run = StreamTrainer(model, Nested(levels, model), DATA, TOKEN_BYTES, config)
    run.run()

    reference = build().train()
    adamw = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(12):
        stage, inside = config.locate(step)
        sampler = BatchSampler(
            DATA[config.stages[stage].language].train,
            batch_size=2,
            context=8,
            seed=1000 * config.seed + stage,
        )
        adamw.param_groups[0]["lr"] = 1e-2 * config.lr_factor(step)
        batch = sampler.batch(inside)
        F.cross_entropy(reference(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
    assert difference(dict(reference.state_dict()), dict(model.state_dict())) is None
    windows = evaluation_windows(DATA["fr"].test, context=8, limit=3)
    assert run.matrix[-1][1] == bits_per_byte(reference, windows, TOKEN_BYTES)


@pytest.mark.parametrize("kind", ["plain", "consolidating", "nested"])
def test_two_runs_are_equal_and_the_seed_matters(kind: str) -> None:
    runs = [trainer(kind), trainer(kind), trainer(kind, stream(seed=1))]
    for run in runs:
        run.run()
    assert difference(outcome(runs[0]), outcome(runs[1])) is None
    assert runs[0].curve[-1] != runs[2].curve[-1]


def test_a_change_of_language_is_a_surprise() -> None:
    """End to end: at the switch the loss rises to the twenty-fold."""
    losses: list[float] = []
    run = trainer("ordinary", stream(40, 5), on_event=lambda e: losses.append(e.get("loss", 0.0)))
    run.run()
    assert run.optimizer.surprises == [40 * TOKENS], [round(loss, 2) for loss in losses if loss]


def test_everything_is_written_down_as_it_happens(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run = trainer("consolidating", stream(40, 5), tmp_path, on_event=events.append)
    run.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == events
    steps = [event for event in lines if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 46))
    assert [event["tokens"] for event in steps] == [TOKENS * n for n in range(1, 46)]
    assert [event["language"] for event in steps] == ["en"] * 40 + ["fr"] * 5
    assert [event["due"] for event in steps[:6]] == [[], ["fast"], [], ["fast"], [], ["fast", "slow"]]
    assert [event["step"] for event in steps if event["surprised"]] == [41]
    evaluations = [event for event in lines if event["event"] == "evaluation"]
    assert [{k: v for k, v in e.items() if k != "event"} for e in evaluations] == run.curve


def test_evaluation_leaves_training_as_it_was() -> None:
    runs = [trainer("consolidating", stream(evaluate_every=every)) for every in (1, 100)]
    for run in runs:
        run.run()
    assert difference(*(dict(run.model.state_dict()) for run in runs)) is None
    assert difference(*(run.optimizer.state_dict() for run in runs)) is None


def test_stages_are_announced_when_they_end() -> None:
    run, ended = trainer(), []
    run.run(after_stage=lambda stage: ended.append((stage, run.step, len(run.matrix))))
    assert ended == [(0, 7, 1), (1, 12, 2)]


def test_a_language_may_come_twice() -> None:
    from nestlearn.training import Stage, StreamConfig

    stages = (Stage("en", 2), Stage("fr", 2), Stage("en", 2))
    run = trainer(config=StreamConfig(stages, batch_size=2, context=8, evaluation_windows=2))
    run.run()
    assert run.languages == ["en", "fr"]
    assert [len(row) for row in run.matrix] == [2, 2, 2]


def test_the_split_is_the_one_asked_for() -> None:
    changed = {name: type(d)(d.language, d.train, d.validation.flip(0), d.test) for name, d in DATA.items()}
    figures = []
    for split in ("test", "validation"):
        model = tiny_model(mixer="attention", vocab_size=VOCABULARY)
        run = StreamTrainer(
            model, Nested([Level("all", 16)], model), changed, TOKEN_BYTES, stream(), split=split
        )
        run.run(until=1)
        figures.append(run.curve[0]["bits_per_byte"])
    assert figures[0] != figures[1]


@pytest.mark.parametrize("split", ["dev", "train2", ""])
def test_an_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match="split"):
        trainer(split=split)


def test_a_language_without_data_is_refused() -> None:
    model = tiny_model(mixer="attention", vocab_size=VOCABULARY)
    with pytest.raises(ValueError, match=r"no data for fr; there is en"):
        StreamTrainer(model, Nested([Level("all", 16)], model), {"en": DATA["en"]}, TOKEN_BYTES, stream())


# Stopping ---------------------------------------------------------------------------------------------------


def test_a_stop_saves_and_raises(tmp_path: Path) -> None:
    stop = threading.Event()
    run = trainer(run_dir=tmp_path, on_event=lambda e: stop.set() if e.get("step") == 5 else None)
    with pytest.raises(Interrupted, match="step 5"):
        run.run(stop=stop)
    assert run.step == 5
    assert load_tree(tmp_path / "checkpoint.safetensors")["step"] == 5


def test_a_stop_before_the_start_still_leaves_a_checkpoint(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    run = trainer(run_dir=tmp_path)
    with pytest.raises(Interrupted):
        run.run(stop=stop)
    assert load_tree(tmp_path / "checkpoint.safetensors")["step"] == run.step <= 1


def test_a_stop_in_the_last_step_is_an_end(tmp_path: Path) -> None:
    stop = threading.Event()
    run = trainer(run_dir=tmp_path, on_event=lambda e: stop.set() if e.get("step") == 12 else None)
    run.run(stop=stop)
    assert len(run.matrix) == 2


@pytest.mark.parametrize(("every", "expected"), [(0, [12]), (5, [5, 10, 12]), (1, list(range(1, 13)))])
def test_checkpoints_are_written_when_asked(
    every: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    run = trainer(config=stream(checkpoint_every=every), run_dir=tmp_path)
    monkeypatch.setattr(run, "save", lambda: saved.append(run.step))
    run.run()
    assert saved == expected


def test_until_stops_and_a_second_call_goes_on() -> None:
    whole, parts = trainer(), trainer()
    whole.run()
    for until in (1, 4, 4, 7, 99):
        parts.run(until=until)
        assert parts.step == min(until, 12)
    assert difference(outcome(whole), outcome(parts)) is None
    parts.run()  # nothing is left to do
    assert difference(outcome(whole), outcome(parts)) is None


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = trainer()
    assert run.resume() is False
    run.run()
    assert list(tmp_path.iterdir()) == []


# Failing ----------------------------------------------------------------------------------------------------


def explode() -> None:
    raise RuntimeError("the machine is on fire")


@pytest.mark.parametrize("kind", ["plain", "consolidating"])
@pytest.mark.parametrize("failure", ["nan", "exception"])
def test_a_failure_leaves_the_last_checkpoint_usable(kind: str, failure: str, tmp_path: Path) -> None:
    config = stream(checkpoint_every=3)
    whole = trainer(kind, config)
    whole.run()
    run = trainer(kind, config, tmp_path)
    poison(run.model, at=8, fail=explode if failure == "exception" else None)
    state = {}
    with pytest.raises(NonFiniteGradientError if failure == "nan" else RuntimeError, match=r"NaN|fire"):
        run.run(after_stage=lambda _: state.update(outcome(run)["model"]))
    if failure == "nan":  # parameters are as they were after step 7
        assert difference(state, outcome(run)["model"]) is None
    again = trainer(kind, config, tmp_path, seed=3)
    assert again.resume()
    assert again.step == 6
    again.run()
    assert difference(outcome(whole), outcome(again)) is None


def test_a_failing_listener_leaves_the_last_checkpoint_usable(tmp_path: Path) -> None:
    def listen(event: dict[str, Any]) -> None:
        if event.get("step") == 8:
            explode()

    config = stream(checkpoint_every=3)
    run = trainer(config=config, run_dir=tmp_path, on_event=listen)
    with pytest.raises(RuntimeError, match="fire"):
        run.run()
    again = trainer(config=config, run_dir=tmp_path)
    again.resume()
    again.run()
    whole = trainer(config=config, run_dir=tmp_path / "whole")
    whole.run()
    assert difference(outcome(whole), outcome(again)) is None
    assert metrics(tmp_path) == metrics(tmp_path / "whole")


def test_a_full_disk_leaves_the_last_checkpoint_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(config=stream(checkpoint_every=3), run_dir=tmp_path)
    run.run(until=3)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("nestlearn.training.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space"):
        run.run()
    monkeypatch.undo()
    again = trainer(config=stream(checkpoint_every=3), run_dir=tmp_path)
    assert again.resume()
    assert again.step == 3


# Refusing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": stream(8, 5)}, "another stream"),
        ({"config": stream(seed=1)}, "another stream"),
        ({"split": "validation"}, "another split"),
        ({"identity": {"model": "b"}}, "another model"),
        ({"identity": {"model": "a", "levels": 2}}, "another levels"),
        ({"identity": None}, "another model"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    run = trainer(run_dir=tmp_path, identity={"model": "a"})
    run.run(until=3)
    other = trainer(run_dir=tmp_path, **{"identity": {"model": "a"}, **changes})
    before = outcome(other)
    with pytest.raises(CheckpointError, match=words) as caught:
        other.resume()
    assert "\n" not in str(caught.value)
    assert difference(before, outcome(other)) is None


@pytest.mark.parametrize("kind", ["hope", "consolidating"])
def test_a_checkpoint_of_another_system_is_refused(kind: str, tmp_path: Path) -> None:
    """Also where nobody said so with ``identity``: another model, other levels."""
    trainer("plain", run_dir=tmp_path).run(until=3)
    other = trainer(kind, run_dir=tmp_path)
    with pytest.raises(CheckpointError) as caught:
        other.resume()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused_and_nothing_changes(share: float, tmp_path: Path) -> None:
    trainer(run_dir=tmp_path).run(until=3)
    path, log = tmp_path / "checkpoint.safetensors", (tmp_path / "metrics.jsonl").read_text()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    other = trainer(run_dir=tmp_path)
    before = outcome(other)
    with pytest.raises(CheckpointError, match="damaged"):
        other.resume()
    assert difference(before, outcome(other)) is None
    assert (tmp_path / "metrics.jsonl").read_text() == log


def test_a_checkpoint_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    from nestlearn.training import save_tree

    for tree in ({"weights": torch.zeros(3)}, [1, 2], "text", {"identity": "{"}):
        save_tree(tmp_path / "checkpoint.safetensors", tree)
        with pytest.raises(CheckpointError):
            trainer(run_dir=tmp_path).resume()
