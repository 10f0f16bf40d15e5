"""A learner that is followed."""

from __future__ import annotations

import pytest

from nestlearn.continual.methods import FineTuning, Lora
from nestlearn.observing import read_run, read_system
from tests.continual.small import learner, texts


def test_a_learners_run(tmp_path):
    teacher = learner()
    report = teacher.learn(texts(12), run_dir=tmp_path)
    run, system = read_run(tmp_path), read_system(tmp_path)
    assert run["finished"]
    assert run["end"] == teacher.method.optimizer.clock.tokens
    assert [loss for _, loss in run["loss"]] == report.losses
    assert {level["name"]: len(level["updates"]) for level in run["levels"]} == teacher.method.updates
    assert set(run["diagnostics"]) == {"fast", "slow"}
    assert system is not None
    assert system["slow"].period == 64


@pytest.mark.parametrize("method", [FineTuning, Lora])
def test_other_methods_are_followed_too(tmp_path, method):
    teacher = learner(levels=None, method=method())
    teacher.learn(texts(4), run_dir=tmp_path)
    run = read_run(tmp_path)
    assert run["finished"]
    assert len(run["loss"]) > 1


def test_a_followed_learner_goes_on_as_if_nothing_had_happened(tmp_path):
    learner().learn(texts(12), run_dir=tmp_path / "whole")
    whole = read_run(tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def cut():
        yield from texts(12)[:8]
        raise StoppedError

    arguments = {"checkpoint": tmp_path / "c", "checkpoint_every": 3, "run_dir": tmp_path / "part"}
    with pytest.raises(StoppedError):
        learner().learn(cut(), **arguments)
    assert not read_run(tmp_path / "part")["finished"]
    learner().learn(texts(12), **arguments)
    assert {**read_run(tmp_path / "part"), "title": ""} == {**whole, "title": ""}


def test_a_used_folder_is_refused_before_anything_is_learned(tmp_path):
    learner().learn(texts(4), run_dir=tmp_path)
    teacher = learner()
    with pytest.raises(ValueError, match="has a run already"):
        teacher.learn(texts(4), run_dir=tmp_path)
    assert teacher.method.updates == {"fast": 0, "slow": 0}
