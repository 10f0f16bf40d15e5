"""What docs/inspecting.md shows is what its code does."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "inspecting.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE, flags=re.DOTALL)


def test_there_are_examples():
    assert len(BLOCKS) == 4
    assert sum(bool(shown) for _, shown in BLOCKS) == 3


@pytest.mark.filterwarnings("default")
def test_the_examples_do_what_the_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code, shown in BLOCKS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "docs/inspecting.md", "exec"), names)
        if shown:
            assert out.getvalue() == shown
    assert (tmp_path / "runs" / "ring" / "metrics.jsonl").exists()
