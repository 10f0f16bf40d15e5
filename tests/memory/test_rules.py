"""The rules that the twins are compared over: all options, and every pair of their values."""

from __future__ import annotations

import dataclasses
import itertools

from nestlearn.memory import MemoryRule
from tests.memory.rules import COVERING, OPTIONS, accepted
from tests.pairwise import covered, pairs_of


def refused(first: str, one: object, second: str, other: object) -> bool:
    """The pairs that no rule has, by their reasons."""
    both = {first: one, second: other}
    if both.get("gates") == "channel":
        return (
            both.get("kind") == "mlp"
            or both.get("momentum") is True
            or both.get("rate") == "one"
            or both.get("retention") in ("fixed", "none")
        )
    if both.get("rate_max", 0.0) > 1.0 and both.get("objective") == "l2":
        return True
    adaptive = both.get("adaptive", ())
    return ("rate" in adaptive and both.get("rate") == "one") or (
        "retention" in adaptive and both.get("retention") in ("fixed", "none")
    )


def test_every_field_of_a_rule_is_an_option() -> None:
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(MemoryRule)}
    for field in dataclasses.fields(MemoryRule):
        assert len(OPTIONS[field.name]) >= 2
        assert field.default in (*OPTIONS[field.name], 16)


def test_every_row_is_a_rule() -> None:
    assert all(accepted(row) for row in COVERING)


def test_every_allowed_pair_of_values_is_covered() -> None:
    found = covered(COVERING, OPTIONS)
    for pair in pairs_of(OPTIONS):
        (first, i), (second, j) = pair
        named = first, OPTIONS[first][i], second, OPTIONS[second][j]
        assert (pair in found) is not refused(*named), named


def test_the_array_is_much_smaller_than_the_product() -> None:
    sizes = sorted((len(values) for values in OPTIONS.values()), reverse=True)
    assert sizes[0] * sizes[1] <= len(COVERING) <= 40


def test_pairs_are_counted_by_value_and_option() -> None:
    options = {"a": [0, 1], "b": [0, 1], "c": [False, True]}
    rows = [dict(zip("abc", values, strict=True)) for values in itertools.product(*options.values())]
    assert covered(rows, options) == set(pairs_of(options))
    assert len(pairs_of(options)) == 12
    assert len(covered(rows[:1], options)) == 3
