"""What a search keeps when it is cut, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
from filelock import FileLock
from rich.console import Console

import nestlearn as nl
from nestlearn.cli.tune import _table
from nestlearn.optim import NonFiniteGradientError
from nestlearn.tuning import Search, TuningPlan, load_recipe, open_study, recipe_of, trials_of, write_recipe
from nestlearn.tuning.recipe import FORMAT, candidate_of
from nestlearn.tuning.study import BUSY, committed
from tests.tuning.test_search import PLAN, pretended

EACH = PLAN.trial_tokens // PLAN.evaluations


def diverging(plan, candidate, evaluated, data_dir):
    """The defaults learn; whatever else is tried has no finite gradient from the first step on."""
    if candidate.settings() != plan.defaults.settings():
        raise NonFiniteGradientError("NaN")
    pretended(plan, candidate, evaluated, data_dir)


@pytest.fixture(scope="module")
def mostly_lost(tmp_path_factory):
    plan = replace(PLAN, budget=3 * PLAN.trial_tokens)
    return Search(tmp_path_factory.mktemp("lost"), plan, workers=0, run_trial=diverging).run()


def test_a_trial_that_was_cut_is_charged_for_what_it_may_have_read(tmp_path):
    study = open_study(tmp_path, PLAN)
    study.ask().set_user_attr("progress", {"tokens": EACH, "values": {}, "curve": []})
    study.ask().set_user_attr("progress", {"tokens": PLAN.trial_tokens, "values": {}, "curve": []})
    study.ask()
    again = open_study(tmp_path, PLAN)
    assert [t.tokens for t in trials_of(again)] == [2 * EACH, PLAN.trial_tokens, EACH]
    assert committed(again, PLAN) == 3 * EACH + PLAN.trial_tokens


def test_what_diverged_is_charged_and_told_apart(mostly_lost):
    assert [t.state for t in mostly_lost[:3]] == ["complete", "diverged", "diverged"]
    assert {t.tokens for t in mostly_lost[1:]} == {EACH}
    assert recipe_of(PLAN, mostly_lost)["evidence"]["best"]["trial"] == 0


def test_the_table_shows_a_search_in_which_nearly_all_diverged(mostly_lost):
    console = Console(file=StringIO(), width=120)
    console.print(_table(mostly_lost))
    text = console.file.getvalue()
    spent = sum(t.tokens for t in mostly_lost)
    assert f"1 complete, {len(mostly_lost) - 1} diverged; {spent:,} tokens" in text
    assert "/".join(map(str, PLAN.defaults.level_steps)) in text


def test_two_searches_in_one_folder_are_refused(tmp_path):
    """The second would take the trials of the first for abandoned ones."""
    search = Search(tmp_path, PLAN, workers=0, run_trial=pretended)
    search.study.ask()
    with FileLock(tmp_path / BUSY):
        for begin in (lambda: open_study(tmp_path, PLAN), search.run):
            with pytest.raises(ValueError, match="another process searches in"):
                begin()
    assert trials_of(search.study)[0].state == "running"


def test_a_study_that_was_cut_while_it_began_is_begun_again_once(tmp_path):
    study = open_study(tmp_path, PLAN)
    waiting = len(study.get_trials())
    study.set_user_attr("identity", None)
    assert len(open_study(tmp_path, PLAN).get_trials()) == waiting


def test_a_recipe_makes_the_model_and_the_levels(mostly_lost, tmp_path):
    write_recipe(tmp_path / "recipe.json", recipe_of(PLAN, mostly_lost))
    recipe = json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))
    candidate = candidate_of(recipe["evidence"]["best"]["settings"])
    config = nl.HopeConfig(**recipe["model"])
    wanted = candidate.model_config(PLAN.size, PLAN.size.vocab_size, PLAN.tokens_per_step)
    assert config.to_dict() == wanted.to_dict()
    levels = [nl.Level(**entry) for entry in recipe["levels"]]
    assert [level.period for level in levels] == list(config.cms_periods)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"], "nothing is left beside it"


@pytest.mark.parametrize(
    "levels", [[], None, ["fast"], [{"name": "fast"}], [{"name": "fast", "period": 0, "betas": [0.9, 0.95]}]]
)
def test_damaged_levels_are_refused_by_the_name_of_the_file(tmp_path, levels):
    (tmp_path / "r.json").write_text(json.dumps({"format": FORMAT, "levels": levels}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"r\.json has (no level|damaged levels)"):
        load_recipe(tmp_path / "r.json")


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_is_in_range(seed):
    with pytest.raises(ValueError, match="seed must be zero or more"):
        TuningPlan.quick(seed=seed)
