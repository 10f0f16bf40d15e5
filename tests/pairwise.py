"""Covering arrays: few settings in which every allowed pair of two options' values occurs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Options = Mapping[str, Sequence[Any]]
Pair = tuple[tuple[str, int], tuple[str, int]]  # two options with the index of their value


def pairs_of(options: Options) -> list[Pair]:
    """All pairs of values of two different options."""
    values = {name: [(name, i) for i in range(len(known))] for name, known in options.items()}
    return [
        pair
        for first, second in itertools.combinations(options, 2)
        for pair in itertools.product(values[first], values[second])
    ]


def covered(rows: Sequence[Row], options: Options) -> set[Pair]:
    """The pairs that occur in some rows."""
    found = set()
    for row in rows:
        chosen = [(name, list(options[name]).index(row[name])) for name in options]
        found |= set(itertools.combinations(chosen, 2))
    return found


def covering(options: Options, allowed: Callable[[Row], bool]) -> list[Row]:
    """Rows in which every allowed pair occurs, greedily; the same for the same arguments.

    Args:
        options: Values by name.
        allowed: Whether a partial row has a completion.
    """
    rows: list[Row] = []
    missing = {
        pair: None for pair in pairs_of(options) if allowed({name: options[name][i] for name, i in pair})
    }
    while missing:
        first = next(iter(missing))
        chosen = dict(first)
        for name in options:
            if name in chosen:
                continue
            best = None
            for i, value in enumerate(options[name]):
                row = {other: options[other][j] for other, j in chosen.items()}
                if not allowed({**row, name: value}):
                    continue
                gain = sum(_pair(options, (name, i), other) in missing for other in chosen.items())
                if best is None or gain > best[0]:
                    best = gain, i
            assert best is not None, f"no value of {name} fits {chosen}: allowed() is wrong"
            chosen[name] = best[1]
        rows.append({name: options[name][chosen[name]] for name in options})
        for pair in covered(rows[-1:], options):
            missing.pop(pair, None)
    return rows


def _pair(options: Options, one: tuple[str, int], other: tuple[str, int]) -> Pair:
    order = list(options)
    return (one, other) if order.index(one[0]) < order.index(other[0]) else (other, one)
