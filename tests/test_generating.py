"""What docs/generating.md shows is what its code does."""

from __future__ import annotations

import pytest

from tests.pages import run_examples


@pytest.mark.filterwarnings("default")
def test_the_examples_do_what_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples("generating.md")
