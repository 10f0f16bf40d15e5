"""Debian packages, fetched and verified without root, and the LibreOffice help from them."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nestlearn.streams.errors import DataError
from nestlearn.streams.libreoffice import PACKAGES
from nestlearn.streams.material import Material, UnavailableError, package_material
from nestlearn.streams.progress import Progress, silent

_TOOLS = ("apt-cache", "apt-get", "dpkg-deb")
_PATIENCE = 300  # seconds for one command; the five packages are 15 MB
# Without a network the package manager would otherwise try each mirror for minutes.
_OPTIONS = tuple(
    part
    for setting in ("Retries=1", "http::Timeout=20", "https::Timeout=20")
    for part in ("-o", f"Acquire::{setting}")
)


class PackageFacts(NamedTuple):
    """What the package list states about one package."""

    version: str
    sha256: str  # hexadecimal


def from_debian(progress: Progress = silent) -> Material:
    """Download the five help packages, verify each against the package list, and read them.

    Raises:
        UnavailableError: This is no Debian machine, its package list is empty, or the download fails.
        DataError: A package's SHA-256 is not the one of the package list, or its contents are wrong.
    """
    with tempfile.TemporaryDirectory(prefix="nestlearn-") as temporary:
        folder = Path(temporary)
        packages = download(tuple(PACKAGES.values()), folder, progress)
        return package_material(packages, folder / "unpacked", "debian", progress)


def download(names: Sequence[str], folder: Path, progress: Progress = silent) -> list[Path]:
    """Download packages into a folder and verify each against the package list.

    Raises:
        UnavailableError: This is no Debian machine, its package list lacks one, or the download fails.
        DataError: A package's SHA-256 is not the one of the package list.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(f"{missing[0]} is not on this machine")
    facts = package_facts(names)
    progress("Fetching packages", 0, len(facts))
    wanted = [f"{name}={fact.version}" for name, fact in facts.items()]
    _run(["apt-get", *_OPTIONS, "download", *wanted], folder)
    progress("Fetching packages", len(facts), len(facts))
    return [verified(folder, name, fact) for name, fact in facts.items()]


def package_facts(names: Sequence[str]) -> dict[str, PackageFacts]:
    """Return version and SHA-256 of the candidate version of each package, by its name.

    Raises:
        UnavailableError: The package list does not know them all.
    """
    lacking = UnavailableError(
        f"the package list lacks {names[0]}{' or its sisters' if len(names) > 1 else ''}"
    )
    try:
        text = _run(["apt-cache", "show", "--no-all-versions", *names])
    except UnavailableError as reason:
        raise lacking from reason
    facts: dict[str, PackageFacts] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", paragraph, flags=re.MULTILINE))
        if {"Package", "Version", "SHA256"} <= fields.keys():
            facts.setdefault(fields["Package"], PackageFacts(fields["Version"], fields["SHA256"].lower()))
    if not set(names) <= facts.keys():
        raise lacking
    return {name: facts[name] for name in names}


def verified(folder: Path, name: str, fact: PackageFacts) -> Path:
    """Return the downloaded file of a package once its SHA-256 is the stated one.

    Raises:
        UnavailableError: The file is not there.
        DataError: The file is another one than the package list states.
    """
    files = sorted(folder.glob(f"{name}_*.deb"))
    if not files:
        raise UnavailableError(f"the download of {name} left no file")
    found = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if found != fact.sha256:
        raise DataError(
            f"The downloaded package {files[0].name} has SHA-256 {found} where the package list states "
            f"{fact.sha256}: run `apt-get update` as root and try again, and do not use this file."
        )
    return files[0]


def _run(command: list[str], folder: Path | None = None) -> str:
    """Run a command in plain English and return what it printed."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"`{command[0]}` failed ({error})") from error
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        reason = complaints[0].removeprefix("E:").strip() if complaints else f"exit code {done.returncode}"
        raise UnavailableError(f"`{command[0]}` failed ({reason})")
    return done.stdout
