"""A nested system in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from nestlearn.reporting.system.document import ComponentDocument, check_system
from nestlearn.reporting.system.words import folded, held, kind_words, levels_of, one_line, plural

__all__ = ["system_tree"]

_PLACES = 3


def system_tree(document: Mapping[str, Any]) -> Tree:
    """Draw a system as a tree of levels and their components.

    It can be read without colour and in 60 columns; long names are folded onto the next line.

    Args:
        document: what ``nl.inspect(...).to_json()`` gave.

    Returns:
        Something that `rich.print` prints.

    Raises:
        ValueError: the document cannot be drawn; the message names the place.
    """
    system = check_system(document)
    tree = Tree(Text(one_line(system["title"]) or "a nested system", style="bold", overflow="fold"))
    step = system["tokens_per_step"]
    if step is not None:
        tree.add(_line(f"one step of the optimizer is {plural(step, 'token')}", style="dim"))
    for level, components in levels_of(system):
        branch = tree.add(_line(f"level {level['index']}: {one_line(level['frequency'])}", style="bold"))
        for component in components:
            branch.add(_component(component))
    _sentences(tree, "not placed", [f"{entry['name']}: {entry['why']}" for entry in system["unplaced"]])
    _sentences(tree, "notes", system["notes"])
    return tree


def _component(component: ComponentDocument) -> Text:
    """Return name and kind with amounts on a line each, then where it is."""
    text = _line(component["name"] or "(no name)", style="cyan")
    amounts = _amounts(component)
    text.append(f"\n{', '.join([kind_words(component['kind']), *amounts])}", style="dim")
    places = folded(component["where"])
    if places:
        more = [f"and {len(places) - _PLACES} more"] if len(places) > _PLACES else []
        text.append("\nin ", style="dim")
        text.append(", ".join([*map(one_line, places[:_PLACES]), *more]), style="dim")
    return text


def _amounts(component: ComponentDocument) -> list[str]:
    if not component["parameters"]:
        return [held(component)] if component["bytes"] else []
    numbers, *rest = held(component).split(", ")
    return [f"{numbers} numbers", *rest]


def _sentences(tree: Tree, title: str, sentences: Sequence[str]) -> None:
    if sentences:
        branch = tree.add(_line(title, style="bold"))
        for sentence in sentences:
            branch.add(_line(sentence))


def _line(text: str, style: str = "") -> Text:
    return Text(one_line(text), style=style, overflow="fold")
