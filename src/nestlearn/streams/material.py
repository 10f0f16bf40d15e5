"""What a provider returns, and how the help becomes it."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nestlearn.streams import libreoffice
from nestlearn.streams.errors import DataError
from nestlearn.streams.progress import Progress
from nestlearn.streams.rows import ParallelRow, unique


class UnavailableError(Exception):
    """A provider has nothing to offer on this machine; the message says why, as part of a longer sentence."""


@dataclass(frozen=True)
class Material:
    """The raw text that a provider found."""

    name: str  # of the corpus, for reports: "libreoffice-help 7.4.7"
    origin: str  # where it came from: a folder, "debian" or "hub"
    rows: tuple[ParallelRow, ...]  # distinct English texts


def help_material(help_folder: Path, origin: str, progress: Progress) -> Material:
    """Read a help folder into its distinct paragraphs."""
    rows = unique(libreoffice.read_help(help_folder, progress))
    name = f"{libreoffice.CORPUS} {libreoffice.help_version(help_folder)}"
    return Material(name, origin, tuple(rows))


def package_material(packages: Sequence[Path], scratch: Path, origin: str, progress: Progress) -> Material:
    """Unpack the five help packages into a scratch folder, and read them; needs no root.

    Raises:
        UnavailableError: ``dpkg-deb`` is not on this machine.
        DataError: A package is damaged, or together they do not hold the help in all languages.
    """
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise UnavailableError("dpkg-deb is not on this machine")
    for package in packages:
        done = subprocess.run([tool, "-x", package, scratch], capture_output=True, check=False)
        if done.returncode != 0:
            raise DataError(f"{package.name} is not a sound Debian package: delete it and fetch it again.")
    help_folder = libreoffice.find_help(scratch)
    if help_folder is None:
        raise DataError(
            f"The packages from {origin} do not hold the help in all five languages under "
            "usr/share/libreoffice/help: use the packages of Debian or Ubuntu."
        )
    return help_material(help_folder, origin, progress)
