"""A file or folder that is whole or not there: written beside its place, flushed, and moved."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nestlearn.converting.content import is_companion
from nestlearn.converting.forms import CONFIG, INDEX
from nestlearn.training.checkpoint import umask


@contextmanager
def staged(target: Path, force: bool) -> Iterator[Path]:
    """A place beside the target, which is moved there at the end, or deleted with all that is in it.

    Args:
        target: The file or folder to come.
        force: Whether a target that exists is replaced, a folder only if it holds nothing but a model.

    Raises:
        ValueError: If the target exists and may not be replaced.
    """
    if target.exists() or target.is_symlink():
        _refuse_other_things(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    draft = scratch / target.name
    try:
        scratch.mkdir()
        yield draft
        for path in [draft, *draft.rglob("*")]:
            _flush(path)
        with _undisturbed():
            _move(draft, target, scratch / "before")
    finally:
        with _undisturbed():
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


def _move(draft: Path, target: Path, aside: Path) -> None:
    """Put the draft in the target's place; on failure the target is as it was."""
    if target.is_dir():
        target.replace(aside)
        try:
            draft.replace(target)
        except BaseException:
            aside.replace(target)
            raise
    else:
        draft.replace(target)


def _flush(path: Path) -> None:
    """Have a file or folder on the disk before it is renamed, readable for whom new files are."""
    if path.is_file():
        path.chmod(0o666 & ~umask())  # safetensors writes for the owner alone
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_other_things(target: Path, force: bool) -> None:
    """Raises ValueError for a target that must stay."""
    if not force:
        raise ValueError(f"{target} exists: choose another target, or replace it with force (--force)")
    if target.is_dir() and not target.is_symlink():
        own = (CONFIG, INDEX)
        other = [
            entry.name
            for entry in sorted(target.iterdir())
            if entry.is_dir()
            or not (entry.name in own or entry.suffix == ".safetensors" or is_companion(entry.name))
        ]
        if other:
            raise ValueError(f"{target} holds {other[0]}, which is not a model's: choose another target")
    elif not target.is_file() or target.is_symlink():
        raise ValueError(f"{target} is no ordinary file or folder: choose another target")


__all__ = ["staged"]
