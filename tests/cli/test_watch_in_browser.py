"""``nestlearn watch --page`` in a real browser: the page follows the run."""

from __future__ import annotations

import pytest

from nestlearn.reporting.live import Server
from tests.observing.test_run import observed
from tests.reporting.test_page_in_browser import browser

__all__ = ["browser"]


def test_the_page_follows_the_run(browser, tmp_path):
    folder = tmp_path / "run"
    observed(folder)
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:5]), encoding="utf-8")
    server = Server(folder, 0)
    page = browser.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type in {"warning", "error"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    try:
        page.goto(server.address)
        page.wait_for_selector("text=Linear trained by SGD")
        assert "the run is finished" not in page.inner_text("body")
        file.write_text("".join(lines), encoding="utf-8")
        page.wait_for_selector("text=the run is finished", timeout=15_000)
        assert "48 tokens" in page.inner_text("body")
    finally:
        page.close()
        server.close()
    assert [text for text in wrong if "favicon" not in text] == []


@pytest.mark.parametrize("address", ["https://example.org/run.json", "//example.org/x", "run.json"])
def test_a_page_asks_its_own_server_only(address):
    from nestlearn.reporting.system import render_page
    from tests.reporting.system.builder import run

    with pytest.raises(ValueError, match="page's own server"):
        render_page(None, run(), live=address)
