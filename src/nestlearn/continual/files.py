"""Documents out of files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def read_files(paths: Iterable[str | Path]) -> Iterator[Any]:
    """The documents of files and folders, in order.

    A ``.jsonl`` file has one document a line: a string, a record with ``text`` or ``messages``, or a chat.
    Any other file is one document in UTF-8. Of a folder all files count, by name; those that are hidden or no
    text are left out.

    Args:
        paths: Files and folders.

    Raises:
        ValueError: If one does not exist or is no text.
    """
    for given in paths:
        path = Path(given)
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
                if file.is_file() and not hidden and _is_text(file):
                    yield from _documents(file)
        elif path.is_file():
            yield from _documents(path)
        else:
            raise ValueError(f"there is no file {path}")


def _is_text(path: Path) -> bool:
    """Whether the beginning of a file is UTF-8 without zero bytes."""
    with path.open("rb") as file:
        start = file.read(4096)
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4  # a character that the sample cuts in two
    return b"\0" not in start


def _documents(path: Path) -> Iterator[Any]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error
    if path.suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}, is no JSON: {error.msg}") from error
