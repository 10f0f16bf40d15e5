"""Writing a file so that a reader finds all of it or none of it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path | str, content: str | bytes) -> None:
    """Write a file beside its destination, then move it there in one step.

    Args:
        path: the destination; its directory is made if need be, and the file replaced if it exists.
        content: bytes, or text to be written as UTF-8.

    Raises:
        OSError: the file cannot be written; the destination is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
