"""The LibreOffice help as parallel paragraphs.

The help is 2,560 HTML pages with the same file names and the same paragraph ids in every language. The
article of a page begins at the element with id ``DisplayArea``; there, every ``<p>`` and ``<h1>`` to ``<h6>``
with an id is one paragraph. The help is licensed MPL-2.0.
"""

import contextlib
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from nestlearn.streams.errors import DataError
from nestlearn.streams.languages import LANGUAGES
from nestlearn.streams.progress import Progress, silent
from nestlearn.streams.rows import ParallelRow, is_translated

CORPUS = "libreoffice-help"
PACKAGES = {
    language: f"libreoffice-help-{'en-us' if language == 'en' else language}" for language in LANGUAGES
}
"""The Debian package of each language."""

_FOLDERS = {language: "en-US" if language == "en" else language for language in LANGUAGES}
_PLACES = (".", "help", "libreoffice/help", "share/libreoffice/help", "usr/share/libreoffice/help")
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6"})
_ARTICLE = 'id="DisplayArea"'


def find_help(folder: Path) -> Path | None:
    """Return the help folder (it holds ``en-US/text`` and its sisters) at or in a folder, or None."""
    for place in _PLACES:
        candidate = folder / place
        if all((candidate / name / "text").is_dir() for name in _FOLDERS.values()):
            return candidate
    return None


def help_version(help_folder: Path) -> str:
    """Return the version of the help, such as "7.4.7", from the change log of its Debian package.

    Without that, the short version in the heading of its first page; without both, "unknown version".
    """
    log = help_folder.parent.parent / "doc" / PACKAGES["en"] / "changelog.Debian.gz"
    found = None
    with contextlib.suppress(OSError, EOFError), gzip.open(log, "rt", encoding="utf-8") as lines:
        found = re.match(r"\S+ \((?:\d+:)?([0-9.]+)", lines.readline())
    if found is None:
        pages = sorted((help_folder / _FOLDERS["en"] / "text").rglob("*.html"))
        heading = pages[0].read_text(encoding="utf-8", errors="replace") if pages else ""
        found = re.search(r"LibreOffice ([0-9.]+) Help", heading)
    return found[1] if found else "unknown version"


def read_help(help_folder: Path, progress: Progress = silent) -> Iterator[ParallelRow]:
    """Yield the paragraphs that are translated into all languages, page by page in the order of their names.

    A paragraph is known by its page and its id. Where one page uses an id for two texts (it embeds parts of
    other pages) a translation cannot be told from the other by id, nor by position, since some lists are
    sorted anew in each language: those paragraphs are left out.

    Args:
        help_folder: What `find_help` returned.
        progress: Called after each page.

    Raises:
        DataError: A page cannot be read, or is not UTF-8 text.
    """
    english = help_folder / _FOLDERS["en"] / "text"
    pages = sorted(page.relative_to(english).as_posix() for page in english.rglob("*.html"))
    for done, page in enumerate(pages, start=1):
        files = [help_folder / folder / "text" / page for folder in _FOLDERS.values()]
        if all(file.is_file() for file in files):
            yield from _align([_read_page(file) for file in files])
        progress("Reading the help pages", done, len(pages))


def parse_page(html: str) -> dict[str, str]:
    """Return the paragraphs of one help page: id -> text with white space normalised.

    Ids that stand for more than one text in the page are absent.
    """
    # The pages are mostly head, menus and scripts; cutting them off first makes parsing several times faster.
    start = html.find(_ARTICLE)
    if start < 0:
        return {}
    end = html.find("<footer", start)
    parser = _ArticleParser()
    parser.feed(html[html.find(">", start) + 1 : end if end >= 0 else len(html)])
    parser.close()
    paragraphs: dict[str, str] = {}
    ambiguous: set[str] = set()
    for paragraph_id, text in parser.paragraphs:
        if paragraphs.setdefault(paragraph_id, text) != text:
            ambiguous.add(paragraph_id)
    return {key: text for key, text in paragraphs.items() if key not in ambiguous}


def _read_page(file: Path) -> dict[str, str]:
    try:
        return parse_page(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}): fetch the help packages again.") from error


def _align(versions: list[dict[str, str]]) -> Iterator[ParallelRow]:
    for paragraph_id in versions[0]:
        if all(paragraph_id in version for version in versions):
            texts = tuple(version[paragraph_id] for version in versions)
            if is_translated(texts):
                yield ParallelRow(paragraph_id, texts)


@dataclass
class _Span:
    """An open ``<span>`` inside a paragraph."""

    start: int  # how many pieces of text the paragraph had before it
    is_switch: bool
    is_default: bool
    # Of a switch, each with whether it is the default.
    branches: list[tuple[bool, list[str]]] = field(default_factory=list)

    def chosen(self) -> list[str]:
        """Return the pieces of the default branch, or of the first one."""
        defaults = [pieces for is_default, pieces in self.branches if is_default]
        every = defaults + [pieces for _, pieces in self.branches]
        return every[0] if every else []


class _ArticleParser(HTMLParser):
    """Collects ``(id, text)`` of the paragraphs of an article, in order.

    A "switch" holds the same words for several systems or programs (``Command``/``Ctrl``); a browser shows
    one branch, so one branch is kept. Keeping all would glue them together as ``CommandCtrl``.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[tuple[str, str]] = []
        self._id: str | None = None
        self._tag = ""
        self._pieces: list[str] = []
        self._spans: list[_Span] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _PARAGRAPHS:
            self._finish()  # a paragraph that was never closed ends where the next begins
            self._id = dict(attrs).get("id") or None
            self._tag = tag
        elif self._id is None:
            return
        elif tag == "br":
            self._pieces.append(" ")
        elif tag == "span":
            named = dict(attrs)
            is_switch = named.get("class") == "switchinline"
            is_default = (named.get("id") or "").startswith("default")
            self._spans.append(_Span(len(self._pieces), is_switch, is_default))

    def handle_endtag(self, tag: str) -> None:
        if self._id is None:
            return
        if tag == self._tag:
            self._finish()
        elif tag == "span" and self._spans:
            span = self._spans.pop()
            if span.is_switch:
                self._pieces[span.start :] = span.chosen()
            elif self._spans and self._spans[-1].is_switch:
                self._spans[-1].branches.append((span.is_default, self._pieces[span.start :]))

    def handle_data(self, data: str) -> None:
        if self._id is not None:
            self._pieces.append(data)

    def _finish(self) -> None:
        if self._id is not None:
            self.paragraphs.append((self._id, " ".join("".join(self._pieces).split())))
        self._id = None
        self._pieces = []
        self._spans = []
