"""How much a stream of languages was learned, and how much of it was kept.

Everything here reads **bits per byte** on held-out text: the lower the better, the opposite of accuracy. Each
measure says how its sign was adapted. Two inputs occur:

* a *matrix* ``R`` of shape ``(T, T)``: ``R[i][j]`` is language ``j`` after stage ``i``; language ``j`` is
  learned in stage ``j``;
* a *curve*: evaluations in the order of the stream. The evaluation at a stage boundary appears once, as the
  last point of the stage that ends there; it is also the starting point of the next stage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict

__all__ = [
    "CurvePoint",
    "Matched",
    "average",
    "backward_transfer",
    "chaudhry_forgetting",
    "forgetting",
    "matched_acquisition",
    "matched_pairs",
    "rise_at",
]


class CurvePoint(TypedDict):
    """One evaluation of every language of the stream.

    Attributes:
        tokens: tokens trained on so far, from 0.
        stage: index of the stage this evaluation belongs to; at a boundary, the stage that ended.
        bits_per_byte: held-out bits per byte of each language, by language code.
    """

    tokens: int
    stage: int
    bits_per_byte: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Matched:
    """What runs lost of an old language at the moment each had learned the new one equally well.

    Attributes:
        new: the language being learned.
        old: an earlier language.
        at: bits per byte of ``new`` at which the runs are compared.
        rise: bits per byte lost of ``old`` between the end of its own stage and that moment, by run; negative
            where the run improved.
        ratio: ``rise["nested"] / rise["finetune"]``; None if a run is missing or ``finetune`` lost nothing.
        rise_in_stage: the part of ``rise`` that was lost while ``new`` was learned.
        ratio_in_stage: the same quotient of those.
    """

    new: str
    old: str
    at: float
    rise: dict[str, float]
    ratio: float | None
    rise_in_stage: dict[str, float]
    ratio_in_stage: float | None

    def to_dict(self) -> dict[str, object]:
        """Return the fields as a dictionary that ``json`` can write."""
        return asdict(self)


def forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Mean rise of the earlier languages at the end of the stream, relative to right after learning each.

    ``mean over j < T-1 of (R[T-1][j] - R[j][j])``: GEM's backward transfer (Lopez-Paz & Ranzato 2017,
    arXiv 1706.08840) with the sign that bits per byte gives it, and Avalanche's ``Forgetting``.

    Args:
        matrix: bits per byte, shape ``(T, T)``.

    Returns:
        Bits per byte; higher is worse, negative means that later languages helped. 0.0 when ``T`` is 1.

    Raises:
        ValueError: the matrix is empty, not square, or holds a number that is not finite.
    """
    rows = square(matrix)
    return _mean([rows[-1][j] - rows[j][j] for j in range(len(rows) - 1)])


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """Return how much later learning improved the earlier languages: the negative of `forgetting`.

    ``mean over j < T-1 of (R[j][j] - R[T-1][j])``: GEM's BWT (arXiv 1706.08840) with the difference reversed,
    so that positive still means that learning more helped. Arguments and errors as `forgetting`.
    """
    return 0.0 - forgetting(matrix)


def chaudhry_forgetting(matrix: Sequence[Sequence[float]]) -> float:
    """Mean rise of the earlier languages at the end, relative to the best each was before the last stage.

    ``mean over j < T-1 of (R[T-1][j] - min over i < T-1 of R[i][j])``: Chaudhry et al. 2018 (arXiv
    1801.10112), whose best is a maximum of accuracies and here a minimum of bits per byte. Never below
    `forgetting`, whose arguments, unit and errors it shares.
    """
    rows = square(matrix)
    last = len(rows) - 1
    return _mean([rows[last][j] - min(row[j] for row in rows[:last]) for j in range(last)])


