"""What docs/hub.md shows is what its code does."""

from __future__ import annotations

from tests.pages import examples, run_examples


def test_the_examples_do_what_the_page_shows(tmp_path, monkeypatch):
    assert [bool(shown) for _, shown in examples("hub.md")] == [False, True, True, True, True]
    monkeypatch.chdir(tmp_path)
    run_examples("hub.md")
