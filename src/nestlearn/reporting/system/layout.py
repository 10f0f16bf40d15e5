"""Where boxes and edges go when a system is drawn in lanes, the fastest level on top.

Boxes stand in rows. An edge runs from row to row through the gaps between boxes, so that it crosses no text.
The page does the same in the browser (``assets/layout.js``), where the width is the reader's.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nestlearn.reporting.system.document import EdgeDocument

__all__ = ["BOX_HEIGHT", "Box", "Lane", "Layout", "Route", "lay_out", "text_width"]

BOX_HEIGHT = 46.0
_GAP, _BETWEEN_ROWS, _PAD, _BETWEEN_LANES = 30.0, 40.0, 20.0, 12.0
_CLEAR, _APART = 7.0, 5.0


@dataclass(slots=True)
class Box:
    """A component: where it stands, in pixels, and in which row, counted from the top."""

    name: str
    width: float
    x: float = 0.0
    y: float = 0.0
    row: int = 0

    @property
    def middle(self) -> float:
        """The x of its middle."""
        return self.x + self.width / 2


@dataclass(slots=True)
class Lane:
    """A level: the band it takes up."""

    y: float
    height: float
    rows: list[list[Box]]


@dataclass(slots=True)
class Route:
    """An edge: its corners from source to target, two for each row that it passes.

    Attributes:
        edge: what goes there.
        points: x and y; it leaves, passes rows and arrives vertically.
        arrives: 1 downwards, -1 upwards.
    """

    edge: EdgeDocument
    points: list[tuple[float, float]] = field(default_factory=list)
    arrives: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """All of a drawing; ``boxes`` by the name of the component."""

    lanes: list[Lane]
    boxes: dict[str, Box]
    routes: list[Route]
    height: float


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return a width in pixels that text does not exceed in the usual sans-serif fonts.

    Args:
        text: one line.
        size: of the font, in pixels.
        bold: whether it is.
    """
    return size * (1.08 if bold else 1.0) * sum(map(_em, text))


def _em(character: str) -> float:
    """Return about the width of a character, in units of the font's size."""
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF" or ord(character) > 0x2E7F:
        return 1.25
    if character in " .,:;'!|il()[]jtfrI-":
        return 0.42
    return 0.95 if character in "mwMW@%—…" or ord(character) > 0x24F else 0.66


def lay_out(
    levels: Sequence[Sequence[tuple[str, float]]],
    edges: Sequence[EdgeDocument],
    left: float,
    right: float,
    top: float = 0.0,
) -> Layout:
    """Place the boxes of every level and lead the edges between them.

    Args:
        levels: for each, names and widths of its boxes, in pixels.
        edges: between boxes.
        left: where boxes may begin.
        right: where they have to end.
        top: where the first lane begins.

    Returns:
        The layout. Boxes do not overlap; one that is wider than the lane sticks out of it.
    """
    lanes: list[Lane] = []
    row = 0
    for level in levels:
        rows = _rows([Box(name, width) for name, width in level], right - left)
        height = 2 * _PAD + len(rows) * BOX_HEIGHT + max(0, len(rows) - 1) * _BETWEEN_ROWS
        for i, boxes in enumerate(rows):
            _stand(boxes, left, right, top + _PAD + i * (BOX_HEIGHT + _BETWEEN_ROWS), row)
            row += 1
        lanes.append(Lane(top, height, rows))
        top += height + _BETWEEN_LANES
    every = [boxes for lane in lanes for boxes in lane.rows]
    named = {box.name: box for boxes in every for box in boxes}
    return Layout(lanes, named, _lead(edges, named, every, left, right), top - _BETWEEN_LANES)


