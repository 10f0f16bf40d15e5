"""The cache folder: one parallel corpus, its manifest, and tokenizers. Nothing half-written is ever there.

The corpus is ``parallel-<checksum>.jsonl.gz``, named by its contents, and ``manifest.json`` says which one is
current. Each file appears by one atomic rename, the manifest last. So a reader never sees a manifest without
its corpus, two processes that build at once write the same bytes under the same name, and a crash leaves the
previous state.
"""

import contextlib
import errno
import gzip
import hashlib
import json
import os
import time
import uuid
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from nestlearn.streams.errors import DataError

FORMAT = 1  # of rows, splits and files; a cache of another format is built anew
CACHE_VARIABLE = "NESTLEARN_CACHE"

_MANIFEST = "manifest.json"
_ABANDONED = 24 * 3600  # seconds after which a temporary file belongs to a process that was killed


@dataclass(frozen=True)
class Manifest:
    """What the cached corpus is."""

    format: int
    corpus: str  # its name: "libreoffice-help 7.4.7"
    origin: str  # a folder, "debian" or "hub"
    rows: int
    sha256: str  # of the uncompressed JSONL


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Return the cache folder, which need not exist yet.

    The argument, else ``$NESTLEARN_CACHE``, else ``$XDG_CACHE_HOME/nestlearn``, else ``~/.cache/nestlearn``.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "nestlearn"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that its name stands for the old contents or for all of the new, never for a part.

    Raises:
        DataError: The folder cannot be written.
    """
    prepare_folder(path.parent)
    # In the same folder, since a rename must not cross disks; a name of its own, since others may write too.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def prepare_folder(folder: Path) -> None:
    """Create the cache folder, and remove what processes that were killed left in it.

    Raises:
        DataError: It cannot be created or written. Asked before a build, this saves the work of building.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(folder, error) from error
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()


def save_corpus(folder: Path, *, corpus: str, origin: str, rows: int, content: bytes) -> Manifest:
    """Store canonical JSONL as the current corpus.

    Args:
        folder: The cache folder.
        corpus: Name of the corpus.
        origin: Where it came from.
        rows: Number of lines.
        content: The JSONL, uncompressed.

    Raises:
        DataError: The folder cannot be written.
    """
    manifest = Manifest(FORMAT, corpus, origin, rows, hashlib.sha256(content).hexdigest())
    write_atomic(_corpus_file(folder, manifest), gzip.compress(content, compresslevel=6, mtime=0))
    write_atomic(folder / _MANIFEST, (json.dumps(asdict(manifest), indent=2) + "\n").encode())
    return manifest


def load_manifest(folder: Path) -> Manifest | None:
    """Return the manifest, or None when there is none of this format with its corpus beside it.

    Raises:
        DataError: It is there but cannot be read.
    """
    path = folder / _MANIFEST
    try:
        fields = json.loads(path.read_bytes())
        if fields["format"] != FORMAT:
            return None
        manifest = Manifest(**fields)
        return manifest if _corpus_file(folder, manifest).exists() else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, str(error)) from error


def load_content(folder: Path, manifest: Manifest) -> bytes:
    """Return the JSONL of a manifest, verified.

    Raises:
        DataError: It is not what the manifest states; the message names the file to delete.
    """
    path = _corpus_file(folder, manifest)
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise _damaged(path, "its checksum is not the one of the manifest")
    if content.count(b"\n") != manifest.rows:
        raise _damaged(folder / _MANIFEST, "it states another number of rows than the corpus has")
    return content


def _corpus_file(folder: Path, manifest: Manifest) -> Path:
    return folder / f"parallel-{manifest.sha256[:16]}.jsonl.gz"


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"The cached file {path} is damaged ({reason}): delete it and run again to build it anew."
    )


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be written ({error.strerror or error}): make room or permission there, or set "
        f"{CACHE_VARIABLE} to another folder."
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system allows opening a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
