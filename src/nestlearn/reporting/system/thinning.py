"""Fewer points that look the same: what a page holds of a long stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["spans", "thin_points", "thin_positions"]


def spans(updates: Sequence[int], most: int) -> list[list[float]]:
    """Write positions as evenly spaced spans.

    Args:
        updates: tokens, in order.
        most: spans that there may be.

    Returns:
        Entries ``[start, distance, number]``. Nothing is lost where ``most`` spans are enough, as for a level
        with a period; else each span stands for a bin of the stream: first, last and number are true,
        and the updates between are drawn as if evenly spaced.
    """
    exact = _spans(updates)
    if len(exact) <= most or not updates:
        return exact
    bins: dict[int, list[int]] = {}
    start, length = updates[0], max(1, updates[-1] - updates[0])
    for at in updates:
        bins.setdefault(min(most - 1, int((at - start) * most / length)), []).append(at)
    return [[held[0], _mean_distance(held), len(held)] for held in bins.values()]


def _mean_distance(held: Sequence[int]) -> float:
    return round((held[-1] - held[0]) / (len(held) - 1), 3) if len(held) > 1 else 0


def _spans(updates: Sequence[int]) -> list[list[float]]:
    found: list[list[float]] = []
    for at in updates:
        if found:
            start, distance, number = found[-1]
            if number == 1 or at == start + distance * number:
                found[-1] = [start, at - start if number == 1 else distance, number + 1]
                continue
        found.append([at, 0, 1])
    return found


def thin_points(points: Sequence[Sequence[float]], most: int) -> list[list[float | None]]:
    """Keep the first, lowest and highest point of every bin of a series, and the last of all.

    Args:
        points: pairs of tokens and value, in order.
        most: about how many may stay.

    Returns:
        Pairs. Values have six digits; None stands for what is infinite or not a number.
    """
    bins = max(1, most // 3)
    if len(points) <= max(4, most):
        return [_point(point) for point in points]
    start, length = points[0][0], (points[-1][0] - points[0][0]) or 1
    groups: dict[int, list[Sequence[float]]] = {}
    for point in points:
        groups.setdefault(min(bins - 1, int((point[0] - start) * bins / length)), []).append(point)
    kept: list[Sequence[float]] = []
    for group in groups.values():
        order = {id(point): i for i, point in enumerate(group)}
        finite = [point for point in group if math.isfinite(point[1])] or group[:1]
        ends = [group[0], min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])]
        ends += [point for point in group if not math.isfinite(point[1])][:1]
        chosen = {id(point): point for point in ends}
        kept += sorted(chosen.values(), key=lambda point: order[id(point)])
    if kept[-1] is not points[-1]:
        kept.append(points[-1])
    return [_point(point) for point in kept]


def _point(point: Sequence[Any]) -> list[float | None]:
    at, value = point
    return [at, float(f"{value:.6g}") if math.isfinite(value) else None]


def thin_positions(positions: Sequence[int], most: int) -> list[int]:
    """Keep one position of every bin.

    Args:
        positions: tokens, in order.
        most: how many may stay.
    """
    if len(positions) <= most:
        return list(positions)
    start, length = positions[0], max(1, positions[-1] - positions[0])
    return list({min(most - 1, (at - start) * most // length): at for at in reversed(positions)}.values())[
        ::-1
    ]
