"""Checks of JSON values, each with the place of what it checks, so that an error names it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "check_format",
    "check_keys",
    "check_number",
    "check_points",
    "check_positions",
    "check_strings",
    "entries_of",
]


def check_format(document: Mapping[str, Any], known: str, what: str) -> None:
    """Make sure that a document is an object of the known format."""
    if not isinstance(document, Mapping):
        raise ValueError(f"the {what} is not a JSON object but {type(document).__name__}")
    if document.get("format") != known:
        raise ValueError(f"{what}.format is {document.get('format')!r}; this version draws {known!r}")


def check_keys(entry: Mapping[str, Any], place: str, **kinds: type) -> None:
    """Make sure that an object has these keys, with values of these kinds."""
    for key, kind in kinds.items():
        if key not in entry:
            raise ValueError(f"{place} has no key {key!r}")
        if not isinstance(entry[key], (list, tuple) if kind is list else kind):
            raise ValueError(f"{place}.{key} is {_short(entry[key])}, not {kind.__name__}")


def entries_of(entries: Any, place: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return objects of a list, each with its place."""
    if not isinstance(entries, (list, tuple)):
        raise ValueError(f"{place} is {_short(entries)}, not a list")
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ValueError(f"{place}[{i}] is {_short(entry)}, not an object")
    return [(f"{place}[{i}]", entry) for i, entry in enumerate(entries)]


def check_strings(entries: Sequence[Any], place: str) -> Sequence[str]:
    """Make sure that these are strings, and return them."""
    for i, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise ValueError(f"{place}[{i}] is {_short(entry)}, not a string")
    return entries


def check_number(value: Any, place: str, *, optional: bool = False) -> None:
    """Make sure that this is a finite number of at least 0."""
    if optional and value is None:
        return
    if not _is_number(value) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{place} is {_short(value)}, not a finite number of at least 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_positions(values: Any, place: str) -> None:
    """Make sure that these are tokens of the stream, in order."""
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{place} is {_short(values)}, not a list")
    before = 0.0
    for i, value in enumerate(values):
        check_number(value, f"{place}[{i}]")
        if value < before:
            raise ValueError(f"{place}[{i}] is {value}, before the one in front of it ({before:g})")
        before = value


def check_points(values: Any, place: str) -> None:
    """Make sure that these are pairs of tokens and value, in the order of the tokens."""
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{place} is {_short(values)}, not a list")
    for i, point in enumerate(values):
        pair = isinstance(point, (list, tuple)) and len(point) == 2
        if not pair or not all(_is_number(value) for value in point):
            raise ValueError(f"{place}[{i}] is {_short(point)}, not a pair of numbers")
    check_positions([point[0] for point in values], place)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
