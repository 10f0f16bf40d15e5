"""Periods geometric in the stream's length."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nestlearn as nl
from nestlearn.continual.strategies import NESTED_STEPS
from nestlearn.tuning import Candidate, TuningPlan, default_levels, default_periods
from nestlearn.tuning.candidate import NAMES, UPDATES, neighbourhood


@given(st.integers(1, 100_000), st.integers(1, 4))
def test_periods_are_a_geometric_series_that_the_stream_pays_for(steps, count):
    periods = default_periods(steps, count)
    assert periods[0] == 1
    assert len(periods) <= count
    assert steps // periods[-1] >= min(UPDATES, steps), "the slowest level learns something in every context"
    ratios = {slow / fast for fast, slow in pairwise(periods)}
    assert len(ratios) <= 1
    assert all(ratio == int(ratio) >= 2 for ratio in ratios)


@given(st.integers(1, 50_000), st.integers(1, 4))
def test_a_longer_stream_never_has_shorter_periods(steps, count):
    assert default_periods(2 * steps, count)[-1] >= default_periods(steps, count)[-1]


def test_the_demos_stream_gets_the_demos_periods():
    assert default_periods(160) == NESTED_STEPS


def test_a_stream_that_is_too_short_has_fewer_levels():
    assert default_periods(7, 3) == (1,)
    assert default_periods(16, 3) == (1, 2)


@pytest.mark.parametrize(
    ("steps", "count", "message"), [(0, 3, "at least 1 step"), (9, 5, "1 to 4 levels"), (9, 0, "1 to 4")]
)
def test_bad_numbers_are_refused(steps, count, message):
    with pytest.raises(ValueError, match=message):
        default_periods(steps, count)


def test_levels_in_tokens():
    levels = default_levels(160_000, 1000, consolidate=False)
    assert [level.name for level in levels] == list(NAMES[3])
    assert [level.period for level in levels] == [1000, 4000, 16000]
    assert not any(level.consolidate for level in levels)
    nl.Clock(levels)
    with pytest.raises(ValueError, match="must fit into a context of 10 tokens"):
        default_levels(10, 11)


def test_a_search_begins_around_the_defaults():
    start = TuningPlan().defaults
    around = neighbourhood(start)
    assert around[0] == start
    own = start.settings()
    for other in around[1:]:
        theirs = other.settings()
        assert len([name for name in {*own, *theirs} if own.get(name) != theirs.get(name)]) in {1, 3}
    assert len({str(c.settings()) for c in around}) == len(around) == 14
    assert {len(c.level_steps) for c in around} == {2, 3, 4}
    assert all(len(c.level_steps) >= 1 for c in neighbourhood(Candidate(level_steps=(1,))))


@pytest.mark.parametrize("steps", [(1,), (1, 3), (1, 4, 16), (1, 2, 4, 8)])
def test_a_candidate_has_a_block_for_every_level(steps):
    plan = TuningPlan.quick()
    candidate = Candidate(level_steps=steps)
    levels = candidate.levels(plan.tokens_per_step)
    config = candidate.model_config(plan.size, 64, plan.tokens_per_step)
    assert [level.period for level in levels] == list(config.cms_periods)
    model = nl.HopeForCausalLM(config)
    nl.optim.Nested(levels, model)
    assert sum(config.cms_sizes()) == plan.size.intermediate_size
