"""A level refuses every value outside its range and names itself and the value."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from nestlearn.levels import Level

NAN, INF = float("nan"), float("inf")


def test_the_example_of_the_design_is_accepted() -> None:
    level = Level(name="slow", period=4096, lr=1e-4, consolidate=True)
    assert (level.name, level.period, level.lr, level.consolidate) == ("slow", 4096, 1e-4, True)


def test_a_level_cannot_be_changed() -> None:
    level = Level("fast", 8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        level.period = 9  # type: ignore[misc]
    assert level == Level("fast", 8)
    assert hash(level) == hash(Level("fast", 8))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        *(("period", bad) for bad in (0, -1, 1.0, 2.5, True, NAN, "8", None)),
        *(("refresh", bad) for bad in (0, -1, 2.5, True, NAN, "8")),
        *(("lr", bad) for bad in (-1e-3, NAN, INF, -INF)),
        *(("weight_decay", bad) for bad in (-0.1, NAN, INF)),
        *(("strength", bad) for bad in (0, 0.0, -1.0, NAN, INF)),
        *(("output_strength", bad) for bad in (0, 0.0, -1.0, NAN, INF)),
        *(("max_grad_norm", bad) for bad in (0, 0.0, -1.0, NAN, INF)),
        *(
            ("betas", bad)
            for bad in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (NAN, 0.9), (0.9, NAN), (0.9, INF))
        ),
        *(("optimizer", bad) for bad in ("adam", "AdamW", "", None)),
    ],
    ids=str,
)
def test_a_value_outside_its_range_is_refused(field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"'mine'.*{field}") as caught:
        Level(**{"name": "mine", "period": 8, field: bad})
    assert re.search(re.escape(str(bad)), str(caught.value))


@pytest.mark.parametrize("betas", [(), (0.9,), (0.9, 0.9, 0.9)], ids=str)
def test_betas_are_two(betas: Any) -> None:
    with pytest.raises(ValueError, match="betas"):
        Level("mine", 8, betas=betas)


@pytest.mark.parametrize("field", ["lr", "weight_decay", "strength", "output_strength", "max_grad_norm"])
@pytest.mark.parametrize("bad", ["1e-3", (1.0,), True], ids=str)
def test_a_value_that_is_no_number_is_refused(field: str, bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Level(**{"name": "mine", "period": 8, field: bad})


@pytest.mark.parametrize("name", ["", None])
def test_a_level_needs_a_name(name: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        Level(name, 8)


@pytest.mark.parametrize(
    "good",
    [
        {"lr": 0.0},
        {"lr": 1},
        {"weight_decay": 0},
        {"max_grad_norm": None},
        {"refresh": None},
        {"refresh": 1},
        {"period": 1},
        {"betas": (0.0, 0.0)},
        {"optimizer": "sgd"},
    ],
    ids=str,
)
def test_the_ends_of_the_ranges_are_accepted(good: dict[str, Any]) -> None:
    Level(**{"name": "mine", "period": 8, **good})
