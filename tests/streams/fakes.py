"""Small fake help pages, in the layout of the real ones."""

import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nestlearn.streams.libreoffice import PACKAGES

FOLDERS = {"en": "en-US", "fr": "fr", "de": "de", "es": "es", "it": "it"}
HELP = Path("usr/share/libreoffice/help")

Elements = Sequence[tuple[str, str]]


def page(elements: Elements) -> str:
    """One page: paragraphs outside of the article, the article's (id, inner HTML), and a footer."""
    article = "\n".join(
        f'<p id="{name}" class="paragraph" dir="auto">{inner}</p>' for name, inner in elements
    )
    return (
        "<!DOCTYPE html><html><head><title>x</title><script>if (1 < 2) {}</script></head><body>"
        '<header><p id="menu">LibreOffice 7.4 Help, a paragraph of the menu</p></header>'
        f'<div id="DisplayArea" itemscope="true">\n{article}\n</div>'
        '<footer><p id="bm_module">A paragraph of the footer of the page</p></footer></body></html>'
    )


def sentence(language: str, number: int) -> str:
    return f"{language}: paragraph number {number} says something of its own."


def numbered_pages(count: int, per_page: int = 50) -> dict[str, dict[str, Elements]]:
    """[page][language] -> elements; `count` paragraphs in all, translated and distinct in every language."""
    return {
        f"module/{start:05d}.html": {
            language: [
                (f"par_id{n}", sentence(language, n)) for n in range(start, min(start + per_page, count))
            ]
            for language in FOLDERS
        }
        for start in range(0, count, per_page)
    }


def write_help(root: Path, pages: Mapping[str, Mapping[str, Elements]]) -> Path:
    """Write a tree as the packages unpack it; returns its root."""
    for name, versions in pages.items():
        for language, elements in versions.items():
            file = root / HELP / FOLDERS[language] / "text" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(page(elements), encoding="utf-8")
    return root


def build_packages(target: Path, tree: Path) -> list[Path]:
    """Build one Debian package per language from a tree."""
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for language, name in PACKAGES.items():
        source = target / f"build-{name}"
        shutil.copytree(tree / HELP / FOLDERS[language], source / HELP / FOLDERS[language])
        control = source / "DEBIAN" / "control"
        control.parent.mkdir()
        control.write_text(
            f"Package: {name}\nVersion: 9.9\nArchitecture: all\nMaintainer: x <x@y.org>\nDescription: x\n"
        )
        files.append(target / f"{name}_9.9_all.deb")
        subprocess.run(["dpkg-deb", "--build", "-Znone", source, files[-1]], check=True, capture_output=True)
        shutil.rmtree(source)
    return files


def write_script(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
