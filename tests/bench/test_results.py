"""What is committed, against the code: a cheap cell is done again, and the page is what results make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nestlearn.bench.cells import Cell, Search, execute
from nestlearn.bench.page import write_page
from nestlearn.bench.store import StreamStores
from nestlearn.bench.streams import STREAMS
from nestlearn.streams import DataError

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "results" / "continual", ROOT / "docs" / "benchmark.md"


@pytest.mark.parametrize("method", ["class means", "ordinary"])
def test_a_cheap_cell_is_what_was_committed(method: str) -> None:
    """On another processor sums are rounded otherwise, so that a few digits may be taken for others."""
    records = StreamStores(RESULTS).records
    settings = records[Search("split", method).key]["best"]
    own = Cell("split", method, 0, settings)
    try:
        again = execute(own)
    except DataError as error:  # no network, and nothing in the cache
        pytest.skip(str(error))
    committed = records[own.key]
    assert again["accuracy"] == pytest.approx(committed["accuracy"], abs=0.02)
    for row, known in zip(again["matrix"], committed["matrix"], strict=True):
        assert row == pytest.approx(known, abs=0.05)
    assert again["stored_bytes"] == committed["stored_bytes"]
    assert again["operations"] == committed["operations"]


def test_the_page_is_made_of_the_results(tmp_path: Path) -> None:
    write_page(StreamStores(RESULTS).records, tmp_path / "benchmark.md")
    assert (tmp_path / "benchmark.md").read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_every_result_belongs_to_a_cell_that_there_is() -> None:
    """A record whose key nothing asks for is of settings that are gone: it has to be taken out."""
    for path in sorted(RESULTS.glob("*.json")):
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        stream = STREAMS[path.stem]
        known = set()
        for method in stream.entries:
            search = Search(stream.name, method)
            known.add(search.key)
            if search.key in runs:
                settings = runs[search.key]["best"]
                known |= {Cell(stream.name, method, seed, settings).key for seed in range(stream.seeds)}
        assert set(runs) <= known, path
