"""The report: one file, complete, safe, the same every time."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nestlearn.reporting import render_report, write_report
from tests.reporting.builder import build_results

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Checks that tags balance, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report() -> str:
    return render_report(build_results())


@pytest.fixture(scope="module")
def page(report: str) -> Page:
    return Page(report)


def test_everything_is_there(page: Page) -> None:
    for word in ("English", "French", "German", "Hope with levels", "Hope, ordinary training"):
        assert word in page.text
    for word in ("Transformer, ordinary training", "After English", "After French", "After German"):
        assert word in page.text
    for word in ("fast", "middle", "slow", "16,384", "nestlearn demo --seed 0", "9f2c" * 16, "3,012"):
        assert word in page.text
    assert len(page.all("h1")) == 1


def test_sections_come_in_the_order_of_the_argument(page: Page) -> None:
    keys = ["stream", "matched", "matrix", "trade", "levels", "samples", "first"]
    found = [section["aria-labelledby"] for section in page.all("section")]
    assert found == [f"{key}-heading" for key in keys]


def test_there_is_a_panel_per_language_and_per_pair(page: Page) -> None:
    titles = [attributes["aria-labelledby"] for attributes in page.all("svg") if "role" in attributes]
    keys = ["curve-0", "curve-1", "curve-2", "trade-0", "trade-1", "trade-2", "levels-0", "first"]
    assert titles == [f"{key}-title {key}-desc" for key in keys]


def test_every_prompt_is_continued_by_every_run_after_every_stage(page: Page) -> None:
    assert len(page.all("blockquote")) == 2 * 3 * 3
    assert {attributes["lang"] for attributes in page.all("blockquote")} == {"en"}


def test_pictures_have_names_and_tables_have_headings(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.all("svg"):
        if attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img"
            assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)
    for tag in ("section", "svg"):
        for attributes in page.all(tag):
            named = attributes.get("aria-labelledby")
            assert named is None or set(named.split()) <= set(ids)
    assert all(attributes.get("scope") in {"row", "col"} for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html") == [{"lang": "en"}]


def test_what_scrolls_can_be_reached_by_keyboard(page: Page) -> None:
    regions = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert regions
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def test_nothing_is_loaded_from_anywhere(report: str, page: Page) -> None:
    assert "http://" not in report
    assert "https://" not in report
    assert "@import" not in report
    assert "url(" not in report.replace("url(#", "")
    assert not page.all("script")
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policies
    assert (policies[0] or "").startswith("default-src 'none'")


def test_references_inside_pictures_lead_somewhere(report: str, page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert set(re.findall(r"url\(#([^)]*)\)", report)) <= ids
    assert {(use["href"] or "")[1:] for use in page.all("use")} <= ids


def test_both_colour_schemes(report: str, page: Page) -> None:
    assert "@media (prefers-color-scheme: dark)" in report
    pictures = report[report.index("</head>") :]
    assert re.findall(r"(?:fill|stroke|background): ?#[0-9a-f]{3,6}", pictures) == []
    assert "var(--run-0)" in pictures


def test_the_same_results_give_the_same_bytes(report: str, tmp_path: Path) -> None:
    write_report(build_results(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == report.encode()


def test_what_can_be_computed_need_not_be_stored(report: str) -> None:
    assert render_report(build_results(derived=False)) == report


def test_text_of_others_is_escaped() -> None:
    attack = '<script>alert("x")</script><img src=x onerror=alert(1)>\'"&]]>-->\x00\ud800\x1b[31m'
    results = build_results()
    sample = results["runs"]["nested"]["samples"][0]
    sample["text"] = sample["prompt"] = sample["language"] = attack
    results["corpus"] = {attack: attack}
    results["environment"] = {attack: [attack]}
    results["command"] = attack
    run = results["runs"]["nested"]
    run["config"] = {attack: attack}
    run["levels"][0]["name"] = attack
    results["runs"][attack] = results["runs"].pop("transformer")
    for row in results["matched_all"]:
        row["rise"][attack] = row["rise"].pop("transformer")
    results["matched"] = None
    text = render_report(results)
    page = Page(text)
    assert not page.all("script")
    assert not page.all("img")
    assert "\x00" not in text
    assert '<script>alert("x")</script>' in page.text
    text.encode()


def test_language_codes_and_level_names_are_no_mathematics() -> None:
    results = build_results(("$x^$", "快", "<b>"))
    results["runs"]["nested"]["levels"][0]["name"] = "$\\frac$"
    assert "$x^$" in Page(render_report(results)).text


@pytest.mark.parametrize("languages", [("en",), ("en", "fr"), ("en", "fr", "de", "es", "it")])
@pytest.mark.parametrize(
    "runs", [("nested",), ("finetune", "transformer"), ("transformer", "nested", "mine")]
)
def test_other_streams_and_missing_runs(languages: tuple[str, ...], runs: tuple[str, ...]) -> None:
    page = Page(render_report(build_results(languages, runs, evaluations=4)))
    assert len([svg for svg in page.all("svg") if svg.get("role")]) >= len(languages)
    assert ("Learning against forgetting" in page.text) == (len(languages) > 1)
    assert ("When each level updated" in page.text) == ("nested" in runs)


def test_results_with_nothing_optional() -> None:
    results = build_results(derived=False)
    for run in results["runs"].values():
        for key in set(run) - {"matrix", "curve", "params", "tokens", "seconds"}:
            del run[key]
    for key in ("corpus", "environment"):
        del results[key]
    text = Page(render_report(results)).text
    assert "The same prompt" not in text
    assert "When each level updated" not in text


def test_the_command_that_makes_the_results_again() -> None:
    results = build_results(("en", "it"), seed=7, evaluations=2)
    assert "nestlearn demo --seed 7 --languages en,it" in Page(render_report(results)).text
    results["quick"] = True
    text = Page(render_report(results)).text
    assert "--languages en,it --quick" in text
    assert "quick run of tiny models" in text
    results["command"] = "make demo"
    assert "make demo" in Page(render_report(results)).text


def test_a_run_that_diverged_at_first_still_fits() -> None:
    results = build_results(derived=False)
    results["runs"]["finetune"]["curve"][0]["bits_per_byte"]["en"] = 1e6
    assert "start at up to 1000000.0" in Page(render_report(results)).text


def test_a_long_stream_stays_small() -> None:
    results = build_results(("en", "fr", "de", "es", "it"), evaluations=400)
    for run in results["runs"].values():
        run["updates"] = {name: list(range(0, 2_000_000, 100)) for name in ("fast", "middle", "slow")}
        run["levels"] = results["runs"]["nested"]["levels"]
        run["commits"] = list(range(0, 2_000_000, 1000))
        run["samples"] = [
            {"stage": stage, "language": "en", "prompt": f"prompt {k}", "text": "wörd " * 1000}
            for k in range(100)
            for stage in range(5)
        ]
    text = render_report(results)
    assert len(text.encode()) < 1_500_000
    page = Page(text)
    assert "more prompts are in results.json" in page.text
    assert "of 2001 evaluations" in page.text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sub" / "report.html"
    write_report(build_results(("en",), evaluations=2), path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(build_results(evaluations=2), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_malformed_results_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing key 'runs'"):
        write_report({"metric": "bits_per_byte", "languages": ["en"], "seed": 0}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
