"""Where the documents of each domain come from; see :mod:`nestlearn.streams.domains`."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import subprocess
import sysconfig
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from nestlearn.streams import debian, pypi
from nestlearn.streams.errors import DataError
from nestlearn.streams.material import UnavailableError

_SHORTEST = 400  # characters of a file that is worth reading
_SHINGLE, _SAMPLED = 8, 16  # words of a shingle; one in so many is looked at
_HEADER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


def code(scratch: Path) -> Iterator[str]:
    """The files of Python's standard library, without tests."""
    del scratch
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED & set(path.relative_to(root).parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if len(text) >= _SHORTEST:
            yield text


def literature(scratch: Path) -> Iterator[str]:
    """The King James Bible by the blocks in which it is stored, a chapter or a book each, without markup.

    The module is a sequence of compressed blocks (``.bzz``) with an index of offset and length (``.bzs``).
    """
    folder = _unpacked("sword-text-kjv", scratch) / "usr/share/sword/modules/texts/ztext"
    for index in sorted(folder.rglob("*.bzs"), reverse=True):  # the old testament before the new one
        blocks = index.with_suffix(".bzz").read_bytes()
        for offset, length, _ in struct.iter_unpack("<III", index.read_bytes()):
            text = zlib.decompress(blocks[offset : offset + length]).decode("utf-8", errors="replace")
            text = re.sub(r"<note.*?</note>", "", text, flags=re.DOTALL)
            text = re.sub(r"<[^>]*>", " ", text).replace("\0", " ")
            text = re.sub(r"\s+([,.;:?!)])", r"\1", re.sub(r"\s+", " ", text)).strip()
            yield from _pieces(text, 4000)


def dictionary(scratch: Path) -> Iterator[str]:
    """Words with their definitions and examples."""
    folder = _unpacked("wordnet-base", scratch) / "usr/share/wordnet"
    for kind in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{kind}").read_text(encoding="latin-1").splitlines():
            fields, _, gloss = line.partition(" | ")
            parts = fields.split()
            if line.startswith("  ") or not gloss or len(parts) < 5:
                continue
            words = [parts[4 + 2 * i].replace("_", " ") for i in range(int(parts[3], 16))]
            yield f"{', '.join(words)}: {gloss.strip()}"


def legal(scratch: Path) -> Iterator[str]:
    """Texts of licences in English, those that mostly repeat others left out."""
    wheel = pypi.download(pypi.LICENCES, scratch)
    seen: set[int] = set()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".LICENSE"):
                continue
            text = _HEADER.sub("", archive.read(name).decode("utf-8", errors="replace")).strip()
            ascii_share = sum(character < "\x7f" for character in text) / max(1, len(text))
            if len(text) >= _SHORTEST and ascii_share > 0.97 and _is_new(text, seen):
                yield text


def _is_new(text: str, seen: set[int]) -> bool:
    """Whether less than half of a text's shingles were seen before; notes them if so."""
    words = re.findall(r"\w+", text.lower())
    found = set()
    for i in range(len(words) - _SHINGLE + 1):
        digest = hashlib.blake2b(" ".join(words[i : i + _SHINGLE]).encode(), digest_size=8).digest()
        value = int.from_bytes(digest, "big")
        if value % _SAMPLED == 0:
            found.add(value)
    if found and len(found & seen) >= 0.5 * len(found):
        return False
    seen |= found
    return True


def _pieces(text: str, length: int) -> Iterator[str]:
    """A long text at sentence ends, in pieces of about a length."""
    start = 0
    while start < len(text):
        end = text.find(". ", start + length)
        end = len(text) if end < 0 else end + 1
        yield text[start:end].strip()
        start = end


def _unpacked(package: str, scratch: Path) -> Path:
    """The tree of a Debian package."""
    (file,) = debian.download((package,), scratch)
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise UnavailableError("dpkg-deb is not on this machine")
    tree = scratch / "unpacked"
    done = subprocess.run([tool, "-x", file, tree], capture_output=True, check=False)
    if done.returncode != 0:
        raise DataError(f"{file.name} is not a sound Debian package: delete it and fetch it again.")
    return tree
