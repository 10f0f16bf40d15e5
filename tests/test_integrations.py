"""What the pages on integrations show is what their code does."""

from __future__ import annotations

import pytest

from tests.pages import run_examples


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", ["generating.md"])
def test_the_examples_do_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(page)
