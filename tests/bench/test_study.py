"""The study of levels, and streams whose tasks come again, blur, or are many."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nestlearn.bench.classification import stream as module
from nestlearn.bench.classification.stream import ClassificationStream, learn
from nestlearn.bench.classification.study import FIRST, LAST, SLOWEST, STUDY, make_levels, owner, periods
from nestlearn.continual.classification import Levels
from nestlearn.streams.tasks import Splits, Task, permuted
from tests.bench.made import clouds, small


def three(data: Splits, seed: int) -> list[Task]:
    return permuted(data, 3, seed)


def studied(**changes: Any) -> ClassificationStream:
    settings: dict[str, Any] = {
        "cut": three, "table": STUDY, "scenario": "domain", "hidden": (12, 12, 12), "epochs": 2,
        "every": 10**9,
    }  # fmt: skip
    return small("study", **{**settings, **changes})


@pytest.mark.parametrize("method", STUDY)
def test_every_method_of_the_study_learns(method: str) -> None:
    middle = {key: values[len(values) // 2] for key, values in STUDY[method].space.items()}
    record = studied().run(method, middle, 0)
    assert 0.0 < record["accuracy"] <= 1.0
    assert record == {**studied().run(method, middle, 0), "seconds": record["seconds"]}


def test_periods_are_geometric() -> None:
    assert periods(1, 64) == [1]
    assert [periods(levels, 64) for levels in (2, 3, 4)] == [[1, 64], [1, 8, 64], [1, 4, 16, 64]]
    for levels in (2, 3, 4):
        for slowest in SLOWEST:
            own = periods(levels, slowest)
            assert own == sorted(own) and own[0] == 1 and own[-1] == slowest


def test_every_level_owns_neighbouring_layers() -> None:
    def owners(levels: int, fastest: str) -> list[str]:
        assign = owner(levels, fastest)
        return [assign(f"{2 * layer}.weight", torch.nn.Parameter(torch.zeros(1))) for layer in range(4)]

    assert owners(1, FIRST) == owners(1, LAST) == ["0"] * 4
    assert owners(2, FIRST) == ["0", "0", "1", "1"] and owners(2, LAST) == ["1", "1", "0", "0"]
    assert owners(4, LAST) == ["3", "2", "1", "0"]
    assert set(owners(3, FIRST)) == {"0", "1", "2"}


def test_slow_layers_change_when_they_are_due() -> None:
    own = studied()
    tasks = own.tasks(0)
    made = make_levels(
        module.Setup(own, tasks, 0), {"lr": 0.1, "fastest": LAST}, levels=2, slowest=4, protect=False
    )
    assert isinstance(made, Levels)
    slow, fast = made.network[0].weight, made.network[6].weight  # type: ignore[index]
    changed = []
    for count, batch in enumerate(own.stream(tasks, 0), start=1):
        before = slow.detach().clone(), fast.detach().clone()
        made.learn(batch.inputs, batch.labels)
        assert not torch.equal(fast, before[1])
        changed.append(not torch.equal(slow, before[0]))
        if count == 8:
            break
    assert changed == [False, False, False, True] * 2


def test_tasks_that_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    own = small(visits=2)
    record = own.run("ordinary", {"lr": 1e-3}, 0)
    assert len(record["matrix"]) == 6 and "forgetting" not in record
    assert record["once"] == pytest.approx(sum(record["matrix"][2]) / 3, abs=1e-4)
    assert record["learned"] == pytest.approx(sum(record["matrix"][i][i] for i in range(3)) / 3, abs=1e-4)
    assert "once" in own.measures.columns and "once" not in small().measures.columns


def test_of_many_tasks_the_diagonal_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = studied().run("ordinary", {"lr": 1e-3}, 0)
    monkeypatch.setattr(module, "MATRIX_TASKS", 2)
    short = studied().run("ordinary", {"lr": 1e-3}, 0)
    assert short["by_task"] == [whole["matrix"][i][i] for i in range(3)] and "matrix" not in short
    assert short["forgetting"] == whole["forgetting"]


def test_settings_tell_apart_streams_that_blur_or_come_again() -> None:
    made = [small(), small(blur=0.5), small(visits=3)]
    assert len({str(own.settings) for own in made}) == 3
    assert "blurred over 50%" in made[1].described and "3 times in turn" in made[2].described


def test_blurred_batches_have_examples_of_both_tasks() -> None:
    own = small(blur=0.5)
    tasks = own.tasks(0)
    seen = [set(batch.labels.tolist()) for batch in own.stream(tasks, 0)]
    assert any({0, 1} & labels and {2, 3} & labels for labels in seen)
    assert not any({0, 1} & labels and {2, 3} & labels for labels in map(_labels, small().stream(tasks, 0)))


def _labels(batch: Any) -> set[int]:
    return set(batch.labels.tolist())


def test_joint_training_sees_as_many_rounds() -> None:
    _, once = learn(small(), small().entries["joint"], small().tasks(0), {"lr": 1e-3}, 0, "test")
    _, thrice = learn(small(visits=3), small().entries["joint"], small().tasks(0), {"lr": 1e-3}, 0, "test")
    assert thrice.operations == 3 * once.operations
    assert clouds()["train"].inputs.shape[0] == 144
