"""Turn a matplotlib figure into an ``<svg>`` element that an HTML page can hold."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree

from nestlearn.reporting.style import THEME

__all__ = ["inline_svg"]

_REFERENCE = re.compile(r"#([\w.-]+)")


def inline_svg(figure: Any, key: str, title: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Colours become custom properties of the page, text takes the page's font, ids are unique in the page, and
    whatever a page does not need or would differ between two calls is left out.

    Args:
        figure: a matplotlib ``Figure``.
        key: unique in the page; letters, digits and hyphens.
        title: short name for assistive technology.
        description: what the plot shows, for assistive technology.

    Returns:
        Markup without namespaces, as HTML wants it.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's fonts will draw the text
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue().encode())
    used = {name for element in root.iter() for name in _references(element)}
    _clean(root, key, used)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-desc",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{key}-{tag}"})
        element.text = text
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _references(element: ElementTree.Element) -> list[str]:
    """Return the ids that an element's attributes point to."""
    values = [value for name, value in element.attrib.items() if name.endswith("href") or "url(" in value]
    return [name for value in values for name in _REFERENCE.findall(value)]


def _clean(element: ElementTree.Element, key: str, used: set[str]) -> None:
    """Rewrite an element and what it holds, in place."""
    element.tag = _local(element.tag)
    element.attrib = {
        _local(name): _attribute(_local(name), value, key)
        for name, value in element.attrib.items()
        if not (name == "id" and value not in used) and not value.startswith("rotate(-0 ")
    }
    if element.tag not in {"text", "tspan"}:
        element.text = None
    element.tail = None
    for child in list(element):
        if _local(child.tag) in {"metadata", "style"}:
            element.remove(child)
        else:
            _clean(child, key, used)
            if child.tag in {"g", "defs"} and not len(child):
                element.remove(child)


def _attribute(name: str, value: str, key: str) -> str:
    """Return one attribute as the page wants it."""
    if name == "id":
        return f"{key}-{value}"
    if name == "href" or "url(" in value:
        value = _REFERENCE.sub(rf"#{key}-\1", value)
    if name == "style":
        for variable, (light, _) in THEME.items():
            value = value.replace(light, f"var(--{variable})")
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        return re.sub(r"font: ((?:[\w ]+ )?)([\d.]+px)[^;]*", _font, value)
    if name in {"d", "x", "y", "transform"}:
        return re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
    return value


def _font(match: re.Match[str]) -> str:
    """Split the CSS shorthand of older matplotlib, leaving out the family."""
    weight = next((word for word in match[1].split() if word in {"bold", "700"}), "normal")
    return f"font-weight: {weight}; font-size: {match[2]}"


def _local(name: str) -> str:
    """Return a name without its namespace."""
    return name.rpartition("}")[2]
