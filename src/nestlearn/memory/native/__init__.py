"""Compiled form of a self-modifying layer for processors: sources, build, and the library once it is built.

The products of one chunk are small and the passes between them many. Compiled, one sample and head stays in
a core's cache from the first chunk to the last. Nothing depends on it: where it is not built, or a rule asks
for what it does not know, :mod:`nestlearn.memory.chunk` computes the same.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

#: Set to 0 to compute without the library.
SWITCH = "NESTLEARN_NATIVE"
_SOURCES = Path(__file__).parent
_NAMES = ("layer.cpp", "chunk_backward.h", "chunk.h", "tiles.h")
#: No flag here changes how other code of the process computes, as `-ffast-math` would.
_FLAGS = (
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-std=gnu++20",
    "-fPIC",
    "-shared",
    "-DAT_PARALLEL_OPENMP=1",
    "-DNDEBUG",
)


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return " ".join([platform.machine(), *sorted(set(features))])


@cache
def library() -> Path:
    """Where the library of these sources, this PyTorch and this processor is or will be."""
    parts = [torch.__version__, _processor(), *_FLAGS]
    parts += [(_SOURCES / name).read_text(encoding="utf-8") for name in _NAMES]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "nestlearn" / f"memories-{key}.so"


def build() -> Path:
    """Compile the library, which takes half a minute; later processes find it.

    Returns:
        The library's path.

    Raises:
        RuntimeError: If the system is not Linux, there is no C++ compiler, or the compiler refuses.
    """
    if sys.platform != "linux":
        raise RuntimeError(f"the compiled memories are for Linux, this is {sys.platform}: all works without")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise RuntimeError("no C++ compiler (c++, or the one in CXX): install g++; all works without, slower")
    target = library()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Under a name of its own until it is complete: another process may be building or loading.
    part = target.with_suffix(f".{os.getpid()}.part")
    package = Path(torch.__file__).parent
    command = [compiler, *_FLAGS, str(_SOURCES / "layer.cpp"), "-o", str(part)]
    command += [f"-I{package / 'include'}", f"-I{package / 'include/torch/csrc/api/include'}"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [f"-L{package / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{compiler} failed: {done.stderr.strip()[-2000:]}")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    _load.cache_clear()
    return target


@cache
def _load() -> bool:
    if not library().exists():
        return False
    if not hasattr(torch.ops.nestlearn, "self_modifying_forward"):
        torch.ops.load_library(str(library()))
    return True


def available() -> bool:
    """Whether the library is built for this version and not switched off (``NESTLEARN_NATIVE=0``)."""
    return os.environ.get(SWITCH, "1") != "0" and _load()


__all__ = ["SWITCH", "available", "build", "library"]
