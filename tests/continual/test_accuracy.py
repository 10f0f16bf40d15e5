"""Measures on accuracies, each against a number worked out by hand."""

from __future__ import annotations

import math

import pytest

from nestlearn.continual.accuracy import (
    average_accuracy,
    backward_transfer,
    chaudhry_forgetting,
    forward_transfer,
    learning_accuracy,
    minimum_accuracy,
    over_joint,
    worst_case_accuracy,
)

#: Task 0 is best after task 1; task 1 is half lost at the end.
R = [[0.8, 0.3, 0.2], [0.9, 0.6, 0.1], [0.5, 0.3, 0.7]]
#: Two evaluations a task; task 0 is lost at the beginning of each later one and comes back.
CURVE = [
    [0.4, 0.1, 0.0],
    [0.8, 0.1, 0.0],
    [0.2, 0.4, 0.0],
    [0.7, 0.6, 0.1],
    [0.3, 0.1, 0.5],
    [0.6, 0.5, 0.9],
]
ENDS = [1, 3, 5]


def test_by_hand() -> None:
    assert average_accuracy(R) == pytest.approx((0.5 + 0.3 + 0.7) / 3)
    assert learning_accuracy(R) == pytest.approx((0.8 + 0.6 + 0.7) / 3)
    assert backward_transfer(R) == pytest.approx(((0.5 - 0.8) + (0.3 - 0.6)) / 2)
    assert chaudhry_forgetting(R) == pytest.approx(((0.9 - 0.5) + (0.6 - 0.3)) / 2)
    assert forward_transfer(R, [0.1, 0.2, 0.3]) == pytest.approx(((0.3 - 0.2) + (0.1 - 0.3)) / 2)
    assert minimum_accuracy(CURVE, ENDS) == pytest.approx((0.2 + 0.1) / 2)
    assert worst_case_accuracy(CURVE, ENDS) == pytest.approx(0.9 / 3 + 2 / 3 * 0.15)
    assert over_joint(0.9, 0.95) == pytest.approx(0.9 / 0.95)


def test_the_gap_is_not_in_the_matrix() -> None:
    matrix = [CURVE[end] for end in ENDS]
    assert backward_transfer(matrix) == pytest.approx(((0.6 - 0.8) + (0.5 - 0.6)) / 2)
    assert minimum_accuracy(CURVE, ENDS) < min(matrix[-1])


def test_what_comes_before_a_task_is_learned_or_after_the_stream_does_not_count() -> None:
    later = [*CURVE, [0.0, 0.0, 0.0]]
    assert minimum_accuracy(later, ENDS) == minimum_accuracy(CURVE, ENDS)
    before = [[0.0, 0.0, 0.0], *CURVE]
    assert minimum_accuracy(before, [end + 1 for end in ENDS]) == minimum_accuracy(CURVE, ENDS)


def test_one_task_has_nothing_to_forget() -> None:
    one = [[0.7]]
    assert average_accuracy(one) == learning_accuracy(one) == 0.7
    assert backward_transfer(one) == chaudhry_forgetting(one) == forward_transfer(one, [0.1]) == 0.0
    assert minimum_accuracy(one, [0]) == 1.0
    assert worst_case_accuracy(one, [0]) == 0.7


def test_a_stream_that_only_gains_forgets_less_than_nothing() -> None:
    gaining = [[0.5, 0.1], [0.8, 0.6]]
    assert chaudhry_forgetting(gaining) == pytest.approx(-0.3)
    assert backward_transfer(gaining) == pytest.approx(0.3)


@pytest.mark.parametrize("wrong", [[], [[]], [[0.5, 0.5]], [[1.5]], [[-0.1]], [[math.nan]]])
def test_what_is_no_matrix_of_accuracies_is_refused(wrong: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"matrix|accuracy|rows"):
        average_accuracy(wrong)


@pytest.mark.parametrize("ends", [[1, 3], [3, 1, 5], [1, 1, 5], [1, 3, 6], [-1, 3, 5]])
def test_ends_outside_of_the_curve_are_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match="rising index"):
        minimum_accuracy(CURVE, ends)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="3 tasks, and fresh has 1"):
        forward_transfer(R, [0.1])
    with pytest.raises(ValueError, match=r"above 0, got 0\.0"):
        over_joint(0.5, 0.0)
