"""Stages and streams: validation, positions, and the learning rate."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from nestlearn.training import Stage, StreamConfig
from tests.training.streams import stream

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("steps", "scale", "words"),
    [
        (0, 1.0, "'fr' has 0"),
        (-1, 1.0, "-1"),
        (3, 0.0, "0.0"),
        (3, -1.0, "-1.0"),
        (3, NAN, "nan"),
        (3, INF, "inf"),
    ],
)
def test_a_stage_refuses_what_makes_no_sense(steps: int, scale: float, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Stage("fr", steps, lr_scale=scale)
    assert "fr" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("batch_size", 0),
        ("batch_size", -1),
        ("context", 1),
        ("context", 0),
        ("evaluate_every", 0),
        ("evaluation_windows", 0),
        ("checkpoint_every", -1),
        ("warmup", -1),
        ("final_lr", -0.1),
        ("final_lr", 1.1),
        ("final_lr", NAN),
    ],
)
def test_a_stream_refuses_what_makes_no_sense(field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=rf"{field}.*{bad}"):
        stream(**{field: bad})


def test_a_stream_needs_a_stage() -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        StreamConfig(())


def test_positions() -> None:
    config = stream(3, 2)
    assert config.total_steps == 5
    assert config.tokens_per_step == 16
    assert [config.locate(step) for step in range(5)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    for outside in (-1, 5, 100):
        with pytest.raises(ValueError, match=rf"step {outside}.*5 steps"):
            config.locate(outside)


def test_the_learning_rate_warms_up_and_falls_in_every_stage() -> None:
    config = StreamConfig((Stage("en", 100), Stage("fr", 50, lr_scale=0.5)), warmup=10, final_lr=0.1)
    for start, steps, scale in ((0, 100, 1.0), (100, 50, 0.5)):
        factors = [config.lr_factor(start + step) for step in range(steps)]
        for step, factor in enumerate(factors):
            cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2
            assert factor == pytest.approx(scale * min(1, (step + 1) / 10) * cosine)
        assert all(0 < factor <= scale for factor in factors)
        peak = factors.index(max(factors))
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)
        assert factors[-1] == pytest.approx(0.1 * scale, rel=0.05)


def test_the_ends_of_the_learning_rate() -> None:
    constant = StreamConfig((Stage("en", 4),), warmup=0, final_lr=1.0)
    assert [constant.lr_factor(step) for step in range(4)] == [1.0] * 4
    falling = StreamConfig((Stage("en", 4),), warmup=0, final_lr=0.0)
    assert falling.lr_factor(0) == 1.0
    assert falling.lr_factor(2) == pytest.approx(0.5)
    long_warmup = StreamConfig((Stage("en", 4),), warmup=100, final_lr=1.0)
    assert [long_warmup.lr_factor(step) for step in range(4)] == pytest.approx([0.01, 0.02, 0.03, 0.04])


def test_the_dictionary_is_json() -> None:
    config = stream()
    again = json.loads(json.dumps(config.to_dict()))
    stages = tuple(Stage(**stage) for stage in again.pop("stages"))
    assert StreamConfig(stages, **again) == config
