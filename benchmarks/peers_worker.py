"""One contestant in a process of its own, for :mod:`benchmarks.peers`: answers commands, one JSON per line.

    {"do": "build", "name": ..., "length": ..., "batch": ..., "size": {...}}
    {"do": "first", "memory_limit": bytes, "keep": bool}  the first step: seconds, bytes beyond the baseline
    {"do": "steps", "times": n, "crowded": bool}   CPU seconds of n steps
    {"do": "prefill", "prompts": [...], "piece": n}  two or more sessions of decoding
    {"do": "decode", "count": n}                   CPU seconds of n tokens of each session in turn

A process of its own gives every contestant a memory measurement that others do not disturb, and lets it
fail alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ctypes
import gc
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers_models import CONTESTANTS, Size, Step, UnavailableError, floor_operations, hope_model

WARM_UP = 64


def main() -> None:
    """Answer commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")  # what libraries print must not get between the answers
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # other packages'
    torch.set_num_threads(1)
    # Denormal numbers are zero for all: nested-learning's memories decay to them and then take twice as long.
    torch.set_flush_denormal(True)
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = worker.answer(command)
        except UnavailableError as error:
            answer = {"error": str(error)}
        except Exception as error:  # another package's: whatever it is, it becomes the reason
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        print(json.dumps(answer), file=answers, flush=True)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of malloc.h
_SMALL, _MANY = 2**17, 2**20
_HIGHEST = (
    2**25
)  # to which glibc lets its threshold for mapped blocks rise; the one for trimming is twice that


class Worker:
    """Holds what the commands build."""

    step: Step
    module: nn.Module
    model: Any
    ids: Tensor
    sessions: list[Any]

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        action: Callable[..., dict[str, Any]] = getattr(self, f"do_{command.pop('do')}")
        return action(**command)

    def do_build(self, name: str, length: int, batch: int, size: dict[str, int]) -> dict[str, Any]:
        """Build a contestant and let it take a short step, which allocates what stays."""
        torch.manual_seed(0)
        shape, contestant = Size(**size), CONTESTANTS[name]
        self.module, self.step = contestant.build(shape, length)
        self.ids = torch.randint(shape.vocab, (batch, length))
        self.step(self.ids[:, : min(WARM_UP, length)])
        return {
            "parameters": sum(p.numel() for p in self.module.parameters() if p.requires_grad),
            "floor_operations": floor_operations(contestant, self.module, shape, length),
        }

    def do_first(self, memory_limit: int, keep: bool) -> dict[str, Any]:
        """The first step of full length, with its peak of memory beyond what the model itself takes.

        From then on freed memory stays with the process, all of it or as much as by the system's default.
        """
        _trim()
        limit = _status("VmSize") + memory_limit
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
        # Freed blocks go back at once: what is counted is held by tensors, not by holes in the heap.
        _allocator(_M_MMAP_THRESHOLD, _SMALL)
        _allocator(_M_MMAP_MAX, _MANY)
        _forget_peak()
        before = _status("VmRSS")
        seconds = self._steps(1)
        extra = _peak_bytes() - before
        if keep:
            _allocator(_M_MMAP_MAX, 0)
        else:
            _allocator(_M_MMAP_THRESHOLD, _HIGHEST)
            _allocator(_M_TRIM_THRESHOLD, 2 * _HIGHEST)
        return {"seconds": seconds, "bytes": extra}

    def do_steps(self, times: int, crowded: bool) -> dict[str, Any]:
        """Steps of full length in memory that this process has already.

        In a crowd a turn begins with an untimed step, which fetches the memory, and ends by giving it back.
        """
        if crowded:
            self._steps(1)
        seconds = self._steps(times)
        if crowded:
            _trim()
        return {"seconds": seconds}

    def _steps(self, times: int) -> float:
        started = time.process_time()
        for _ in range(times):
            self.step(self.ids)
        return (time.process_time() - started) / times

    @torch.no_grad()
    def do_prefill(
        self, changes: dict[str, Any], size: dict[str, int], prompts: list[int], piece: int
    ) -> dict[str, Any]:
        """Read prompts of several lengths in pieces, each into a cache of its own."""
        from nestlearn.models.hope import HopeCache  # noqa: PLC0415  (other contestants do not need it)

        torch.manual_seed(0)
        self.model = hope_model(Size(**size), changes).eval()
        self.ids = torch.randint(size["vocab"], (1, max(prompts)))
        self.sessions, seconds = [], []
        for prompt in prompts:
            cache = HopeCache()
            seconds.append(self._feed(self.ids[:, :prompt].split(piece, dim=1), cache))
            self.sessions.append(cache)
        return {"seconds": seconds, "bytes": [cache.num_bytes() for cache in self.sessions]}

    @torch.no_grad()
    def do_decode(self, count: int) -> dict[str, Any]:
        """Feed every session ``count`` tokens one by one, the sessions alternating token by token."""
        seconds = [0.0] * len(self.sessions)
        for token in self.ids[:, :count].split(1, dim=1):
            for index, cache in enumerate(self.sessions):
                seconds[index] += self._feed((token,), cache)
        return {
            "seconds": [total / count for total in seconds],
            "bytes": [cache.num_bytes() for cache in self.sessions],
        }

    def _feed(self, pieces: tuple[Tensor, ...], cache: Any) -> float:
        """CPU-seconds of reading pieces ``[1, n]`` one after another."""
        started = time.process_time()
        for piece in pieces:
            self.model(piece, past_key_values=cache)
        return time.process_time() - started


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status; 0 where there is none."""
    path = Path("/proc/self/status")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _forget_peak() -> None:
    """Start the kernel's high-water mark anew (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return  # the mark then includes building, which is smaller than a step of interest


def _peak_bytes() -> int:
    """Highest resident memory of this process."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _allocator(parameter: int, value: int) -> None:
    """Set from which size on, or how many, blocks are mapped one by one and returned when freed (glibc)."""
    try:
        ctypes.CDLL(None).mallopt(parameter, value)
    except AttributeError:
        return


def _trim() -> None:
    """Give free memory back to the system (glibc), so that waiting contestants hold none."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return


if __name__ == "__main__":
    main()
