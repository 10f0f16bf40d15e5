"""The page: a nested system and its run in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.markup import h
from nestlearn.reporting.style import THEME, clean
from nestlearn.reporting.system.data import BUDGETS, run_data, system_data
from nestlearn.reporting.system.document import check_run, check_system
from nestlearn.reporting.system.kinds import EDGES
from nestlearn.reporting.system.words import one_line

__all__ = ["SCRIPTS", "render_page", "write_page"]

_MOST_BYTES = 1_900_000
#: Parts of the script, in the order in which they stand in the page.
SCRIPTS = (
    "basics.js",
    "layout.js",
    "lanes.js",
    "rings.js",
    "details.js",
    "tables.js",
    "system.js",
    "series.js",
    "charts.js",
    "timeline.js",
    "page.js",
)


def write_page(
    path: Path | str,
    system: Mapping[str, Any] | None,
    run: Mapping[str, Any] | None = None,
    *,
    live: str | None = None,
) -> None:
    """Write the page that `render_page` returns. The file appears whole or not at all.

    Args:
        path: where to write; its directory is made if need be.
        system: as for `render_page`.
        run: likewise.
        live: likewise.

    Raises:
        ValueError: as `render_page`.
        OSError: the file cannot be written.
    """
    write_atomically(path, render_page(system, run, live=live))


def render_page(
    system: Mapping[str, Any] | None, run: Mapping[str, Any] | None = None, *, live: str | None = None
) -> str:
    """Return a page that shows a system, a run, or both.

    The page works from disk and loads nothing. The same documents give the same bytes, at most 2 MB: what a
    long run has more of is thinned out, with true counts.

    Args:
        system: what ``nl.inspect(...).to_json()`` gave; None if it is not known.
        run: what happened along a stream; None to show the system alone.
        live: an address on the page's own server, such as ``/run.json``, that the page asks for the run every
            two seconds. Without it nothing is asked for.

    Returns:
        An HTML document.

    Raises:
        ValueError: both are missing, ``live`` leads to another server, or a document cannot be drawn.
    """
    if system is None and run is None:
        raise ValueError("there is nothing to show: give a system, a run, or both")
    if live is not None and (not live.startswith("/") or live.startswith("//")):
        raise ValueError(f"live is {live!r}; it must be a path on the page's own server, such as '/run.json'")
    checked = None if system is None else check_system(system)
    ran = None if run is None else check_run(run)
    page = ""
    for budget in BUDGETS:
        data = {
            "system": None if checked is None else system_data(checked, budget),
            "run": None if ran is None else run_data(ran, budget),
            "live": live,
            "edges": [{"kind": e.kind, "words": e.words, "dash": e.dash, "head": e.head} for e in EDGES],
        }
        page = _page(data)
        if len(page.encode()) <= _MOST_BYTES:
            break
    return page


def _page(data: Mapping[str, Any]) -> str:
    """Put what never changes and the data into the frame."""
    shown = data["system"] or data["run"]
    style, script = f"{_theme()}\n{_asset('page.css')}", _script()
    allowed = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:"
    allowed += "; base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if data["live"] else "")
    parts = {
        "policy": h("meta", http_equiv="Content-Security-Policy", content=allowed),
        "title": h("title", one_line(shown["title"])[:200] or "a nested system"),
        "style": f"<style>{style}</style>",
        "data": f'<script type="application/json" id="data">{_embedded(data)}</script>',
        "script": f"<script>{script}</script>",
    }
    frame = _asset("page.html")
    for name, content in parts.items():
        before, after = frame.split(f"<!-- {name} -->")
        # The data come last of what is split, so that nothing in a name is taken for a mark.
        frame = f"{before}{content}{after}" if name != "data" else frame
    before, after = frame.split("<!-- data -->")
    return f"{before}{parts['data']}{after}"


def _script() -> str:
    parts = "\n".join(_asset(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def _theme() -> str:
    """Return the colours as custom properties, for the reader's preference or choice, and for paper."""
    light, dark = (_variables(i) for i in (0, 1))
    return (
        f":root {{ {light} }}\n"
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}\n'
        f':root[data-theme="dark"] {{ {dark} }}\n'
        f"@media print {{ :root, :root[data-theme] {{ {light} }} }}"
    )


def _variables(scheme: int) -> str:
    colours = {name: pair[scheme] for name, pair in THEME.items()}
    colours |= {f"edge-{edge.kind}": (edge.light, edge.dark)[scheme] for edge in EDGES}
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def _embedded(data: Mapping[str, Any]) -> str:
    """Return JSON that no text in it can end, and that UTF-8 can hold."""
    text = clean(json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    """Return what a content security policy knows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")
