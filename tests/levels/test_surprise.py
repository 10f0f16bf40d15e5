"""Surprise tells a change of context from noise and from learning."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestlearn.levels import Surprise

SEEDS = st.integers(0, 2**32 - 1)


def noisy(seed: int, count: int, level: float = 2.0, spread: float = 0.02) -> list[float]:
    """A stationary loss with normal noise of ``spread`` of its level."""
    generator = random.Random(seed)
    return [level * (1.0 + spread * generator.gauss(0.0, 1.0)) for _ in range(count)]


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=60))
def test_never_on_losses_that_do_not_rise(losses: list[float]) -> None:
    surprise = Surprise()
    assert not any(surprise(loss) for loss in sorted(losses, reverse=True))


@given(SEEDS, st.floats(0.1, 10.0), st.floats(0.0, 5.0), st.floats(0.8, 0.999))
def test_never_on_a_loss_that_is_learned_with_noise(
    seed: int, level: float, above: float, pace: float
) -> None:
    surprise = Surprise()
    noise = noisy(seed, 300, level=1.0)
    assert not any(surprise(n * (level + above * pace**i)) for i, n in enumerate(noise))


@given(SEEDS, st.floats(1e-3, 1e3))
def test_never_on_stationary_noise(seed: int, level: float) -> None:
    surprise = Surprise()
    assert not any(surprise(loss) for loss in noisy(seed, 500, level))


@given(SEEDS, st.integers(8, 100), st.floats(1.5, 10.0))
def test_always_on_a_jump_of_half(seed: int, before: int, factor: float) -> None:
    surprise = Surprise()
    losses = noisy(seed, before + 30)
    for loss in losses[:before]:
        assert not surprise(loss)
    assert surprise(losses[before] * factor)
    # After it, the new level is what is expected.
    assert not any(surprise(loss * factor) for loss in losses[before + 1 :])


@pytest.mark.parametrize("steps", [20, 40, 60, 100, 250])
def test_also_on_a_jump_of_half_while_the_loss_still_falls(steps: int) -> None:
    """The curve of a small language model: learning itself must not raise what counts as a surprise."""
    surprise = Surprise()
    losses = [3.3 + 5.0 * math.exp(-step / 40) for step in range(steps + 1)]
    assert not any(surprise(loss) for loss in losses[:steps])
    assert surprise(1.5 * losses[steps])


@given(SEEDS)
def test_every_later_switch_is_noticed_too(seed: int) -> None:
    surprise, found = Surprise(), []
    for context in range(4):
        for i, loss in enumerate(noisy(seed + context, 30, level=2.0 * 1.6**context)):
            if surprise(loss):
                found.append((context, i))
    assert found == [(1, 0), (2, 0), (3, 0)]


def test_not_before_the_warm_up() -> None:
    for warmup in (1, 3, 8):
        for count in range(1, 12):
            surprise = Surprise(warmup=warmup)
            for _ in range(count):
                surprise(1.0)
            assert surprise(3.0) == (count >= warmup)


@given(SEEDS, st.integers(0, 59))
def test_it_goes_on_from_its_state(seed: int, cut: int) -> None:
    losses = noisy(seed, 40) + noisy(seed + 1, 20, level=4.0)
    whole, first, second = Surprise(), Surprise(), Surprise()
    expected = [whole(loss) for loss in losses]
    got = [first(loss) for loss in losses[:cut]]
    second.load_state_dict(first.state_dict())
    assert got + [second(loss) for loss in losses[cut:]] == expected
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_refused_and_forgotten(bad: float) -> None:
    surprise = Surprise()
    for loss in noisy(0, 12):
        surprise(loss)
    before = surprise.state_dict()
    with pytest.raises(ValueError, match="finite"):
        surprise(bad)
    assert surprise.state_dict() == before


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": 0.0},
        {"threshold": -1.0},
        {"threshold": math.nan},
        {"floor": 0.0},
        {"floor": math.nan},
        {"memory": 0.0},
        {"memory": 1.0},
        {"memory": math.nan},
        {"warmup": 0},
        {"warmup": -1},
    ],
    ids=str,
)
def test_a_value_outside_its_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        Surprise(**bad)
