"""A nested system as a Mermaid flowchart, for pages that render it (GitHub, GitLab, Sphinx)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nestlearn.reporting.system.document import ComponentDocument, check_system
from nestlearn.reporting.system.words import held, kind_words, levels_of, shortened

__all__ = ["system_mermaid"]

# A line for each kind of transfer that is not told by its colour alone: solid, dotted, thick.
_ARROWS = {
    "parametric": "-->",
    "non-parametric": "-.->",
    "backpropagation": "==>",
    "initialisation": "--o",
    "generation": "--x",
}
_LONGEST = 80


def system_mermaid(document: Mapping[str, Any]) -> str:
    """Write a system as a flowchart with a subgraph for every level, fast to slow.

    Mermaid places the boxes by itself, so that levels may not stand in order; their titles say it.
    (Unseen links that keep the order make Mermaid 11 stop with an error at some drawings.)

    Args:
        document: what ``nl.inspect(...).to_json()`` gave.

    Returns:
        Mermaid text that ends with a line break. Whatever names hold is escaped.

    Raises:
        ValueError: the document cannot be drawn; the message names the place.
    """
    system = check_system(document)
    keys = {component["name"]: f"c{i}" for i, component in enumerate(system["components"])}
    lines = ["flowchart TB", f"  accTitle: {_escaped(system['title'], bare=True) or 'a nested system'}"]
    for i, (level, components) in enumerate(levels_of(system)):
        title = _escaped(f"level {level['index']}: {level['frequency']}")
        lines.append(f'  subgraph l{i} ["{title}"]')
        lines += [f'    {keys[component["name"]]}["{_box(component)}"]' for component in components]
        lines.append("  end")
    for edge in system["edges"]:
        arrow = _ARROWS[edge["kind"]]
        lines.append(f'  {keys[edge["source"]]} {arrow}|"{edge["kind"]}"| {keys[edge["target"]]}')
    return "\n".join(lines) + "\n"


def _box(component: ComponentDocument) -> str:
    about = ", ".join(filter(None, [kind_words(component["kind"]), held(component)]))
    return f"{_escaped(component['name']) or '(no name)'}<br/>{_escaped(about)}"


def _escaped(text: str, *, bare: bool = False) -> str:
    """Return text in which all but letters, digits and a few harmless signs are Mermaid's entities.

    Mermaid takes ``#35;`` for a character. It reads ``1. `` and ``- `` as lists, so that the sign before a
    space is an entity too. ``accTitle`` has no entities; with ``bare`` such characters are left out.
    """
    text = shortened(text, _LONGEST)
    if bare:
        return "".join(c for c in text if c.isalnum() or c in " .,-_()'/")
    return re.sub(r"[^\w .,:()/'+-]|[.)+-](?= )", lambda found: _entity(found[0]), text)


def _entity(sign: str) -> str:
    r"""Return a sign as an entity, of which Mermaid makes no line break (``\n``) and no formula (``$$``)."""
    apart = "#8203;" if sign in ("$", "\\") else ""
    return f"#{ord(sign)};{apart}"
