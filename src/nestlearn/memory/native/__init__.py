"""Compiled form of a self-modifying layer for processors: sources, build, and the library once it is built.

The products of one chunk are small and the passes between them many. Compiled, one sample and head stays in
a core's cache from the first chunk to the last. Nothing depends on it: where it is not built, or a rule asks
for what it does not know, :mod:`nestlearn.memory.chunk` computes the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path

import torch

_SOURCES = Path(__file__).parent
_NAMES = ("layer.cpp", "chunk_backward.h", "chunk.h", "tiles.h")
#: No flag here changes how other code of the process computes, as `-ffast-math` would.
_FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-std=c++20")
#: Set to 0 to compute without the library.
SWITCH = "NESTLEARN_NATIVE"


def _key() -> str:
    """What a built library depends on: sources, flags, PyTorch and the processor."""
    parts = [torch.__version__, *_FLAGS, torch.backends.cpu.get_cpu_capability()]
    parts += [(_SOURCES / name).read_text() for name in _NAMES]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def directory() -> Path:
    """Where this version's library is or will be."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "nestlearn" / "native" / _key()


def build(*, verbose: bool = False) -> Path:
    """Compile the library, which takes about a minute; later processes find it.

    Args:
        verbose: Show the compiler's commands.

    Returns:
        The library's path.

    Raises:
        RuntimeError: If there is no C++ compiler or no ninja, or the compiler refuses, naming what to do.
    """
    from torch.utils import cpp_extension  # noqa: PLC0415  (slow, and only needed here)

    for tool in (os.environ.get("CXX", "c++"), "ninja"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} was not found: the compiled memories need a C++ compiler and ninja")
    place = directory()
    place.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        name="nestlearn_native",
        sources=[str(_SOURCES / "layer.cpp")],
        extra_cflags=list(_FLAGS),
        build_directory=str(place),
        is_python_module=False,
        verbose=verbose,
    )
    _load.cache_clear()
    return place / "nestlearn_native.so"


@cache
def _load() -> bool:
    library = directory() / "nestlearn_native.so"
    if not library.exists():
        return False
    if not hasattr(torch.ops.nestlearn, "self_modifying_forward"):
        torch.ops.load_library(str(library))
    return True


def available() -> bool:
    """Whether the library is built for this version and not switched off (``NESTLEARN_NATIVE=0``)."""
    return os.environ.get(SWITCH, "1") != "0" and _load()


__all__ = ["SWITCH", "available", "build", "directory"]
