"""The page: one file, complete, small, safe, the same every time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestlearn.reporting.system import render_page, run_payload, write_page
from nestlearn.reporting.system.thinning import spans, thin_points, thin_positions
from tests.reporting.system.builder import hope, large, run, system
from tests.reporting.test_html import Page


def data(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def policy(page: str) -> str:
    (found,) = [
        m["content"] for m in Page(page).all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    ]
    assert found is not None
    return found


def long_run(updates: int = 100_000, levels: int = 5, *, regular: bool = False) -> dict[str, Any]:
    """As many updates as there may be, at odd places, with all diagnostics of all levels."""
    each = updates // levels
    names = [f"level {i}" for i in range(levels)]
    ats = [[n * 7 + (0 if regular else n * n % 5) for n in range(each)] for _ in names]
    end = ats[0][-1]
    points = [[n * end // 20_000, 1 / (n + 1)] for n in range(20_000)]
    return run(end=end, every=max(1, end // 5000)) | {
        "end": end,
        "levels": [{"name": n, "period": 7, "updates": a} for n, a in zip(names, ats, strict=True)],
        "diagnostics": {n: dict.fromkeys(("drift", "dead", "rank", "fill", "idle"), points) for n in names},
        "surprises": ats[0],
        "alarms": [
            {"tokens": n, "level": "level 0", "kind": "x", "sentence": "much " * 20} for n in range(5000)
        ],
    }


def test_the_page_parses_and_has_its_data():
    page = render_page(hope(), run())
    parsed = Page(page)
    assert parsed.all("title") and len(parsed.all("h1")) == 1
    assert "HopeForCausalLM trained by Nested" in page
    found = data(page)
    assert [c["name"] for c in found["system"]["components"]] == [c["name"] for c in hope()["components"]]
    assert found["run"]["tasks"][0]["points"] == run()["tasks"][0]["points"]
    assert found["live"] is None


def test_nothing_outside_is_named():
    page = render_page(hope(), run())
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in page
    assert "connect-src" not in policy(page)
    assert "default-src 'none'" in policy(page)
    assert "unsafe" not in policy(page)


def test_live():
    page = render_page(hope(), run(), live="/run.json")
    assert "connect-src 'self'" in policy(page)
    assert data(page)["live"] == "/run.json"
    for elsewhere in ("//there/run.json", "https://there/run.json", "run.json"):
        with pytest.raises(ValueError, match="own server"):
            render_page(hope(), live=elsewhere)


def test_one_of_both_is_enough():
    assert data(render_page(hope()))["run"] is None
    assert data(render_page(None, run()))["system"] is None
    with pytest.raises(ValueError, match="nothing to show"):
        render_page(None)


def test_a_document_that_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"system\.format"):
        render_page({})
    with pytest.raises(ValueError, match=r"run\.format"):
        render_page(hope(), {})


def test_it_is_the_same_every_time():
    assert render_page(large(), run()) == render_page(large(), run())


@pytest.mark.parametrize("levels", [1, 5, 15])
def test_a_long_run_makes_a_small_page(levels: int):
    document = long_run(levels=levels)
    page = render_page(large(), document)
    assert len(page.encode()) < 2_000_000
    found = data(page)["run"]
    assert [level["count"] for level in found["levels"]] == [len(x["updates"]) for x in document["levels"]]
    for level in found["levels"]:
        assert sum(number for *_, number in level["spans"]) == level["count"]
    assert found["surpriseCount"] == len(document["surprises"])
    assert found["alarmCount"] == 5000


def test_long_names_make_a_small_page():
    document = system([f"{i}" + "x" * 5000 for i in range(30)], levels=15, edges=80)
    for component in document["components"]:
        component["tensors"] = [f"{'y' * 300}.{i}" for i in range(2000)]
    page = render_page(document, long_run())
    assert len(page.encode()) < 2_000_000
    assert data(page)["system"]["components"][0]["tensorCount"] == 2000


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5, unique=True))
@settings(max_examples=30, deadline=None)
def test_no_name_breaks_out(names: list[str]):
    names = [f"</script><!-- data --><script>{name}\u2028 & <!-- script -->" for name in names]
    document = system(names, levels=2) | {"title": names[0]}
    page = render_page(document)
    Page(page)
    assert page.count("<script") == 2
    clean = [c["name"] for c in data(page)["system"]["components"]]
    assert len(clean) == len(names)
    assert clean[0].startswith("</script><!-- data --><script>")


def test_writing(tmp_path: Path):
    path = tmp_path / "new" / "page.html"
    write_page(path, hope(), run())
    assert path.read_text(encoding="utf-8") == render_page(hope(), run())
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]
    with pytest.raises(ValueError, match="nothing to show"):
        write_page(path, None)
    assert path.stat().st_size > 10_000


def test_a_run_that_diverged_is_valid_json():
    document = run() | {"loss": [[1, 2.0], [2, float("nan")], [3, float("inf")], [4, 1.0]]}
    payload = json.loads(json.dumps(run_payload(document), allow_nan=False))
    assert payload["loss"] == [[1, 2.0], [2, None], [3, None], [4, 1.0]]


def test_regular_updates_are_kept_exactly():
    assert spans([4, 8, 12, 20, 24], 10) == [[4, 4, 3], [20, 4, 2]]
    assert spans(list(range(1024, 10**8, 1024)), 3) == [[1024, 1024, 97656]]
    assert spans([], 3) == []
    assert spans([5, 5, 5], 1) == [[5, 0, 3]]


@given(st.lists(st.integers(0, 10_000), max_size=300).map(sorted), st.integers(1, 40))
@settings(deadline=None)
def test_spans_are_true_to_number_and_ends(updates: list[int], most: int):
    found = spans(updates, most)
    assert len(found) <= most
    assert sum(number for *_, number in found) == len(updates)
    if updates:
        assert found[0][0] == updates[0]
        start, distance, number = found[-1]
        assert start + distance * (number - 1) == pytest.approx(updates[-1], abs=0.5)


@given(st.lists(st.floats(-1e6, 1e6), max_size=400), st.integers(3, 60))
@settings(deadline=None)
def test_thin_points_keep_the_extremes(values: list[float], most: int):
    points = [[i * 3, value] for i, value in enumerate(values)]
    kept = thin_points(points, most)
    assert len(kept) <= max(4, most + 1)
    assert [at for at, _ in kept] == sorted({at for at, _ in kept})
    if values:
        assert kept[0][0] == 0
        assert kept[-1][0] == points[-1][0]
        assert max(value for _, value in kept) == pytest.approx(max(values), rel=1e-5)
        assert min(value for _, value in kept) == pytest.approx(min(values), rel=1e-5)


def test_thin_points_keep_a_gap():
    points = [[i, float("nan") if i == 50 else 1.0] for i in range(100)]
    assert [50, None] in thin_points(points, 12)


def test_thin_positions():
    kept = thin_positions(list(range(1000)), 10)
    assert kept == [*range(0, 999, 100)] or len(kept) == 10
    assert kept[0] == 0
    assert thin_positions([1, 2], 10) == [1, 2]
