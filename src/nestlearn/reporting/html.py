"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nestlearn.reporting import sections, sections_text, sentences
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.markup import Html, h
from nestlearn.reporting.schema import Results, validate
from nestlearn.reporting.style import css_variables, language_name

__all__ = ["render_report", "write_report"]

# What a model wrote is escaped; this makes sure that nothing could load or run even if it were not.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(results: Mapping[str, Any], path: Path | str) -> None:
    """Write the report: plots, tables and text in one HTML file without links to anything outside it.

    The file appears whole or not at all. The same results give the same bytes.

    Args:
        results: the content of ``results.json``, as `load_results` returns it.
        path: where to write; its directory is made if need be.

    Raises:
        ValueError: a key of the results is missing or malformed; the message names it.
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    write_atomically(path, render_report(results))


def render_report(results: Mapping[str, Any]) -> str:
    """Return the report that `write_report` writes.

    Args:
        results: the content of ``results.json``.

    Returns:
        An HTML document.

    Raises:
        ValueError: a key of the results is missing or malformed; the message names it.
        ModuleNotFoundError: matplotlib is not installed.
    """
    checked = validate(results)
    headline = sentences.headline(checked)
    main = h(
        "main",
        _introduction(checked, headline),
        sections.curves(checked),
        sections.matched(checked),
        sections.matrices(checked),
        sections.trade(checked),
        sections.levels(checked),
        sections_text.samples(checked),
        sections.first_language(checked),
        id="main",
    )
    skip = h("a", "Skip to the result", href="#main", class_="skip")
    body = h("body", skip, main, sections_text.reproduce(checked))
    return f"<!doctype html>\n{h('html', _head(checked, headline), body, lang='en')}\n"


def _head(results: Results, headline: str) -> Html:
    """Say what the page is, what it may load (nothing), and how it looks."""
    return h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("meta", name="description", content=headline),
        h("link", rel="icon", href="data:,"),
        h("title", f"nestlearn: {', '.join(map(language_name, results['languages']))}"),
        h("style", _css()),
    )


def _introduction(results: Results, headline: str) -> Html:
    """Open with the result."""
    names = " → ".join(language_name(code) for code in results["languages"])
    listed = h("ul", (h("li", sentence) for sentence in sentences.sentences(results)), class_="lead")
    kicker = h("p", f"nestlearn · {names} · seed {results['seed']}", class_="kicker")
    return h("header", kicker, h("h1", headline), listed)


def _css() -> Html:
    """Return the style sheet with the colours of both schemes."""
    sheet = resources.files("nestlearn.reporting").joinpath("report.css").read_text(encoding="utf-8")
    light, dark = css_variables(dark=False), css_variables(dark=True)
    return Html(f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{sheet}")
