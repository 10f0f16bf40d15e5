"""What is chosen by validation runs, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recipes._plan import Choice, Plan, criterion

from nestlearn.bench.store import Store
from nestlearn.streams.synthetic import Parity
from recipes import functional, self_modification
from tests.recipes.small import PARITY


def record(token: float, loss: float = 1.0) -> dict:
    return {"accuracy": {"4": {"token": token, "length": 4, "chance": 0.5}}, "loss": [loss]}


def test_the_best_rate_is_chosen_on_validation_and_used_on_test(suite, tmp_path):
    store = Store(tmp_path / "made.json")
    plan = Plan(suite, ["attention"], ["parity"], seeds=2, steps=None, rates=(1e-3, 2e-3, 4e-3))
    (first,) = plan.settings()
    assert plan.tuning(store) == [first]
    assert plan.best(store) == {}
    store.add(first, record(0.5))
    for tried, token in zip(plan.tuning(store)[1:], (0.9, 0.7), strict=True):
        assert (tried.split, tried.seed) == ("validation", 1000)
        assert tried.problem.steps == 1  # half of the task's
        assert list(tried.problem.evaluations) == ["4"]  # 9 is longer than the training
        store.add(tried, record(token))
    assert [(r.lr, r.seed, r.split) for r in plan.reported(store)] == [(2e-3, 0, "test"), (2e-3, 1, "test")]
    assert [r.problem for r in plan.reported(store)] == [PARITY, PARITY]


def test_settings_are_chosen_before_the_rate(suite, tmp_path):
    grid = ({"conv_size": 4}, {"conv_size": 0}, {"conv_size": 2})
    suite, store = replace(suite, grids={"gated": grid}), Store(tmp_path / "made.json")
    plan = Plan(suite, ["attention", "gated"], ["parity"], seeds=1, steps=None, rates=(1e-3, 2e-3))
    settings = plan.settings()
    assert [(r.mixer, r.lr, r.fields.get("conv_size")) for r in settings] == [
        ("attention", 1e-3, None), ("gated", 1e-3, 4), ("gated", 1e-3, 0), ("gated", 1e-3, 2)
    ]  # fmt: skip
    for tried, loss in zip(settings, (1.0, 0.8, 0.6, 0.7), strict=True):
        store.add(tried, record(0.5, loss))  # equal accuracy: the loss decides
    rates = plan.tuning(store)[1:2] + plan.tuning(store)[-1:]
    assert [(r.mixer, r.lr, r.fields.get("conv_size")) for r in rates] == [
        ("attention", 2e-3, None), ("gated", 2e-3, 0)
    ]  # fmt: skip
    assert len(plan.tuning(store)) == 2 + 4
    store.add(rates[0], record(0.6))
    store.add(rates[1], record(0.4))
    chosen = {"attention": Choice(2e-3), "gated": Choice(1e-3, {"conv_size": 0})}
    assert plan.best(store) == {(name, "parity"): choice for name, choice in chosen.items()}
    assert [r.fields.get("conv_size") for r in plan.reported(store)] == [None, 0]


def test_only_what_is_not_too_long_counts():
    accuracy = {"4": {"token": 0.75, "length": 4}, "9": {"token": 0.25, "length": 9}}
    assert criterion(PARITY, {"accuracy": accuracy}) == 0.75
    assert criterion(replace(PARITY, evaluations={"9": Parity(9)}), {"accuracy": accuracy}) == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": {"gate": ({},)}}, "Invalid grids: no mixer gate: there are attention, gated, odd"),
        ({"grids": {"gated": ()}}, "Invalid grids: an empty one"),
        ({"tuning_share": 0.0}, "Invalid tuning_share: 0.0"),
    ],
)
def test_a_suite_refuses_what_cannot_be_tuned(suite, change, message):
    with pytest.raises(ValueError, match=message):
        replace(suite, **change)


def test_no_entry_of_ours_has_more_trials_than_a_baseline():
    for recipe in (functional, self_modification):
        suite = recipe.SUITE
        trials = {name: len(suite.grid(name)) for name in suite.mixers}
        ours = [count for name, count in trials.items() if name.startswith("Hope")]
        assert max(ours) <= min(trials.values())
        for name, grid in suite.grids.items():
            for task in suite.problems:
                for settings in grid:
                    suite.run(name, task, Choice(1e-3, settings), 0).config()
