"""A nested system as a picture that stands alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise
from typing import Any

from nestlearn.reporting.style import THEME, clean
from nestlearn.reporting.system.document import ComponentDocument, LevelDocument, SystemDocument, check_system
from nestlearn.reporting.system.kinds import EDGES, EdgeStyle
from nestlearn.reporting.system.layout import BOX_HEIGHT, Box, Lane, Route, lay_out, text_width
from nestlearn.reporting.system.words import (
    count,
    held,
    kind_words,
    levels_of,
    one_line,
    plural,
    shortened,
)

__all__ = ["system_svg"]

_WIDTH, _LEFT, _MARGIN = 1080.0, 190.0, 28.0
_NAME, _SMALL, _LONGEST = 13.5, 11.5, 30
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


def system_svg(document: Mapping[str, Any]) -> str:
    """Draw a system in lanes, from the fastest level on top to the slowest.

    The picture has its own light ground, needs no other file, and is the same for the same document.

    Args:
        document: what ``nl.inspect(...).to_json()`` gave.

    Returns:
        An SVG document. It has a title and a description for those who cannot see it.

    Raises:
        ValueError: the document cannot be drawn; the message names the place.
    """
    system = check_system(document)
    levels = levels_of(system)
    widths = [[(box["name"], _box_width(box)) for box in boxes] for _, boxes in levels]
    layout = lay_out(widths, system["edges"], _LEFT + 20, _WIDTH - _MARGIN - 20, top=96)
    components = {component["name"]: component for component in system["components"]}
    parts = [_head(system, layout.height + 60)]
    for (level, _), lane in zip(levels, layout.lanes, strict=True):
        parts.append(_lane(lane, level["index"], level["frequency"]))
    parts += [_route(route) for route in layout.routes]
    parts += [_box(box, components[name]) for name, box in layout.boxes.items()]
    kinds = {edge["kind"] for edge in system["edges"]}
    parts += [_legend([style for style in EDGES if style.kind in kinds], layout.height + 34), "</svg>"]
    return "\n".join(parts) + "\n"


def _box_width(component: ComponentDocument) -> float:
    name = text_width(shortened(component["name"], _LONGEST), _NAME, bold=True)
    return round(max(name, text_width(_about(component), _SMALL), 90) + 26)


def _about(component: ComponentDocument) -> str:
    return " · ".join(filter(None, [shortened(kind_words(component["kind"]), 24), held(component)]))


def _head(system: SystemDocument, height: float) -> str:
    """Return the opening tag, what the picture shows in words, its ground and its heading."""
    title = shortened(system["title"], 80) or "a nested system"
    numbers = count(sum(component["parameters"] for component in system["components"]))
    about = f"{plural(len(system['levels']), 'level')}, {plural(len(system['components']), 'component')}"
    about += f", {numbers} parameters"
    described = "; ".join(map(_level_words, system["levels"]))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(_WIDTH)} {_n(height)}"'
            f' width="{_n(_WIDTH)}" height="{_n(height)}" role="img" font-family="{_FONT}">',
            f"<title>{_text(title)}</title>",
            f"<desc>{_text(f'{about}. From the fastest: {described}.')}</desc>",
            f'<rect width="{_n(_WIDTH)}" height="{_n(height)}" rx="14" fill="{_colour("paper")}"/>',
            _label(title, _MARGIN, 44, 21, "ink", weight=650),
            _label(about, _MARGIN, 69, 13, "muted"),
        ]
    )


def _level_words(level: LevelDocument) -> str:
    names = ", ".join(map(one_line, level["components"]))
    return f"level {level['index']}, {one_line(level['frequency'])}: {names}"


def _lane(lane: Lane, index: int, frequency: str) -> str:
    """Draw a band with the number and the frequency of its level."""
    y = lane.y + lane.height / 2
    lines = _wrapped(one_line(frequency), 22)
    width = _WIDTH - 2 * _MARGIN
    parts = [
        f'<rect x="{_n(_MARGIN)}" y="{_n(lane.y)}" width="{_n(width)}" height="{_n(lane.height)}" rx="10"'
        f' fill="{_colour("band")}"/>',
        _label(f"level {index}", _MARGIN + 18, y + 4 - 8 * len(lines), 11.5, "muted"),
    ]
    for i, line in enumerate(lines):
        parts.append(_label(line, _MARGIN + 18, y + 21 - 8 * len(lines) + 16 * i, 13, "ink", weight=600))
    return "\n".join(parts)


def _wrapped(text: str, length: int) -> list[str]:
    """Break text into at most two lines."""
    if len(text) <= length:
        return [text]
    at = text.rfind(" ", 0, length + 1)
    at = at if at > 0 else length
    return [text[:at], shortened(text[at:], length)]


def _box(box: Box, component: ComponentDocument) -> str:
    x = box.middle
    rect = (
        f'<rect class="box" x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(BOX_HEIGHT)}"'
        f' rx="8" fill="{_colour("paper")}" stroke="{_colour("muted")}" stroke-width="1.1"/>'
    )
    name = shortened(component["name"], _LONGEST)
    labels = [
        _label(name, x, box.y + 20, _NAME, "ink", weight=600, anchor="middle"),
        _label(_about(component), x, box.y + 36, _SMALL, "muted", anchor="middle"),
    ]
    return "\n".join([f"<g><title>{_text(component['name'])}</title>", rect, *labels, "</g>"])


def _route(route: Route) -> str:
    """Draw an edge with its arrowhead."""
    style = next(style for style in EDGES if style.kind == route.edge["kind"])
    *_, (x, y) = route.points
    points = [*route.points[:-1], (x, y - 7 * route.arrives)]
    words = f"{route.edge['source']} to {route.edge['target']}, {style.kind}: {route.edge['what']}"
    return "\n".join(
        [
            f"<g><title>{_text(words)}</title>",
            _line(_curve(points, flat=len(points) == 2 and points[0][1] > points[1][1] - 8), style),
            _arrow(x, y, route.arrives, style),
            "</g>",
        ]
    )


def _curve(points: list[tuple[float, float]], *, flat: bool) -> str:
    """Return a path that is vertical at every point; ``flat`` for a bow below a single row."""
    (x, y), *_ = points
    path = [f"M{_n(x)} {_n(y)}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if flat and abs(y1 - y0) < 8:
            low = max(y0, y1) + 28
            path.append(f"C{_n(x0)} {_n(low)} {_n(x1)} {_n(low)} {_n(x1)} {_n(y1)}")
        elif x0 == x1:
            path.append(f"V{_n(y1)}")
        else:
            middle = (y0 + y1) / 2
            path.append(f"C{_n(x0)} {_n(middle)} {_n(x1)} {_n(middle)} {_n(x1)} {_n(y1)}")
    return "".join(path)


def _line(path: str, style: EdgeStyle) -> str:
    dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
    return f'<path d="{path}" fill="none" stroke="{style.light}" stroke-width="1.7"{dash}/>'


def _arrow(x: float, y: float, way: int, style: EdgeStyle) -> str:
    """Draw an arrowhead that points down (``way`` 1) or up (-1) at a point."""
    turn = "" if way > 0 else " rotate(180)"
    fill = style.light if style.filled else _colour("paper")
    return (
        f'<path d="{style.head}" transform="translate({_n(x)} {_n(y)}){turn}" fill="{fill}"'
        f' stroke="{style.light}" stroke-width="1.4" stroke-linejoin="round"/>'
    )


def _legend(styles: Iterable[EdgeStyle], y: float) -> str:
    x = _MARGIN + 18
    parts = []
    for style in styles:
        parts.append(_line(f"M{_n(x)} {_n(y)}h30", style))
        parts.append(
            f'<g transform="translate({_n(x + 38)} {_n(y)}) rotate(-90)">{_arrow(0, 0, 1, style)}</g>'
        )
        parts.append(_label(style.kind, x + 48, y + 4.5, 12.5, "ink"))
        x += 48 + text_width(style.kind, 12.5) + 26
    return "\n".join(parts)


def _label(
    text: str, x: float, y: float, size: float, colour: str, *, weight: int = 400, anchor: str = "start"
) -> str:
    more = f' font-weight="{weight}"' if weight != 400 else ""
    more += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}"{more} fill="{_colour(colour)}">'
        f"{_text(text)}</text>"
    )


def _colour(name: str) -> str:
    return THEME[name][0]


def _text(text: str) -> str:
    return escape(clean(text), quote=False)


def _n(value: float) -> str:
    """Return a number of pixels without what is too small to see."""
    return f"{value:.1f}".removesuffix(".0")