def _rows(boxes: list[Box], width: float) -> list[list[Box]]:
    """Break boxes into rows of about the same length; an empty level has one empty row."""
    total = sum(box.width + _GAP for box in boxes) + _GAP
    fair = total / max(1, -(-total // width))
    rows: list[list[Box]] = [[]]
    used = _GAP
    for box in boxes:
        full = used + box.width + _GAP > width
        if rows[-1] and (full or used + box.width / 2 > fair):
            rows.append([])
            used = _GAP
        rows[-1].append(box)
        used += box.width + _GAP
    return rows


def _stand(boxes: list[Box], left: float, right: float, y: float, row: int) -> None:
    """Centre a row."""
    length = sum(box.width for box in boxes) + _GAP * (len(boxes) - 1)
    x = max(left, left + (right - left - length) / 2)
    for box in boxes:
        box.x, box.y, box.row = x, y, row
        x += box.width + _GAP


def _lead(
    edges: Sequence[EdgeDocument],
    boxes: dict[str, Box],
    rows: list[list[Box]],
    left: float,
    right: float,
) -> list[Route]:
    routes = [Route(edge) for edge in edges]
    passing = _passing(routes, boxes, rows, left, right)
    ports = _ports(routes, boxes, passing)
    for i, route in enumerate(routes):
        source, target = boxes[route.edge["source"]], boxes[route.edge["target"]]
        down = source.row <= target.row
        route.arrives = 1 if source.row < target.row else -1
        route.points.append((ports[i, "source"], source.y + BOX_HEIGHT * down))
        for row, x in passing[i]:
            y = rows[row][0].y if rows[row] else 0.0
            ends = [(x, y), (x, y + BOX_HEIGHT)]
            route.points += ends if down else ends[::-1]
        route.points.append((ports[i, "target"], target.y + BOX_HEIGHT * (source.row >= target.row)))
    return routes


def _passing(
    routes: list[Route], boxes: dict[str, Box], rows: list[list[Box]], left: float, right: float
) -> list[list[tuple[int, float]]]:
    """For every edge, the rows that it passes and the x at which it does."""
    wanted: dict[tuple[int, int], list[tuple[float, int]]] = defaultdict(list)
    for i, route in enumerate(routes):
        source, target = boxes[route.edge["source"]], boxes[route.edge["target"]]
        step = 1 if target.row > source.row else -1
        x = source.middle
        for row in range(source.row + step, target.row, step):
            if not rows[row]:
                continue
            x += (target.middle - x) / (abs(target.row - row) + 1)
            gap, x = _nearest(_gaps(rows[row], left, right), x, step)
            wanted[row, gap].append((x, i))
    found: list[list[tuple[int, float]]] = [[] for _ in routes]
    for (row, gap), entries in wanted.items():
        low, high = _gaps(rows[row], left, right)[gap]
        entries.sort()
        for (_, i), x in zip(entries, _spread([x for x, _ in entries], low, high), strict=True):
            found[i].append((row, x))
    for i, route in enumerate(routes):
        up = boxes[route.edge["source"]].row > boxes[route.edge["target"]].row
        found[i].sort(reverse=up)
    return found


def _gaps(row: list[Box], left: float, right: float) -> list[tuple[float, float]]:
    """Return where a row can be passed; at both of its ends there is always some room."""
    edges = [(left - 2 * _GAP, row[0].x)]
    edges += [(a.x + a.width, b.x) for a, b in pairwise(row)]
    edges.append((row[-1].x + row[-1].width, max(right, row[-1].x + row[-1].width + _GAP)))
    return [
        (low + _CLEAR, high - _CLEAR) if high - low > 2 * _CLEAR else (high - 1, high - 1)
        for low, high in edges
    ]


def _nearest(gaps: list[tuple[float, float]], x: float, step: int) -> tuple[int, float]:
    """Choose a gap; of two that are as near, edges down take the left one and edges up the right one."""
    far = [max(low - x, x - high, 0.0) for low, high in gaps]
    best = [i for i, distance in enumerate(far) if distance <= min(far) + 1][0 if step > 0 else -1]
    low, high = gaps[best]
    return best, min(max(x, low), high)


def _spread(wanted: list[float], low: float, high: float) -> list[float]:
    """Keep values in ascending order apart from each other, as near to what they were as the room allows."""
    apart = min(_APART, (high - low) / max(1, len(wanted) - 1))
    placed: list[float] = []
    for i, x in enumerate(wanted):
        least = placed[-1] + apart if placed else low
        placed.append(min(max(x, least), high - apart * (len(wanted) - 1 - i)))
    return placed


def _ports(
    routes: list[Route], boxes: dict[str, Box], passing: list[list[tuple[int, float]]]
) -> dict[tuple[int, str], float]:
    """Spread the ends of edges along the side of the box that they are at."""
    sides: dict[tuple[str, bool], list[tuple[float, int, str]]] = defaultdict(list)
    for i, route in enumerate(routes):
        source, target = boxes[route.edge["source"]], boxes[route.edge["target"]]
        rows = [x for _, x in passing[i]]
        leads = rows[0] if rows else target.middle
        comes = rows[-1] if rows else source.middle
        sides[source.name, source.row <= target.row].append((leads, i, "source"))
        sides[target.name, source.row >= target.row].append((comes, i, "target"))
    ports = {}
    for (name, _), ends in sides.items():
        box = boxes[name]
        for n, (_, i, end) in enumerate(sorted(ends), start=1):
            ports[i, end] = box.x + box.width * n / (len(ends) + 1)
    return ports
