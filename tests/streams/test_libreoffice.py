import gzip
from pathlib import Path

import pytest

from nestlearn.streams import DataError
from nestlearn.streams.libreoffice import find_help, help_version, parse_page, read_help
from tests.streams.fakes import FOLDERS, HELP, numbered_pages, page, write_help

SWITCH = (
    'Press <span id="swlnsys_1" class="switchinline">'
    '<span hidden="true" id="MACx_1" class="MAC"><span class="keycode">Command</span></span>'
    '<span hidden="true" id="defaultx_1"><span class="keycode">Ctrl</span></span>\n</span>'
    '<span class="keycode">+F</span> now.'
)


def test_only_paragraphs_of_the_article_are_read() -> None:
    assert parse_page(page([("a", "One."), ("b", "Two.")])) == {"a": "One.", "b": "Two."}
    assert parse_page("<html><p id='a'>No article here at all.</p></html>") == {}


def test_headings_count_and_elements_without_id_do_not() -> None:
    html = (
        '<div id="DisplayArea"><h1 id="t">Title</h1><p>no id</p><p id="">empty</p><h6 id="s">Sub</h6></div>'
    )
    assert parse_page(html) == {"t": "Title", "s": "Sub"}


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        ("Some <b>nested <i>tags</i></b>, <a href='x'>a link</a>.", "Some nested tags, a link."),
        ("Fish &amp; chips &lt;now&gt; &#233;t&eacute;&nbsp;!", "Fish & chips <now> été !"),
        ("  two\n\t lines<br>and<br/>breaks ", "two lines and breaks"),
        ('An image <img src="x.svg" alt="Icon"> here', "An image here"),
        (SWITCH, "Press Ctrl+F now."),
        (SWITCH.replace("defaultx", "WINx"), "Press Command+F now."),
        ('A <span class="switchinline"></span>gap', "A gap"),
        ("日本語 und Ümlaut", "日本語 und Ümlaut"),
    ],
)
def test_text_of_a_paragraph(inner: str, text: str) -> None:
    assert parse_page(page([("a", inner)])) == {"a": text}


def test_unclosed_paragraph_ends_where_the_next_begins() -> None:
    html = '<div id="DisplayArea"><p id="a">First <span class="switchinline"><p id="b">Second</p></div>'
    assert parse_page(html) == {"a": "First", "b": "Second"}


def test_an_id_with_two_texts_is_left_out() -> None:
    elements = [("a", "One."), ("b", "Two."), ("a", "Three."), ("b", "Two.")]
    assert parse_page(page(elements)) == {"b": "Two."}


def test_paragraphs_are_aligned_by_id_not_by_position(tmp_path: Path) -> None:
    pages = numbered_pages(3)
    versions = dict(pages["module/00000.html"])
    versions["de"] = list(reversed(versions["de"]))
    write_help(tmp_path, {"x.html": versions})
    rows = list(read_help(tmp_path / HELP))
    assert [row.id for row in rows] == ["par_id0", "par_id1", "par_id2"]
    assert all(f"number {n} " in text for n, row in enumerate(rows) for text in row.texts)


def test_untranslated_short_and_missing_paragraphs_are_dropped(tmp_path: Path) -> None:
    long = "A text of more than twenty characters"
    versions = {
        language: [
            ("kept", f"{long} {language}"),
            ("short", f"Short {language}"),
            ("same-in-german", f"{long} {'en' if language == 'de' else language}, two"),
            ("empty", long if language == "en" else ""),
            *([] if language == "it" else [("missing", f"{long} {language}, three")]),
        ]
        for language in FOLDERS
    }
    write_help(tmp_path, {"x.html": versions})
    (tmp_path / HELP / "en-US/text/only-english.html").write_text(page([("z", long)]), encoding="utf-8")
    assert [row.id for row in read_help(tmp_path / HELP)] == ["kept"]


def test_progress_is_reported(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    write_help(tmp_path, numbered_pages(4, per_page=2))
    list(read_help(tmp_path / HELP, lambda *call: calls.append(call)))
    assert [call[1:] for call in calls] == [(1, 2), (2, 2)]


def test_page_that_is_no_utf8_names_the_file(tmp_path: Path) -> None:
    write_help(tmp_path, numbered_pages(1))
    (tmp_path / HELP / "fr/text/module/00000.html").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"00000\.html cannot be read"):
        list(read_help(tmp_path / HELP))


def test_help_is_found_in_its_usual_places(tmp_path: Path) -> None:
    write_help(tmp_path, numbered_pages(1))
    for place in (tmp_path, tmp_path / "usr/share", tmp_path / "usr/share/libreoffice", tmp_path / HELP):
        found = find_help(place)
        assert found is not None
        assert found.samefile(tmp_path / HELP)
    (tmp_path / HELP / "it").rename(tmp_path / HELP / "pt")
    assert find_help(tmp_path) is None


def test_version_comes_from_the_change_log_then_from_the_heading(tmp_path: Path) -> None:
    assert help_version(tmp_path / HELP) == "unknown version"
    write_help(tmp_path, numbered_pages(1))
    assert help_version(tmp_path / HELP) == "7.4"
    log = tmp_path / "usr/share/doc/libreoffice-help-en-us/changelog.Debian.gz"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"not gzip")
    assert help_version(tmp_path / HELP) == "7.4"
    log.write_bytes(gzip.compress(b"libreoffice (4:7.4.7-1+deb12u14) bookworm; urgency=medium\n"))
    assert help_version(tmp_path / HELP) == "7.4.7"
