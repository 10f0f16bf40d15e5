"""Where the raw text comes from: a chain of providers, tried in order.

1. A local folder: the argument ``data_dir`` or the environment variable ``NESTLEARN_DATA``. Who names a
   folder means that folder, so its failure is final and nothing else is tried.
2. Debian packages, through the package manager (`nestlearn.streams.debian`).
3. The hub, through the optional library ``datasets`` (`nestlearn.streams.hub`): another corpus, under its own
   name.

A provider either returns its `Material` or raises `UnavailableError` with the reason. What is found but wrong
(a checksum that differs, too few paragraphs) is a `DataError` at once: going on to the next provider would
hide it.
"""

import os
import tempfile
from pathlib import Path

from nestlearn.streams.debian import from_debian
from nestlearn.streams.errors import DataError
from nestlearn.streams.hub import from_hub
from nestlearn.streams.libreoffice import PACKAGES, find_help
from nestlearn.streams.material import Material, UnavailableError, help_material, package_material
from nestlearn.streams.progress import Progress, silent

DATA_VARIABLE = "NESTLEARN_DATA"


def local_folder(data_dir: Path | None = None) -> Path | None:
    """Return the folder of the user's own files: the argument, else ``NESTLEARN_DATA``, else None."""
    named = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE) or None
    return None if named is None else Path(named).expanduser().resolve()


def find_material(data_dir: Path | None = None, progress: Progress = silent) -> Material:
    """Return the raw text of the first provider that has it.

    Args:
        data_dir: The local folder; default ``NESTLEARN_DATA``.
        progress: Called while pages are read.

    Raises:
        DataError: A named local folder does not hold the text, no provider has any (the message lists what
            was tried and what to do), or what a provider found is not what it should be.
    """
    folder = local_folder(data_dir)
    if folder is not None:
        return from_folder(folder, progress)
    reasons = [f"local folder: {DATA_VARIABLE} is not set"]
    for title, provider in (("Debian packages", from_debian), ("hub", from_hub)):
        try:
            return provider(progress)
        except UnavailableError as reason:
            reasons.append(f"{title}: {reason}")
    raise DataError(
        f"No parallel text could be found ({'; '.join(reasons)}): on Debian or Ubuntu run `apt-get update` "
        "once as root, elsewhere run `pip install datasets`, both with internet access, or set "
        f"{DATA_VARIABLE} to a folder with the packages {', '.join(PACKAGES.values())}."
    )


def from_folder(folder: Path, progress: Progress = silent) -> Material:
    """Read the help from a folder: the help itself, a tree that holds it, or its five Debian packages.

    Raises:
        DataError: The folder is not there, holds neither, or the packages cannot be unpacked.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: correct {DATA_VARIABLE} or unset it.")
    help_folder = find_help(folder)
    if help_folder is not None:
        return help_material(help_folder, str(folder), progress)
    packages = _local_packages(folder)
    with tempfile.TemporaryDirectory(prefix="nestlearn-") as scratch:
        try:
            return package_material(packages, Path(scratch), str(folder), progress)
        except UnavailableError as reason:
            raise DataError(
                f"The packages in {folder} cannot be unpacked ({reason}): unpack them elsewhere and set "
                f"{DATA_VARIABLE} to that tree."
            ) from reason


def _local_packages(folder: Path) -> list[Path]:
    found = {name: sorted(folder.glob(f"{name}_*.deb")) for name in PACKAGES.values()}
    missing = [name for name, files in found.items() if not files]
    if missing:
        raise DataError(
            f"{folder} holds neither the LibreOffice help in all five languages nor the packages "
            f"{', '.join(missing)}: add them, or unset {DATA_VARIABLE}."
        )
    twice = [name for name, files in found.items() if len(files) > 1]
    if twice:
        raise DataError(f"{folder} holds more than one package {', '.join(twice)}: keep one version of each.")
    return [files[0] for files in found.values()]
