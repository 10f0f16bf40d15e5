"""What docs/inspecting.md shows is what its code does."""

from __future__ import annotations

import pytest

from tests.pages import examples, run_examples


def test_there_are_examples():
    found = examples("inspecting.md")
    assert len(found) == 4
    assert sum(bool(shown) for _, shown in found) == 3


@pytest.mark.filterwarnings("default")
def test_the_examples_do_what_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples("inspecting.md")
    assert (tmp_path / "runs" / "ring" / "metrics.jsonl").exists()
