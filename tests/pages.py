"""Runs the Python examples of a page of docs, one after the other in one namespace."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", flags=re.DOTALL)


def examples(page: str) -> list[tuple[str, str]]:
    """The examples of a page: code, and what the page shows below it (empty where it shows nothing)."""
    return _EXAMPLE.findall((DOCS / page).read_text(encoding="utf-8"))


def run_examples(page: str, names: dict[str, object] | None = None) -> dict[str, object]:
    """Run a page's examples and compare what they print with what the page shows.

    Args:
        page: Name of a file in docs.
        names: What the examples find in their namespace.

    Returns:
        The namespace after the last example.

    Raises:
        AssertionError: If an example prints something else, or the page has none.
    """
    names = {} if names is None else names
    found = examples(page)
    assert found, f"{page} has no examples"
    for number, (code, shown) in enumerate(found, start=1):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, f"docs/{page}, example {number}", "exec"), names)
        if shown:
            assert out.getvalue() == shown, f"example {number} of {page}"
    return names
