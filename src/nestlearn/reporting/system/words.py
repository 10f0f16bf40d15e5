"""Words and numbers of a system, the same in every drawing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from nestlearn.reporting.style import clean
from nestlearn.reporting.system.document import ComponentDocument, LevelDocument, SystemDocument

__all__ = [
    "bytes_words",
    "count",
    "folded",
    "held",
    "kind_words",
    "levels_of",
    "one_line",
    "plural",
    "shortened",
]

_KINDS = {
    "parameters": "parameters",
    "optimizer_state": "optimizer state",
    "fast_weights": "fast weights",
    "attention": "attention",
    "recurrent_state": "recurrent state",
    "statistics": "statistics",
    "key_memory": "key memory",
    "accumulator": "accumulator",
}


def kind_words(kind: str) -> str:
    """Return the kind of a component as a reader says it."""
    return _KINDS.get(kind) or one_line(kind.replace("_", " "))


def count(value: float) -> str:
    """Return a count in at most four digits: ``950``, ``12.3 k``, ``1.2 M``."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def bytes_words(value: float) -> str:
    """Return an amount of memory: ``512 B``, ``49.4 kB``; a kB has 1,000 bytes."""
    amount = count(value)
    return f"{amount}B" if amount[-1].isalpha() else f"{amount} B"


def held(component: ComponentDocument) -> str:
    """Return what a component holds: ``12.3 k, 49.4 kB``; empty where nothing is known."""
    amounts = [count(component["parameters"])] if component["parameters"] else []
    return ", ".join([*amounts, bytes_words(component["bytes"])] if component["bytes"] else amounts)


def plural(number: int, noun: str) -> str:
    """Return ``1 level`` or ``1,234 levels``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def one_line(text: str) -> str:
    """Return text without line breaks and without what no drawing can hold."""
    return " ".join(clean(text).split())


def shortened(text: str, length: int) -> str:
    """Return one line of at most ``length`` characters, cut in the middle, where names differ least."""
    text = one_line(text)
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def folded(names: Iterable[str]) -> list[str]:
    """Fold names that differ in one number.

    Args:
        names: of modules, such as ``layers.0.mixer`` to ``layers.11.mixer``.

    Returns:
        Names in the order of their first appearance: ``layers.* x12`` stands for twelve of them.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name, count=1), []).append(name)
    return [f"{star} x{len(group)}" if len(group) > 1 else group[0] for star, group in groups.items()]


def levels_of(
    document: SystemDocument,
) -> Sequence[tuple[LevelDocument, list[ComponentDocument]]]:
    """Return the levels, fast to slow, each with its components."""
    components = {component["name"]: component for component in document["components"]}
    return [(level, [components[name] for name in level["components"]]) for level in document["levels"]]
