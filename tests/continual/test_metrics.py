"""Metrics of a stream, against values worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from nestlearn.continual import (
    CurvePoint,
    average,
    backward_transfer,
    chaudhry_forgetting,
    forgetting,
    matched_acquisition,
    matched_pairs,
    rise_at,
)

MATRIX = [[1.9, 2.9, 3.0], [1.8, 2.0, 2.8], [2.2, 2.3, 2.1]]


def curve(*rows: tuple[int, int, float, float]) -> list[CurvePoint]:
    """Rows of tokens, stage, English, French."""
    return [
        {"tokens": tokens, "stage": stage, "bits_per_byte": {"en": en, "fr": fr}}
        for tokens, stage, en, fr in rows
    ]


NESTED = curve((0, 0, 8.0, 8.0), (100, 0, 2.0, 4.0), (150, 1, 2.1, 3.0), (200, 1, 2.3, 2.0))
FINETUNE = curve((0, 0, 8.0, 8.0), (100, 0, 2.0, 4.0), (150, 1, 3.0, 2.5), (200, 1, 4.0, 1.5))


def test_forgetting_is_the_mean_rise_since_each_was_learned() -> None:
    assert forgetting(MATRIX) == pytest.approx(((2.2 - 1.9) + (2.3 - 2.0)) / 2)


def test_backward_transfer_has_the_opposite_sign() -> None:
    assert backward_transfer(MATRIX) == pytest.approx(-0.3)


def test_chaudhry_measures_from_the_best_before_the_last_stage() -> None:
    # English was best (1.8) after stage 1, French (2.0) after stage 1.
    assert chaudhry_forgetting(MATRIX) == pytest.approx(((2.2 - 1.8) + (2.3 - 2.0)) / 2)


def test_chaudhry_is_negative_when_the_last_stage_is_the_best() -> None:
    assert chaudhry_forgetting([[2.0, 3.0], [1.5, 2.0]]) == pytest.approx(-0.5)


def test_average_is_over_the_last_row() -> None:
    assert average(MATRIX) == pytest.approx(2.2)


def test_one_language_cannot_be_forgotten() -> None:
    assert forgetting([[1.7]]) == backward_transfer([[1.7]]) == chaudhry_forgetting([[1.7]]) == 0.0
    assert math.copysign(1, backward_transfer([[1.7]])) == 1
    assert average([[1.7]]) == 1.7


@pytest.mark.parametrize("measure", [forgetting, backward_transfer, chaudhry_forgetting, average])
@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([], "empty"),
        ([[1.0, 2.0], [1.0]], r"lengths \[2, 1\]"),
        ([[1.0, 2.0]], "1 rows"),
        ([[1.0, 2.0], [math.nan, 2.0]], r"matrix\[1\]\[0\] is nan"),
        ([[math.inf]], r"matrix\[0\]\[0\] is inf"),
    ],
)
def test_a_malformed_matrix_is_refused_with_its_value(
    measure: Callable[[Any], float], matrix: list[list[float]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        measure(matrix)


def test_rise_is_interpolated_on_both_languages() -> None:
    # French goes 3.0 -> 2.0 between 150 and 200; at 2.5 it is half-way, where English is 2.2.
    assert rise_at(NESTED, "fr", "en", 2.5, start_tokens=100) == pytest.approx(0.2)


def test_rise_at_an_evaluation_is_its_value() -> None:
    assert rise_at(NESTED, "fr", "en", 3.0, start_tokens=100) == pytest.approx(0.1)


def test_rise_takes_the_first_moment() -> None:
    bouncing = curve((0, 0, 2.0, 4.0), (1, 1, 2.5, 2.0), (2, 1, 3.0, 3.0), (3, 1, 3.5, 2.0))
    assert rise_at(bouncing, "fr", "en", 2.0, start_tokens=0) == pytest.approx(0.5)


def test_rise_may_be_negative() -> None:
    helped = curve((0, 0, 2.0, 4.0), (1, 1, 1.5, 2.0))
    assert rise_at(helped, "fr", "en", 3.0, start_tokens=0) == pytest.approx(-0.25)


def test_rise_is_zero_when_the_level_is_already_reached_and_none_when_it_never_is() -> None:
    assert rise_at(NESTED, "fr", "en", 5.0, start_tokens=100) == 0.0
    assert rise_at(NESTED, "fr", "en", 1.0, start_tokens=100) is None


def test_rise_starts_at_the_last_of_two_evaluations_at_the_boundary() -> None:
    twice = curve((0, 0, 2.0, 4.0), (0, 1, 2.2, 4.0), (1, 1, 2.4, 2.0))
    assert rise_at(twice, "fr", "en", 2.0, start_tokens=0) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("points", "new", "level", "start", "said"),
    [
        ([], "fr", 2.0, 0, "empty"),
        (NESTED, "xx", 2.0, 100, "'xx'"),
        (NESTED, "fr", math.nan, 100, "nan"),
        (NESTED, "fr", 2.0, 101, "start_tokens=101"),
        (curve((5, 0, 1, 1), (4, 0, 1, 1)), "fr", 2.0, 5, "from 5 to 4"),
        (curve((5, 0, 1, 1), (6, 0, 1, math.nan)), "fr", 2.0, 5, "'fr' at 6 tokens is nan"),
    ],
)
def test_a_malformed_curve_is_refused_with_its_value(
    points: list[CurvePoint], new: str, level: float, start: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        rise_at(points, new, "en", level, start)


def test_matched_acquisition_compares_at_the_worst_final_level() -> None:
    # The worst final French is nested's 2.0. Nested is there at its end: +0.3 English. Fine-tuning goes
    # 2.5 -> 1.5, half-way at 2.0, where English is 3.5: +1.5.
    matched = matched_acquisition({"nested": NESTED, "finetune": FINETUNE}, "fr", "en")
    assert matched.at == 2.0
    assert matched.rise == pytest.approx({"nested": 0.3, "finetune": 1.5})
    assert matched.ratio == pytest.approx(0.2)


def test_matched_acquisition_uses_the_stage_of_the_new_language_only() -> None:
    later: list[CurvePoint] = [{"tokens": 300, "stage": 2, "bits_per_byte": {"en": 9.0, "fr": 9.0}}]
    matched = matched_acquisition({"nested": NESTED + later, "finetune": FINETUNE + later}, "fr", "en")
    assert matched.at == 2.0


@pytest.mark.parametrize("english", [2.0, 1.9])
def test_no_ratio_when_finetuning_lost_nothing(english: float) -> None:
    lossless = curve((0, 0, 8.0, 8.0), (100, 0, 2.0, 4.0), (200, 1, english, 2.0))
    assert matched_acquisition({"nested": NESTED, "finetune": lossless}, "fr", "en").ratio is None


@pytest.mark.parametrize("runs", [("nested",), ("finetune",), ("transformer",)])
def test_no_ratio_when_a_run_is_missing(runs: tuple[str, ...]) -> None:
    matched = matched_acquisition(dict.fromkeys(runs, NESTED), "fr", "en")
    assert matched.ratio is None
    assert set(matched.rise) == set(runs)


def test_matched_writes_as_json() -> None:
    matched = matched_acquisition({"nested": NESTED, "finetune": FINETUNE}, "fr", "en")
    assert json.loads(json.dumps(matched.to_dict())) == {
        "new": "fr",
        "old": "en",
        "at": 2.0,
        "rise": matched.rise,
        "ratio": matched.ratio,
        "rise_in_stage": matched.rise_in_stage,
        "ratio_in_stage": matched.ratio_in_stage,
    }


@pytest.mark.parametrize(
    ("curves", "new", "old", "said"),
    [
        ({}, "fr", "en", "at least one run"),
        ({"nested": []}, "fr", "en", "'nested': the curve is empty"),
        ({"nested": NESTED}, "de", "en", "unknown language 'de'"),
        ({"nested": NESTED}, "en", "fr", "'fr' does not come before 'en'"),
        ({"nested": NESTED}, "fr", "fr", "'fr' does not come before 'fr'"),
        ({"nested": NESTED[:2]}, "fr", "en", "no evaluation in stage 1"),
        ({"nested": NESTED[2:]}, "fr", "en", "no evaluation before stage 1"),
        (
            {"nested": curve((0, 0, 1, 1), (1, 1, math.nan, 1))},
            "fr",
            "en",
            "'nested'.*'en' at 1 tokens is nan",
        ),
    ],
)
def test_matched_acquisition_refuses_what_it_cannot_compare(
    curves: dict[str, list[CurvePoint]], new: str, old: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        matched_acquisition(curves, new, old)


def test_the_order_of_languages_can_be_given() -> None:
    swapped: list[CurvePoint] = [
        {**point, "bits_per_byte": {code: point["bits_per_byte"][code] for code in ("fr", "en")}}
        for point in NESTED
    ]
    with pytest.raises(ValueError, match="does not come before"):
        matched_acquisition({"nested": swapped}, "fr", "en")
    assert matched_acquisition({"nested": swapped}, "fr", "en", ["en", "fr"]).at == 2.0


def test_rise_counts_since_the_old_language_was_learned() -> None:
    def three(losses: list[float]) -> list[CurvePoint]:
        return [
            {"tokens": i, "stage": i, "bits_per_byte": {"a": a, "b": 3.0, "c": 4.0 - i}}
            for i, a in enumerate(losses)
        ]

    curves = {"nested": three([2.0, 2.2, 2.3]), "finetune": three([2.0, 3.0, 3.2])}
    pair = matched_acquisition(curves, "c", "a", ["a", "b", "c"])
    assert pair.rise == pytest.approx({"nested": 0.3, "finetune": 1.2})
    assert pair.rise_in_stage == pytest.approx({"nested": 0.1, "finetune": 0.2})
    assert (pair.ratio, pair.ratio_in_stage) == pytest.approx((0.25, 0.5))


def test_pairs_come_in_the_order_of_the_stream() -> None:
    three: list[CurvePoint] = [
        {"tokens": i, "stage": i, "bits_per_byte": {"a": 2.0, "b": 3.0 - i / 2, "c": 4.0 - i}}
        for i in range(3)
    ]
    pairs = matched_pairs({"nested": three}, ["a", "b", "c"])
    assert [(p.new, p.old) for p in pairs] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert matched_pairs({"nested": three}, ["a"]) == []