def average(matrix: Sequence[Sequence[float]]) -> float:
    """Mean bits per byte over all languages at the end of the stream.

    ``mean over j of R[T-1][j]``: GEM's ACC (arXiv 1706.08840) on bits per byte; lower is better. Arguments
    and errors as `forgetting`.
    """
    return _mean(square(matrix)[-1])


def rise_at(curve: Sequence[CurvePoint], new: str, old: str, level: float, start_tokens: int) -> float | None:
    """Rise of an old language at the first moment the new one is down to a level.

    Walks the evaluations from ``start_tokens`` on. Between the last one above ``level`` and the first one at
    or below it, both languages are taken to move in a straight line:
    ``f = (n_p - level) / (n_p - n_q)`` and ``rise = o_p + f (o_q - o_p) - o_start``.

    Args:
        curve: evaluations in the order of the stream.
        new: the language being learned.
        old: the language whose rise is wanted.
        level: bits per byte of ``new`` to reach.
        start_tokens: tokens at which the stage of ``new`` starts; there must be an evaluation there.

    Returns:
        Bits per byte of ``old`` at that moment minus its value at ``start_tokens``: 0.0 if ``new`` starts at
        or below ``level``, None if it never gets there.

    Raises:
        ValueError: the curve is empty, unordered or not finite, a language is unknown, ``level`` is not
            finite, or no evaluation was made at ``start_tokens``.
    """
    _check_curve(curve, (new, old))
    if not math.isfinite(level):
        raise ValueError(f"level must be a finite number of bits per byte, got {level}")
    starts = [i for i, point in enumerate(curve) if point["tokens"] == start_tokens]
    if not starts:
        raise ValueError(f"the curve has no evaluation at start_tokens={start_tokens}")
    walk = [(p["bits_per_byte"][new], p["bits_per_byte"][old]) for p in curve[starts[-1] :]]
    start_new, start_old = walk[0]
    if start_new <= level:
        return 0.0
    for (new_before, old_before), (new_after, old_after) in itertools.pairwise(walk):
        if new_after <= level:
            fraction = (new_before - level) / (new_before - new_after)
            return old_before + fraction * (old_after - old_before) - start_old
    return None


def matched_acquisition(
    curves: Mapping[str, Sequence[CurvePoint]],
    new: str,
    old: str,
    languages: Sequence[str] | None = None,
) -> Matched:
    """Compare what runs lost of an old language when each had learned the new one equally well.

    ``at`` is the largest (worst) of the runs' bits per byte of ``new`` at the end of its stage, so that every
    run gets there; ``rise_in_stage`` is `rise_at` that level, and ``rise`` adds what the stages between had
    cost. Forgetting less by learning less earns nothing. The
    definition is this project's own.

    Args:
        curves: evaluations of each run, by run name.
        new: the language being learned; it must not be the first of the stream.
        old: a language that came before it.
        languages: the languages as learned; by default the order in which the first evaluation lists them.

    Returns:
        The level, the rise of every run, and the ratio of ``nested`` to ``finetune``.

    Raises:
        ValueError: no run, a malformed curve, an unknown language, ``old`` not before ``new``, or a run
            without an evaluation in or before the stage of ``new``.
    """
    if not curves:
        raise ValueError("matched_acquisition needs at least one run, got none")
    stage = _stage_of(new, old, languages or _order(curves))
    walks = {run: _stage_walk(run, curve, stage, (new, old)) for run, curve in curves.items()}
    at = max(walk[-1]["bits_per_byte"][new] for walk in walks.values())
    inside: dict[str, float] = {}
    rise: dict[str, float] = {}
    own = list(languages or _order(curves)).index(old)
    for run, walk in walks.items():
        value = rise_at(walk, new, old, at, walk[0]["tokens"])
        assert value is not None  # `at` is no lower than this run's last value
        learned = [point for point in curves[run] if point["stage"] <= own][-1]["bits_per_byte"][old]
        inside[run] = value
        rise[run] = value + walk[0]["bits_per_byte"][old] - learned
    return Matched(new, old, at, rise, _ratio(rise), inside, _ratio(inside))


