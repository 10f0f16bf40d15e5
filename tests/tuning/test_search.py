"""The search with trials that cost nothing: its budget, its memory, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nestlearn.cli.tune import tokens, verdict
from nestlearn.levels import Level
from nestlearn.optim import NonFiniteGradientError
from nestlearn.tuning import Search, TuningPlan, load_recipe, open_study, recipe_of, trials_of, write_recipe
from nestlearn.tuning.recipe import best_of, candidate_of
from nestlearn.tuning.search import STUDY, committed

PLAN = TuningPlan.quick(budget=16 * TuningPlan.quick().trial_tokens)


def bits(candidate) -> float:
    """A made-up landscape: best at a rate of 0.012 with protection."""
    return 2.0 + 10 * abs(candidate.lr - 0.012) + (0.0 if candidate.consolidate else 0.1)


def pretended(plan, candidate, evaluated, data_dir):
    """A trial that is evaluated as a real one is."""
    each = plan.trial_tokens // plan.evaluations
    for step in range(1, plan.evaluations + 1):
        value = bits(candidate) + (plan.evaluations - step)
        evaluated(step * each, {"en": value - 0.1, "fr": value + 0.1})


def search(folder: Path, plan: TuningPlan = PLAN, run_trial=pretended, **settings):
    return Search(folder, plan, workers=0, run_trial=run_trial, **settings)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    return search(tmp_path_factory.mktemp("search")).run()


def test_the_defaults_come_first_and_the_best_is_kept(trials):
    assert trials[0].settings == PLAN.defaults.settings()
    assert trials[0].state == "complete"
    best = best_of(trials)
    assert best.value == min(t.value for t in trials if t.value is not None)
    assert best.value == pytest.approx(bits(candidate_of(best.settings)))
    assert best.values == {"en": pytest.approx(best.value - 0.1), "fr": pytest.approx(best.value + 0.1)}


def test_the_budget_counts_all_tokens_and_is_kept(trials):
    spent = sum(trial.tokens for trial in trials)
    assert PLAN.budget - PLAN.trial_tokens < spent <= PLAN.budget
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert pruned, "some are worse than the median"
    assert all(0 < trial.tokens < PLAN.trial_tokens for trial in pruned)
    assert len(trials) >= PLAN.budget // PLAN.trial_tokens, "what pruning saves is spent"


def test_nothing_is_pruned_before_the_second_language(trials):
    assert all(t.tokens > PLAN.trial_tokens // 2 for t in trials if t.state == "pruned")


def test_a_search_goes_on_where_it_was_cut(tmp_path):
    calls = 0

    def cut(plan, candidate, evaluated, data_dir):
        nonlocal calls
        calls += 1
        if calls == 4:
            evaluated(plan.trial_tokens // plan.evaluations, {"en": 3.0, "fr": 3.0})
            raise KeyboardInterrupt
        pretended(plan, candidate, evaluated, data_dir)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, run_trial=cut).run()
    before = trials_of(search(tmp_path).study)
    assert [t.state for t in before[:4]] == ["complete", "complete", "complete", "failed"]
    trials = search(tmp_path).run()
    again = [t for t in trials[4:] if t.settings == before[3].settings]
    assert len(again) == 1, "what was under way is begun again"
    assert trials[:4] == before
    assert sum(t.tokens for t in trials) <= PLAN.budget


def test_the_same_search_goes_on_after_it_was_cut(tmp_path):
    cuts = iter([True])

    def cut_once(plan, candidate, evaluated, data_dir):
        if next(cuts, False):
            raise KeyboardInterrupt
        pretended(plan, candidate, evaluated, data_dir)

    one = search(tmp_path, run_trial=cut_once)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    trials = one.run()
    assert not any(trial.state == "running" for trial in trials)
    again = [t for t in trials if t.settings == PLAN.defaults.settings()]
    assert [t.state for t in again] == ["failed", "complete"]
    assert recipe_of(PLAN, trials)["evidence"]["defaults"]["value"] == again[1].value


def test_a_trial_that_was_cut_before_it_had_settings_gets_them(tmp_path):
    open_study(tmp_path, PLAN).ask()  # the defaults wait first, and their process ends here
    trials = search(tmp_path).run()
    assert any(t.settings == PLAN.defaults.settings() and t.state == "complete" for t in trials)


def test_a_trial_that_fails_does_not_end_the_search_but_three_do(tmp_path):
    def failing(plan, candidate, evaluated, data_dir):
        if candidate.lr > PLAN.defaults.lr:
            raise RuntimeError("boom")
        pretended(plan, candidate, evaluated, data_dir)

    trials = search(tmp_path / "one", run_trial=failing).run()
    assert trials[1].state == "failed"
    assert trials[2].state == "complete"

    def broken(plan, candidate, evaluated, data_dir):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        search(tmp_path / "all", run_trial=broken).run()
    assert [t.state for t in trials_of(open_study(tmp_path / "all", PLAN))] == ["failed"] * 3


def test_a_larger_budget_goes_on_and_a_finished_one_does_nothing(tmp_path):
    first = search(tmp_path).run()
    assert search(tmp_path).run() == first
    larger = search(tmp_path, replace(PLAN, budget=2 * PLAN.budget)).run()
    assert larger[: len(first)] == first
    assert len(larger) > len(first)


def test_another_configuration_is_refused(tmp_path):
    search(tmp_path)
    with pytest.raises(ValueError, match="a search with another seed, steps: go on with the same"):
        search(tmp_path, replace(PLAN, steps=64, seed=1))
    assert (tmp_path / STUDY).exists()


def test_a_trial_that_diverges_is_the_worst(tmp_path):
    def diverging(plan, candidate, evaluated, data_dir):
        if not candidate.consolidate:
            raise NonFiniteGradientError("NaN")
        pretended(plan, candidate, evaluated, data_dir)

    trials = search(tmp_path, run_trial=diverging).run()
    lost = [t for t in trials if not t.settings["consolidate"]]
    assert lost
    assert all(t.state == "diverged" and t.value is None and 0 < t.tokens < PLAN.trial_tokens for t in lost)


def test_trials_under_way_are_counted_as_if_they_were_finished(tmp_path):
    study = open_study(tmp_path, PLAN)
    assert committed(study, PLAN) == 0
    study.ask()
    assert committed(study, PLAN) == PLAN.trial_tokens


@pytest.mark.slow
def test_two_processes_share_a_budget(tmp_path):
    """Real processes; what they train is pretended."""
    done = Search(tmp_path, PLAN, workers=2, run_trial=pretended).run(every=0.1)
    assert sum(trial.tokens for trial in done) <= PLAN.budget
    assert len({trial.number for trial in done}) == len(done) > 5
    assert not any(trial.state == "running" for trial in done)


def test_a_recipe_has_the_levels_and_the_evidence(trials, tmp_path):
    write_recipe(tmp_path / "recipe.json", recipe_of(PLAN, trials))
    levels = load_recipe(tmp_path / "recipe.json")
    best = candidate_of(best_of(trials).settings)
    assert levels == best.levels(PLAN.tokens_per_step)
    assert all(isinstance(level, Level) for level in levels)
    evidence = json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))["evidence"]
    assert evidence["tokens"] == sum(trial.tokens for trial in trials)
    assert len(evidence["trials"]) == len(trials)
    assert evidence["defaults"]["value"] == trials[0].value
    assert evidence["plan"]["budget"] == PLAN.budget
    assert set(evidence["versions"]) == {"nestlearn", "torch", "optuna"}


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "x"}', '{"format": "nestlearn-levels-1"}'])
def test_bad_recipes_are_refused(tmp_path, content):
    (tmp_path / "r.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"r\.json"):
        load_recipe(tmp_path / "r.json")


def test_a_recipe_needs_a_trial(tmp_path):
    with pytest.raises(ValueError, match="no trial is complete"):
        recipe_of(PLAN, trials_of(open_study(tmp_path, PLAN)))


def test_a_picture_of_the_search(trials, tmp_path):
    from xml.etree import ElementTree

    from nestlearn.reporting.tuning import write_tuning_plot

    recipe = recipe_of(PLAN, trials)
    write_tuning_plot(recipe, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "validation bits per byte" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ("en",)}, "two different languages, got en"),
        ({"languages": ("en", "en")}, "two different languages"),
        ({"budget": 10}, "does not pay for one trial"),
        ({"steps": 4}, "too few for 4 evaluations"),
    ],
)
def test_bad_plans_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TuningPlan.quick(**changes)
    with pytest.raises(ValueError, match="workers must be 0 or more"):
        Search(Path("never"), PLAN, workers=-1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2000000", 2_000_000),
        ("2_000_000", 2_000_000),
        ("2M", 2_000_000),
        ("500k", 500_000),
        ("1.5m", 1_500_000),
    ],
)
def test_numbers_of_tokens(text, number):
    assert tokens(text) == number


@pytest.mark.parametrize("text", ["", "M", "many", "-5", "0", "nan", "inf"])
def test_what_is_no_number_of_tokens(text):
    with pytest.raises(ValueError, match="--budget is a number of tokens"):
        tokens(text)


def test_the_verdict_says_what_was_found(trials):
    assert "less, on the text that it was chosen on" in verdict(PLAN, trials)
    assert "Nothing better than the defaults" in verdict(PLAN, trials[:1])
    assert "were not tried to the end" in verdict(PLAN, [t for t in trials[1:] if t.value is not None])
