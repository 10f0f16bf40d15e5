"""Streams of text: the same batches and beginnings for all, nothing old but by replay, equal records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.bench.base import JOINT
from nestlearn.bench.language import start
from nestlearn.bench.language import stream as module
from nestlearn.bench.language.context import InContext
from nestlearn.bench.language.material import substitution
from nestlearn.bench.language.methods import METHODS, TaskElasticWeights, TaskReplay
from nestlearn.bench.language.start import learned_first
from nestlearn.bench.language.stream import LanguageStream, batches, first_text, later_text, learn
from nestlearn.continual.methods import FineTuning, Levels
from nestlearn.streams import DataError
from tests.bench.language.made import TASKS, small, stream

__all__ = ["stream"]
MIDDLE = {
    name: {key: values[len(values) // 2] for key, values in entry.space.items()}
    for name, entry in METHODS.items()
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_fills_a_cell_that_repeats(method: str, stream: LanguageStream) -> None:
    first, again = (stream.run(method, MIDDLE[method], 0) for _ in range(2))
    json.dumps(first)
    del first["seconds"], again["seconds"]
    assert first == again
    assert first["bits"] > 0.0 and len(first["matrix"]) == 3
    assert ("learned" in first) is (method != JOINT)
    assert first["curve"][0][:2] == [0, 0] and first["curve"][-1][:2] == [2, 2 * 4 * 2 * 16]


def test_all_methods_meet_the_same_batches_once(stream: LanguageStream) -> None:
    found = list(batches(stream, "ordinary", TASKS, 0))
    assert [stage for stage, _, _ in found] == [1] * 4 + [2] * 4
    assert [ends for _, _, ends in found] == [False, False, False, True] * 2
    for stage, task in ((1, "def"), (2, "ghi")):
        own = torch.cat([batch for at, batch, _ in found if at == stage])
        assert sorted(map(tuple, own.tolist())) == sorted(map(tuple, later_text(stream, task, 0).tolist()))
    again = list(batches(stream, "levels", TASKS, 0))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(found, again, strict=True))
    other = list(batches(stream, "ordinary", TASKS, 1))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(found, other, strict=True))


def test_joint_training_has_as_many_windows_of_all_tasks(stream: LanguageStream) -> None:
    found = torch.cat([batch for _, batch, _ in batches(stream, JOINT, TASKS, 0)])
    assert len(found) == 2 * 4 * 2
    known = {task: set(map(tuple, later_text(stream, task, 0).tolist())) for task in TASKS[1:]}
    known["abc"] = set(map(tuple, first_text(stream, "abc", 0).tolist()))
    for task in TASKS:
        assert any(tuple(row) in known[task] for row in found.tolist())


def test_drift_is_a_rising_share_of_the_second_text(stream: LanguageStream) -> None:
    own = small(blend=True, steps=8)
    later = set(map(tuple, later_text(own, "def", 0).tolist()))
    new = [
        sum(tuple(row) in later for row in batch.tolist())
        for _, batch, _ in batches(own, "ordinary", TASKS[:2], 0)
    ]
    assert len(new) == 8 and 0 < sum(new) < 16
    assert sum(new[:4]) < sum(new[4:])
    assert [ends for _, _, ends in batches(own, "ordinary", TASKS[:2], 0)] == [False] * 7 + [True]


def test_the_beginning_is_kept_and_the_same_when_made_again(stream: LanguageStream, tmp_path: Path) -> None:
    text = first_text(stream, "abc", 0)
    first = learned_first(text, 300, 4, 0)
    (kept,) = (tmp_path / "cache").glob("bench-start-*.safetensors")
    content = kept.read_bytes()
    loaded = learned_first(text, 300, 4, 0)
    for name, value in first.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    kept.unlink()
    learned_first(text, 300, 4, 0)
    assert kept.read_bytes() == content
    kept.write_bytes(content[:100])
    with pytest.raises(DataError, match="damaged"):
        learned_first(text, 300, 4, 0)
    untrained = start.new_model(300, 0)
    assert not torch.equal(next(untrained.parameters()), next(first.parameters()))


def test_the_search_sees_validation_text_of_its_tasks(
    stream: LanguageStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def watched(own: Any, entry: Any, tasks: Any, settings: Any, seed: int, split: str) -> Any:
        seen.append((tuple(tasks), split))
        return learn(own, entry, tasks, settings, seed, split)

    monkeypatch.setattr(module, "learn", watched)
    value = stream.trial("ordinary", {"lr": 1e-3}, 1000, 2)
    assert seen == [(TASKS[:2], "validation")] and value < 0.0


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if not entry.told])
def test_what_is_not_told_sees_new_text_alone(
    method: str, stream: LanguageStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Tensor] = []
    for kind in (FineTuning, Levels, InContext):
        inner = kind.step

        def step(self: Any, batch: Tensor, inner: Any = inner) -> float:
            read.append(batch)
            return inner(self, batch)

        monkeypatch.setattr(kind, "step", step)
    learn(stream, METHODS[method], TASKS, MIDDLE[method], 0, "test")
    given = [batch for _, batch, _ in batches(stream, method, TASKS, 0)]
    read = [batch for place, batch in enumerate(read) if place == 0 or batch is not read[place - 1]]
    assert len(read) == len(given)
    assert all(torch.equal(got, wanted) for got, wanted in zip(read, given, strict=True))


def test_importances_add_up_and_the_anchor_moves(stream: LanguageStream) -> None:
    method, _, _ = learn(stream, METHODS["ewc"], TASKS, {"lr": 1e-3, "strength": 1e2}, 0, "test")
    assert isinstance(method, TaskElasticWeights)
    before = {name: value.clone() for name, value in method.fisher.items()}
    own = [first_text(stream, "abc", 0)[:2]]
    method.end_task(own, 5)
    assert all(bool((method.fisher[name] >= before[name]).all()) for name in before)
    assert all(torch.equal(method.start[name], part.own) for name, part in method.parts.items())


def test_the_store_is_shared_by_the_finished_tasks() -> None:
    method = TaskReplay(1e-3, store_bytes=100, seed=0)
    windows = torch.arange(5 * 40).view(40, 5)
    method.store = list(windows[:10])
    method.end_task([windows[10:16], windows[16:22]], 0)
    assert [len(share) for share in method.shares] == [5, 5] and len(method.store) == 10
    method.end_task([windows[22:40]], 0)
    assert [len(share) for share in method.shares] == [3, 3, 3]
    assert torch.equal(method.shares[2][0], windows[22])


def test_matched_acquisition_by_hand(stream: LanguageStream) -> None:
    """Ours ends the second task at 2.0; ordinary learning passes 2.0 half-way, where it has lost 0.5."""
    ours = {"learned": 2.0, "curve": [[0, 0, 1.0, 3.0], [1, 10, 1.1, 2.0]]}
    ordinary = {"learned": 2.0, "curve": [[0, 0, 1.0, 3.0], [1, 10, 2.0, 1.0]]}
    own = small(blend=False)
    found = _two_tasks(own).against(ours, ordinary)
    assert found == {"matched": pytest.approx(0.1), "ratio": pytest.approx(0.2)}
    assert _two_tasks(own).against({"bits": 1.0}, ordinary) == {}  # joint training


def _two_tasks(own: LanguageStream) -> LanguageStream:
    object.__setattr__(own, "load_names", lambda: TASKS[:2])
    return own


def test_letters_are_exchanged_one_to_one() -> None:
    table = substitution(1)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    assert sorted(alphabet.translate(table)) == list(alphabet)
    assert "Où est l'hôtel?".translate(table).count("?") == 1
    assert alphabet.upper().translate(table) == alphabet.translate(table).upper()
    assert alphabet.translate(table) != alphabet.translate(substitution(2))


def test_settings_tell_apart_what_decides_a_result(
    stream: LanguageStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [own.settings for own in (stream, small(steps=5), small(blend=True), small(every=1))]
    monkeypatch.setattr(start, "SHAPE", {**start.SHAPE, "hidden_size": 32})
    found.append(stream.settings)
    monkeypatch.setattr(module, "CONTEXT", 8)
    found.append(stream.settings)
    assert len({json.dumps(own) for own in found}) == 6
    assert small(seeds=9, trials=5).settings == stream.settings  # how many there are decides nothing
