"""What docs/tracking.md shows is what its code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestlearn.observing.backends import BACKENDS
from tests.pages import examples, run_examples


def test_the_examples_do_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trackio.sqlite_storage

    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.chdir(tmp_path)
    try:
        run_examples("tracking.md")
    finally:
        BACKENDS.pop("lowest", None)
    assert (tmp_path / "trackio" / "nestlearn.db").exists()
    assert sum(bool(shown) for _, shown in examples("tracking.md")) == 2


def test_the_table_names_every_tracker() -> None:
    from tests.pages import DOCS

    page = (DOCS / "tracking.md").read_text(encoding="utf-8")
    for name in BACKENDS:
        assert f'| `"{name}"` |' in page
