"""What docs/converting.md shows is what its code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import examples, run_examples


def test_the_examples_do_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_examples("converting.md")
    assert sum(bool(shown) for _, shown in examples("converting.md")) == 4
