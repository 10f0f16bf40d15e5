"""Cells and searches: what they see, that they repeat, and what their keys tell apart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from nestlearn.bench import cells, page
from nestlearn.bench.base import FRESH, JOINT
from nestlearn.bench.cells import SEARCH_SEED, Cell, Search, execute
from nestlearn.bench.classification import stream as module
from nestlearn.bench.classification.methods import METHODS
from nestlearn.bench.classification.stream import ClassificationStream, Setup, learn, together, width
from nestlearn.bench.streams import STREAMS
from nestlearn.streams import DataError
from nestlearn.streams.tasks import SCENARIOS
from tests.bench.made import CLASSES, SIZE, clouds, small, stream, thirds

__all__ = ["stream"]
FIRST = {
    name: {key: values[len(values) // 2] for key, values in entry.space.items()}
    for name, entry in METHODS.items()
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fills_a_cell_that_repeats(method: str, stream: ClassificationStream) -> None:
    own = Cell(stream.name, method, 0, FIRST[method])
    first, again = execute(own), execute(own)
    assert 0.0 < first["accuracy"] <= 1.0
    json.dumps(first)
    del first["seconds"], again["seconds"]
    assert first == again
    if method != JOINT:
        assert len(first["matrix"]) == 3 and first["learned"] > 0.3


def test_the_search_sees_validation_examples_of_two_tasks(
    stream: ClassificationStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, str]] = []

    def watched(*args: Any, **settings: Any) -> Any:
        _, _, tasks, _, seed, split, *_ = args
        seen.append((len(tasks), seed, split))
        return learn(*args, **settings)

    monkeypatch.setattr(module, "learn", watched)
    record = execute(Search(stream.name, "levels"))
    assert set(seen) == {(2, SEARCH_SEED, "validation")}
    assert len(seen) == len(record["trials"]) == 3
    best = max(record["trials"], key=lambda trial: trial["accuracy"])
    assert record["best"] in [t["settings"] for t in record["trials"] if t["accuracy"] == best["accuracy"]]


def test_a_small_space_is_searched_whole(
    stream: ClassificationStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "STREAMS", {"small": small(trials=12)})
    record = execute(Search("small", "ordinary"))
    tried = [trial["settings"]["lr"] for trial in record["trials"]]
    assert sorted(tried) == sorted(METHODS["ordinary"].space["lr"])


def test_a_single_setting_is_taken_without_a_trial(
    stream: ClassificationStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {**METHODS, "ordinary": replace(METHODS["ordinary"], space={"lr": (1e-3,)})}
    monkeypatch.setattr(cells, "STREAMS", {"small": small(table=table)})
    record = execute(Search("small", "ordinary"))
    assert record == {"best": {"lr": 1e-3}, "trials": [], "seconds": 0.0}


def test_a_search_repeats(stream: ClassificationStream) -> None:
    first, again = (execute(Search(stream.name, "exact head")) for _ in range(2))
    assert (first["best"], first["trials"]) == (again["best"], again["trials"])


def test_what_diverges_is_the_worst(stream: ClassificationStream, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = METHODS["ordinary"]
    space = {"lr": (1e-3, 1e25)}
    table = {**METHODS, "ordinary": replace(entry, space=space)}
    monkeypatch.setattr(cells, "STREAMS", {"small": small(table=table)})
    record = execute(Search(stream.name, "ordinary"))
    failed = [trial for trial in record["trials"] if "failed" in trial]
    assert [trial["settings"]["lr"] for trial in failed] == [1e25]
    assert failed[0]["accuracy"] == 0.0 and record["best"] == {"lr": 1e-3}


def test_text_that_is_missing_is_no_divergence(
    stream: ClassificationStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(data: str) -> Any:
        raise DataError(f"{data} is not there")

    monkeypatch.setattr(cells, "STREAMS", {"small": small(load=missing)})
    with pytest.raises(DataError, match="clouds is not there"):
        execute(Search(stream.name, "ordinary"))


def test_a_stream_can_have_all_its_tasks_searched(
    stream: ClassificationStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()

    def watched(*args: Any, **settings: Any) -> Any:
        seen.add(len(args[2]))
        return learn(*args, **settings)

    monkeypatch.setattr(module, "learn", watched)
    own = Search(stream.name, "ordinary")
    usual = own.key
    monkeypatch.setattr(cells, "STREAMS", {"small": small(searched_tasks=3)})
    execute(own)
    assert seen == {3}
    assert own.key != usual
    assert "chosen on validation examples of 3 tasks" in page.section(small(searched_tasks=3), [], [])
    assert "chosen on" not in page.section(small(), [], [])


def test_keys_tell_apart_what_decides_a_result(
    stream: ClassificationStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        Cell(stream.name, "ordinary", 0, {"lr": 0.1}).key,
        Cell(stream.name, "ordinary", 1, {"lr": 0.1}).key,
        Cell(stream.name, "ordinary", 0, {"lr": 0.2}).key,
        Cell(stream.name, "ewc", 0, {"lr": 0.1}).key,
        Search(stream.name, "ordinary").key,
        Search(stream.name, "ewc").key,
    }
    for change in ({"epochs": 5}, {"hidden": (3,)}, {"scenario": "task"}, {"batch_size": 4}):
        changed = {stream.name: small(**change)}
        monkeypatch.setattr(cells, "STREAMS", changed)
        keys |= {Search(stream.name, "ordinary").key, Cell(stream.name, "ordinary", 0, {"lr": 0.1}).key}
    assert len(keys) == 6 + 2 * 4
    table = {**METHODS, "ordinary": replace(METHODS["ordinary"], revision=1)}
    monkeypatch.setattr(cells, "STREAMS", {stream.name: small(table=table)})
    keys |= {Search(stream.name, "ordinary").key, Cell(stream.name, "ordinary", 0, {"lr": 0.1}).key}
    assert len(keys) == 6 + 2 * 4 + 2
    monkeypatch.setattr(cells, "STREAMS", {stream.name: small(title="another", seeds=9)})
    assert Search(stream.name, "ordinary").key in keys  # what it is called decides nothing


def test_networks_of_a_seed_are_the_same_and_leave_the_generator_alone(stream: ClassificationStream) -> None:
    tasks = stream.tasks(0)
    before = torch.random.get_rng_state()
    first, again, other = (stream.network(tasks, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert width(tasks) == SIZE and first[-1].out_features == CLASSES
    assert stream.network(tasks[:2], 0)[-1].out_features == 4  # nothing is known of later tasks


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_tasks_together_have_the_labels_of_the_scenario(scenario: str) -> None:
    tasks = thirds(clouds(), 0)
    whole = together(tasks, scenario).splits["train"]
    expected = torch.cat([task.labels(task.splits["train"].classes, scenario) for task in tasks])
    assert torch.equal(whole.classes, expected)
    assert len(whole) == sum(len(task.splits["train"]) for task in tasks)


def test_joint_training_is_tested_task_by_task(stream: ClassificationStream) -> None:
    record = execute(Cell(stream.name, JOINT, 0, {"lr": 3e-3}))
    assert len(record["matrix"]) == 1 and len(record["matrix"][0]) == 3
    assert record["accuracy"] > 0.8
    assert "forgetting" not in record


def test_stores_have_a_share_of_the_bytes(stream: ClassificationStream) -> None:
    tasks = stream.tasks(0)
    total = sum(task.splits["train"].inputs.numel() * 4 for task in tasks)
    for method, share in (("replay, 5 %", 0.05), ("replay, 20 %", 0.2), ("der++, 5 %", 0.05)):
        made = METHODS[method].make(Setup(stream, tasks, 0), FIRST[method])
        assert made.store.size == int(share * total)  # type: ignore[attr-defined]


def test_in_the_task_scenario_methods_are_told_of_tasks() -> None:
    own = small(scenario="task")
    method, _ = learn(own, METHODS["ordinary"], thirds(clouds(), 0), {"lr": 3e-3}, 0, "test")
    assert method.among is not None
    assert method.among.sum(1).tolist() == [2] * CLASSES


def test_the_streams_of_the_benchmark() -> None:
    for name, own in STREAMS.items():
        assert own.name == name
        assert set(own.published) <= set(METHODS)
        assert not isinstance(own, ClassificationStream) or own.scenario in SCENARIOS
        assert "ordinary" in own.entries and {JOINT, FRESH} & set(own.entries)
        assert all(own.left_out.values()) and not set(own.left_out) & set(own.entries)
    assert len({json.dumps(own.settings) for own in STREAMS.values()}) == len(STREAMS)
    assert {JOINT, FRESH} <= set(METHODS)
