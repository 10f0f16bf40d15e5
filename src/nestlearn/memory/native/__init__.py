"""Compiled form of a self-modifying layer for processors: sources, build, and the library once it is built.

The products of one chunk are small and the passes between them many. Compiled, one sample and head stays in
a core's cache from the first chunk to the last. Nothing depends on it: where it is not built, or a rule asks
for what it does not know, :mod:`nestlearn.memory.chunk` computes the same.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch

#: Set to 0 to compute without the library.
SWITCH = "NESTLEARN_NATIVE"
_SOURCES = Path(__file__).parent
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


class UnavailableError(RuntimeError):
    """This machine cannot build the library."""


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
    parts = [torch.__version__, str(torch.version.git_version), _processor(), *_FLAGS]
    parts += [path.read_text(encoding="utf-8") for path in sorted(_SOURCES.glob("*.[ch]*"))]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():  # the standard says that a relative one does not count
        home = Path.home() / ".cache"
    return home / "nestlearn" / f"memories-{key}.so"


def build(*, force: bool = False) -> Path:
    """Compile the library, which takes half a minute; later calls and processes find it.

    Args:
        force: Compile again where there is one already.

    Returns:
        The library's path.

    Raises:
        UnavailableError: If the system is not Linux or there is no C++ compiler.
        RuntimeError: If the compiler refuses, with its last words.
    """
    if sys.platform != "linux":
        raise UnavailableError(
            f"the compiled memories are for Linux, this is {sys.platform}: all works without"
        )
    target = library()
    if target.exists() and not force:
        return target
    compiler = shlex.split(os.environ.get("CXX", "c++")) or ["c++"]
    if shutil.which(compiler[0]) is None:
        raise UnavailableError(
            f"no C++ compiler ({compiler[0]}): install g++ or name one in CXX; all works without, slower"
        )
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Under a name of its own until it is complete: another process may be building or loading.
    handle, part = tempfile.mkstemp(suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        command = [*compiler, *_FLAGS, str(_SOURCES / "layer.cpp"), "-o", part, *_torch()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(compiler)} failed: {done.stderr.strip()[-2000:]}")
        Path(part).replace(target)
    finally:
        Path(part).unlink(missing_ok=True)
    _load.cache_clear()
    return target


def _torch() -> list[str]:
    """What the compiler needs to know about this PyTorch, its own OpenMP first."""
    package = Path(torch.__file__).parent
    places = (package / "lib", package.parent / "torch.libs")
    openmp = [str(path) for place in places for path in sorted(place.glob("libgomp*.so*"))]
    return [
        f"-I{package / 'include'}",
        f"-I{package / 'include/torch/csrc/api/include'}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        "-Wl,--as-needed",
        *openmp[:1],
        f"-L{package / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
    ]


def _registered() -> bool:
    return hasattr(torch.ops.nestlearn, "self_modifying_forward")


@cache
def _load() -> bool:
    """Load the library if there is one; what is in the way is said once and changes nothing else."""
    try:
        path = library()
        if not path.exists():
            return False
        status = path.stat()
        if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
            raise OSError(f"{path} can be written by others")
        if not _registered():
            torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"the compiled memories are left out: {error}; `nestlearn native --force` builds them anew",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def available() -> bool:
    """Whether the library is built for this version and not switched off (``NESTLEARN_NATIVE=0``)."""
    return os.environ.get(SWITCH, "1") != "0" and _load()


__all__ = ["SWITCH", "UnavailableError", "available", "build", "library"]
