"""The picture: well-formed, without overlaps, the same every time."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestlearn.reporting.style import THEME
from nestlearn.reporting.system import system_svg
from nestlearn.reporting.system.kinds import EDGES
from nestlearn.reporting.system.layout import BOX_HEIGHT, lay_out
from tests.reporting.system.builder import hope, large, system

NS = "{http://www.w3.org/2000/svg}"


def boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    keys = ("x", "y", "width", "height")
    found = [rect for rect in root.iter(f"{NS}rect") if rect.get("class") == "box"]
    return [tuple(float(rect.get(key, "nan")) for key in keys) for rect in found]  # type: ignore[misc]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    across = a[0] < b[0] + b[2] and b[0] < a[0] + a[2]
    return across and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


@pytest.mark.parametrize("number", range(1, 31))
@pytest.mark.parametrize("levels", [1, 4, 15])
def test_boxes_do_not_overlap(number: int, levels: int):
    names = [f"component {i} " + "of a long name" * (i % 3) for i in range(number)]
    root = ET.fromstring(system_svg(system(names, levels=levels, edges=number)))
    found = boxes(root)
    assert len(found) == number
    assert not any(overlap(a, b) for a, b in combinations(found, 2))
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    assert all(x >= 200 and x + w <= width and y + h <= height for x, y, w, h in found)


def test_everything_is_there():
    text = system_svg(hope())
    root = ET.fromstring(text)
    assert root.findtext(f"{NS}title") == "HopeForCausalLM trained by Nested"
    assert "level 4, every 1,024 tokens: fast" in (root.findtext(f"{NS}desc") or "")
    labels = [element.text for element in root.iter(f"{NS}text")]
    for word in ("key memories of slow", "parameters · 4.72 M, 18.9 MB", "generation", "every 65,536 tokens"):
        assert word in labels
    routes = [element for element in root.iter(f"{NS}title") if "backpropagation:" in (element.text or "")]
    assert len(routes) == 4


def test_it_is_the_same_every_time_and_needs_nothing_else():
    text = system_svg(large())
    assert text == system_svg(large())
    assert text.count("http") == 1
    assert "href" not in text
    assert "url(" not in text


@given(st.lists(st.text(max_size=60), min_size=1, max_size=8, unique=True))
@settings(max_examples=60, deadline=None)
def test_any_name_is_text(names: list[str]):
    root = ET.fromstring(system_svg(system(names, levels=3, edges=4)))
    assert len(boxes(root)) == len(names)


@pytest.mark.parametrize("document", [hope(), large()])
def test_edges_cross_no_box(document: dict[str, Any]):
    levels = [[(name, 150.0) for name in level["components"]] for level in document["levels"]]
    layout = lay_out(levels, document["edges"], 200.0, 1000.0)
    assert len(layout.routes) == len(document["edges"])
    for route in layout.routes:
        for x, y in route.points[1:-1]:
            inside = [
                b for b in layout.boxes.values() if b.x < x < b.x + b.width and b.y <= y <= b.y + BOX_HEIGHT
            ]
            assert not inside, (route.edge, x, y)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("ground", ["paper", "band"])
def test_contrast(scheme: int, ground: str):
    below = THEME[ground][scheme]
    assert all(contrast(THEME[ink][scheme], below) >= 4.5 for ink in ("ink", "muted"))
    assert all(contrast((style.light, style.dark)[scheme], below) >= 3 for style in EDGES), "lines, no text"


def test_kinds_differ_by_more_than_colour():
    assert len({(style.dash, style.head) for style in EDGES}) == len({style.dash for style in EDGES}) == 5
