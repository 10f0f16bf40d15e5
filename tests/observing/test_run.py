"""Runs in folders: written by an observer or a trainer, read by reports."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import nestlearn as nl
from nestlearn.observing import RunFolder, read_run, read_system
from nestlearn.reporting.system.document import check_run, check_system
from tests.training.streams import trainer as make_trainer


def observed(folder, steps=6, **settings):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.observe(model, optimizer, folder, tokens_per_step=8, **settings) as run:
        for step in range(steps):
            run.stage("first" if step < 3 else "second")
            loss = model(torch.ones(2, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss)
            if step % 2:
                run.evaluate({"first": 1.0 / (step + 1)}, measure="accuracy", lower_is_better=False)
    return run


def test_an_observed_loop(tmp_path):
    run = observed(tmp_path / "run", title="a run")
    assert (run.steps, run.tokens) == (6, 48)
    document = read_run(tmp_path / "run")
    assert document["title"] == "a run"
    assert document["finished"]
    assert document["end"] == 48
    assert document["stages"] == [
        {"name": "first", "start": 0, "end": 24},
        {"name": "second", "start": 24, "end": 48},
    ]
    assert document["levels"] == [{"name": "weights", "period": 8, "updates": [8, 16, 24, 32, 40, 48]}]
    (task,) = document["tasks"]
    assert task["points"] == [[16, 0.5], [32, 0.25], [48, pytest.approx(1 / 6)]]
    assert (task["measure"], task["lower_is_better"]) == ("accuracy", False)
    assert [at for at, _ in document["loss"]] == [8, 16, 24, 32, 40, 48]
    measures = document["diagnostics"]["weights"]
    assert [at for at, _ in measures["drift"]] == [8, 16, 24, 32, 40, 48]
    assert [at for at, _ in measures["agreement"]] == [32, 40, 48], "there is a context before from then on"
    system = read_system(tmp_path / "run")
    assert system is not None
    assert system.title == "Linear trained by SGD"
    check_run(document)
    check_system(system.to_json())


def test_a_folder_is_used_once(tmp_path):
    observed(tmp_path)
    with pytest.raises(ValueError, match="has a run already"):
        observed(tmp_path)


def test_an_interrupted_loop_is_not_finished(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt), nl.observe(model, optimizer, tmp_path) as run:
        run.step(1.0)
        raise KeyboardInterrupt
    assert not read_run(tmp_path)["finished"]
    assert read_run(tmp_path)["end"] == 1


def test_a_loss_that_is_not_finite_is_left_out(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.observe(model, optimizer, tmp_path) as run:
        run.step(float("nan"))
        run.step(1.0)
    assert read_run(tmp_path)["loss"] == [[2, 1.0]]


def test_the_nested_clock_tells_positions_and_contexts(tmp_path):
    model = nn.Linear(3, 1)
    optimizer = nl.optim.Nested([nl.Level("all", 4, consolidate=True)], model, tokens_per_step=4)
    with nl.observe(model, optimizer, tmp_path) as run:
        for step in range(6):
            if step == 3:
                optimizer.commit()
            loss = model(torch.randn(4, 3)).square().mean()
            loss.backward()
            optimizer.step(surprise=loss)
            run.step(loss)
    document = read_run(tmp_path)
    assert document["levels"][0] == {"name": "all", "period": 4, "updates": [4, 8, 12, 16, 20, 24]}
    assert document["surprises"] == [16]
    assert len(document["diagnostics"]["all"]["fill"]) == 1


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    observed(tmp_path)
    file = tmp_path / "metrics.jsonl"
    whole = read_run(tmp_path)
    file.write_text(file.read_text(encoding="utf-8") + '{"event": "ste', encoding="utf-8")
    assert read_run(tmp_path) == whole


@pytest.mark.parametrize("line", ["[1]", "{", '{"tokens": 1}', '{"event": "step"}'])
def test_damaged_events_are_named(tmp_path, line):
    observed(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match="event"):
        read_run(tmp_path)


def test_unknown_events_are_passed_over(tmp_path):
    observed(tmp_path)
    whole = read_run(tmp_path)
    RunFolder(tmp_path).write({"event": "coffee"})
    assert read_run(tmp_path) == whole


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"has no metrics\.jsonl"):
        read_run(tmp_path)
    assert read_system(tmp_path) is None


def test_a_trainers_run(tmp_path):
    trainer = make_trainer("ordinary", run_dir=tmp_path / "run", diagnose=True)
    trainer.run()
    document = read_run(tmp_path / "run")
    assert document["finished"]
    assert document["end"] == trainer.tokens
    assert {level["name"]: level["updates"] for level in document["levels"]} == trainer.updates
    assert [task["name"] for task in document["tasks"]] == trainer.languages
    assert document["tasks"][0]["points"][-1][1] == trainer.curve[-1]["bits_per_byte"][trainer.languages[0]]
    assert [stage["name"] for stage in document["stages"]] == [s.language for s in trainer.config.stages]
    assert set(document["diagnostics"]) == set(trainer.updates)
    assert json.dumps(document)
    check_run(document)


def test_diagnostics_of_a_trainer_resume_to_the_bit(tmp_path):
    whole = make_trainer("consolidating", run_dir=tmp_path / "whole", diagnose=True)
    whole.run()
    part = make_trainer("consolidating", run_dir=tmp_path / "part", diagnose=True)
    part.run(until=whole.config.total_steps // 2)
    again = make_trainer("consolidating", run_dir=tmp_path / "part", diagnose=True)
    assert again.resume()
    again.run()
    one, two = read_run(tmp_path / "whole"), read_run(tmp_path / "part")
    assert {**one, "title": ""} == {**two, "title": ""}
