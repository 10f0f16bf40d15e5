"""Which levels are due does not depend on how the stream is cut into steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestlearn.levels import Clock, Level, crosses

PERIODS = st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True)


def clock_of(periods: list[int]) -> Clock:
    return Clock([Level(f"every {period}", period) for period in periods])


def boundaries(clock: Clock, steps: list[int]) -> dict[str, list[int]]:
    """Level -> the multiples of its period at which it was due."""
    found: dict[str, list[int]] = {level.name: [] for level in clock.levels}
    for tokens in steps:
        for level in clock.advance(tokens):
            found[level.name].append(clock.tokens // level.period)
    return found


@given(st.data(), PERIODS)
def test_the_same_boundaries_however_the_stream_is_cut(data: st.DataObject, periods: list[int]) -> None:
    """Every multiple of a period once, as long as no step is longer than the shortest period."""
    total = data.draw(st.integers(1, 150))
    found = []
    for _ in range(2):
        steps: list[int] = []
        while sum(steps) < total:
            steps.append(data.draw(st.integers(1, min(*periods, 40))))
        steps[-1] -= sum(steps) - total
        found.append(boundaries(clock_of(periods), [s for s in steps if s]))
    assert found[0] == found[1]
    assert found[0] == {f"every {p}": list(range(1, total // p + 1)) for p in sorted(periods)}


@given(st.lists(st.integers(1, 100), max_size=20), PERIODS)
def test_a_level_is_due_exactly_when_a_multiple_is_crossed(steps: list[int], periods: list[int]) -> None:
    clock, before = clock_of(periods), 0
    for tokens in steps:
        expected = [
            p for p in sorted(periods) if any(n % p == 0 for n in range(before + 1, before + tokens + 1))
        ]
        assert [level.period for level in clock.due(tokens)] == expected
        assert clock.tokens == before  # due() does not advance
        assert [level.period for level in clock.advance(tokens)] == expected
        before += tokens
        assert clock.tokens == before


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.data(), PERIODS)
def test_a_clock_goes_on_from_its_state(steps: list[int], data: st.DataObject, periods: list[int]) -> None:
    cut = data.draw(st.integers(0, len(steps)))
    whole, first, second = clock_of(periods), clock_of(periods), clock_of(periods)
    expected = [whole.advance(tokens) for tokens in steps]
    got = [first.advance(tokens) for tokens in steps[:cut]]
    second.load_state_dict(first.state_dict())
    got += [second.advance(tokens) for tokens in steps[cut:]]
    assert got == expected
    assert second.state_dict() == whole.state_dict()


@given(st.integers(0, 10**15), st.integers(1, 10**6), st.integers(1, 10**9))
def test_crossing_far_into_a_stream(before: int, tokens: int, period: int) -> None:
    next_multiple = (before // period + 1) * period
    assert crosses(before, before + tokens, period) == (next_multiple <= before + tokens)


def test_levels_are_ordered_fast_to_slow() -> None:
    clock = clock_of([32, 2, 8])
    assert [level.period for level in clock.levels] == [2, 8, 32]
    assert [level.period for level in clock.advance(32)] == [2, 8, 32]


def test_a_step_longer_than_a_period_makes_a_level_due_once() -> None:
    assert [level.period for level in clock_of([3]).advance(10)] == [3]


@pytest.mark.parametrize("tokens", [0, -1, 1.0, 2.5, True, False, "3", None, float("nan")], ids=str)
def test_a_step_of_no_whole_positive_number_is_refused(tokens: Any) -> None:
    clock = clock_of([4])
    for method in (clock.due, clock.advance):
        with pytest.raises(ValueError, match="tokens must be a whole number"):
            method(tokens)
    assert clock.tokens == 0


def test_levels_that_make_no_clock_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one level"):
        Clock([])
    with pytest.raises(ValueError, match=r"unique names.*same"):
        Clock([Level("same", 2), Level("same", 4)])


@pytest.mark.parametrize(
    "state", [{}, {"tokens": -1}, {"tokens": 1.5}, {"tokens": None}, {"tokens": True}], ids=str
)
def test_a_foreign_state_is_refused(state: Any) -> None:
    clock = clock_of([4])
    clock.advance(3)
    with pytest.raises(ValueError, match="tokens"):
        clock.load_state_dict(state)
    assert clock.tokens == 3
