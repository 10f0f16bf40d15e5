"""How well a stream of classification tasks was learned, and how much of it was kept.

Everything here reads **accuracies**: the higher the better. Two inputs occur:

* a *matrix* ``R`` of shape ``(T, T)``: ``R[i][j]`` is the accuracy on task ``j`` after task ``i``;
* a *curve*: one row of ``T`` accuracies for each evaluation, in the order of the stream.

:mod:`nestlearn.continual.metrics` has the same measures for bits per byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nestlearn.continual.metrics import square

__all__ = [
    "average_accuracy",
    "backward_transfer",
    "chaudhry_forgetting",
    "forward_transfer",
    "learning_accuracy",
    "minimum_accuracy",
    "over_joint",
    "worst_case_accuracy",
]

Matrix = Sequence[Sequence[float]]


def average_accuracy(matrix: Matrix) -> float:
    """Mean over all tasks at the end of the stream: GEM's ACC (Lopez-Paz & Ranzato 2017, arXiv 1706.08840).

    Args:
        matrix: Accuracies in [0, 1], shape ``(T, T)``.

    Raises:
        ValueError: The matrix is empty, not square, or holds something else than accuracies.
    """
    return _mean(_checked(matrix)[-1])


def learning_accuracy(matrix: Matrix) -> float:
    """Mean over the tasks right after each was learned, ``mean_j R[j][j]``: plasticity.

    Arguments and errors as :func:`average_accuracy`.
    """
    rows = _checked(matrix)
    return _mean([rows[j][j] for j in range(len(rows))])


def backward_transfer(matrix: Matrix) -> float:
    """``mean over j < T-1 of (R[T-1][j] - R[j][j])``: GEM's BWT; below zero where something was forgotten.

    0.0 for one task. Arguments and errors as :func:`average_accuracy`.
    """
    rows = _checked(matrix)
    return _mean([rows[-1][j] - rows[j][j] for j in range(len(rows) - 1)])


def forward_transfer(matrix: Matrix, fresh: Sequence[float]) -> float:
    """``mean over j > 0 of (R[j-1][j] - fresh[j])``: GEM's FWT, what earlier tasks gave to one not yet seen.

    0.0 for one task.

    Args:
        matrix: As for :func:`average_accuracy`.
        fresh: Accuracy of an untrained network on each task.

    Raises:
        ValueError: As there, or for another number of tasks in ``fresh``.
    """
    rows = _checked(matrix)
    if len(fresh) != len(rows):
        raise ValueError(f"there are {len(rows)} tasks, and fresh has {len(fresh)} accuracies")
    return _mean([rows[j - 1][j] - fresh[j] for j in range(1, len(rows))])


def chaudhry_forgetting(matrix: Matrix) -> float:
    """``mean over j < T-1 of (max over i < T-1 of R[i][j] - R[T-1][j])`` (Chaudhry 2018, arXiv 1801.10112).

    From the best a task ever was, not from when it was learned: Avalanche's ``Forgetting`` is the negative of
    :func:`backward_transfer` instead. 0.0 for one task. Arguments and errors as :func:`average_accuracy`.
    """
    rows = _checked(matrix)
    last = len(rows) - 1
    return _mean([max(row[j] for row in rows[:last]) - rows[last][j] for j in range(last)])


def minimum_accuracy(curve: Matrix, learned: Sequence[int]) -> float:
    """Mean over all tasks but the last of the least accuracy after each was learned: the stability gap.

    min-ACC of De Lange et al. (2023, arXiv 2205.13452): a task that is lost for a few steps and comes back
    shows here and not in a matrix. As good as the evaluations are close together. 1.0 for one task.

    Args:
        curve: Accuracies on all ``T`` tasks, one row an evaluation.
        learned: For each task the index of the evaluation at its end; rising.

    Raises:
        ValueError: For rows of different lengths, something else than accuracies, or ends outside the curve.
    """
    rows = _rows(curve)
    ends = list(learned)
    if len(ends) != len(rows[0]) or ends != sorted(set(ends)) or not 0 <= ends[0] <= ends[-1] < len(rows):
        raise ValueError(
            f"learned must have the rising index of an evaluation for each of {len(rows[0])} tasks, below "
            f"{len(rows)}; got {ends}"
        )
    least = [min(row[task] for row in rows[end + 1 : ends[-1] + 1]) for task, end in enumerate(ends[:-1])]
    return _mean(least) if least else 1.0


def worst_case_accuracy(curve: Matrix, learned: Sequence[int]) -> float:
    """``R[T-1][T-1] / T + (1 - 1/T) min-ACC``: WC-ACC of De Lange et al. (2023, arXiv 2205.13452).

    A lower bound of what is known of all tasks at any moment after the last was learned. Arguments and errors
    as :func:`minimum_accuracy`.
    """
    least = minimum_accuracy(curve, learned)
    tasks = len(curve[0])
    return curve[learned[-1]][-1] / tasks + (1.0 - 1.0 / tasks) * least


def over_joint(accuracy: float, joint: float) -> float:
    """Share of what joint training on all data reaches.

    Raises:
        ValueError: If joint training has learned nothing.
    """
    if not joint > 0.0:
        raise ValueError(f"the accuracy of joint training must be above 0, got {joint}")
    return accuracy / joint


def _checked(matrix: Matrix) -> list[list[float]]:
    return _rows(square(matrix))


def _rows(curve: Matrix) -> list[list[float]]:
    """The rows as lists, or a ValueError."""
    rows = [[float(value) for value in row] for row in curve]
    if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
        raise ValueError(f"rows must be there and of one length; got lengths {[len(row) for row in rows]}")
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"an accuracy lies between 0 and 1; row {i} has {value} for task {j}")
    return rows


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