def matched_pairs(curves: Mapping[str, Sequence[CurvePoint]], languages: Sequence[str]) -> list[Matched]:
    """Compute `matched_acquisition` for every later language with every earlier one.

    Args:
        curves: evaluations of each run, by run name.
        languages: the ``T`` languages in the order they are learned.

    Returns:
        ``T (T-1) / 2`` comparisons: (2nd, 1st), (3rd, 1st), (3rd, 2nd), ...

    Raises:
        ValueError: as `matched_acquisition`.
    """
    return [
        matched_acquisition(curves, new, old, languages)
        for stage, new in enumerate(languages)
        for old in languages[:stage]
    ]


def _ratio(rise: Mapping[str, float]) -> float | None:
    """Return nested / finetune, or None where the quotient means nothing."""
    nested, finetune = rise.get("nested"), rise.get("finetune")
    if nested is None or finetune is None or not finetune > 0:
        return None
    return nested / finetune


def _order(curves: Mapping[str, Sequence[CurvePoint]]) -> list[str]:
    """Return the languages in the order in which the first evaluation of the first run lists them."""
    run, curve = next(iter(curves.items()))
    if not curve:
        raise ValueError(f"run {run!r}: the curve is empty")
    return list(curve[0]["bits_per_byte"])


def _stage_of(new: str, old: str, languages: Sequence[str]) -> int:
    """Return the index of the stage in which ``new`` is learned, checking that ``old`` comes before it."""
    for language in (new, old):
        if language not in languages:
            raise ValueError(f"unknown language {language!r}: the stream has {list(languages)}")
    stage = list(languages).index(new)
    if old not in languages[:stage]:
        raise ValueError(f"{old!r} does not come before {new!r} in the stream {list(languages)}")
    return stage


def _stage_walk(
    run: str, curve: Sequence[CurvePoint], stage: int, languages: tuple[str, str]
) -> list[CurvePoint]:
    """Return the evaluations of one stage, preceded by the one at its start."""
    try:
        _check_curve(curve, languages)
    except ValueError as error:
        raise ValueError(f"run {run!r}: {error}") from None
    before = [point for point in curve if point["stage"] < stage]
    inside = [point for point in curve if point["stage"] == stage]
    if not before or not inside:
        where = f"in stage {stage}" if before else f"before stage {stage}"
        raise ValueError(f"run {run!r}: the curve has no evaluation {where}")
    return [before[-1], *inside]


def _check_curve(curve: Sequence[CurvePoint], languages: Sequence[str]) -> None:
    """Raise ValueError unless the curve is ordered, finite and knows the languages."""
    if not curve:
        raise ValueError("the curve is empty")
    before = -math.inf
    for point in curve:
        if not point["tokens"] >= before:
            raise ValueError(f"the curve goes back from {before} to {point['tokens']} tokens")
        before = point["tokens"]
        for language in languages:
            value = point["bits_per_byte"].get(language)
            if value is None:
                known = list(point["bits_per_byte"])
                raise ValueError(f"unknown language {language!r}: the curve has {known} at {before} tokens")
            if not math.isfinite(value):
                raise ValueError(f"bits per byte of {language!r} at {before} tokens is {value}")


def square(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the matrix as lists of floats, or raise ValueError unless it is square and finite."""
    rows = [[float(value) for value in row] for row in matrix]
    if not rows:
        raise ValueError("the matrix is empty")
    lengths = [len(row) for row in rows]
    if set(lengths) != {len(rows)}:
        raise ValueError(f"the matrix must be square: it has {len(rows)} rows of lengths {lengths}")
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if not math.isfinite(value):
                raise ValueError(f"matrix[{i}][{j}] is {value}, not a finite number")
    return rows


def _mean(values: Sequence[float]) -> float:
    """Return the mean, 0.0 for no values."""
    return math.fsum(values) / len(values) if values else 0.0
