"""Starts the workers of :mod:`benchmarks.peers`, lets them take turns and collects their figures."""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers_models import CONTESTANTS, Size

#: Seconds of real time that a worker may take for what should take one CPU-second, and to start.
PATIENCE, START = 6.0, 300.0

#: Freed memory stays with the process, in pages of 2 MiB (glibc). By its default tensors above 32 MiB are
#: fetched from the system at every step, in pages of 4 KiB, which takes much of a long step.
KEEP = {
    "GLIBC_TUNABLES": f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**40}"
}
#: What kept memory takes over the tensors' peak.
HOLES = 1.3

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        size: Common shape of the models.
        batch: Sequences per step.
        lengths: Tokens per sequence, ascending.
        rounds: Turns of every contestant at every length.
        step_limit: CPU-seconds that one step may take.
        budget: CPU-seconds of turns after which a contestant takes no further ones at a length; what
            takes longer in its first step is not asked for another.
        memory_limit: Bytes that one step may take beyond the model.
        turn: CPU-seconds of steps in one turn, so that short ones are not lost in the clock's noise.
        prompts: Prompt lengths of the decoding sessions; empty to leave decoding out.
        decoded: Tokens decoded per round, a multiple of the chunk size.
        piece: Tokens per piece of a prompt.
        keep: Freed memory stays with a process, in pages of 2 MiB; otherwise the system's rules hold.
    """

    size: Size = field(default_factory=Size)
    batch: int = 4
    lengths: tuple[int, ...] = (512, 1024, 2048, 8192)
    rounds: int = 5
    step_limit: float = 120.0
    budget: float = 120.0
    memory_limit: int = 16 * 2**30
    turn: float = 1.0
    prompts: tuple[int, ...] = (512, 65536)
    decoded: int = 128
    piece: int = 512
    keep: bool = False


class WorkerError(Exception):
    """A worker cannot do what it was asked; the message is the reason."""


class Remote:
    """A worker process."""

    def __init__(self, keep: bool) -> None:
        environment = {
            **os.environ,
            **(KEEP if keep else {}),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1],
            env=environment,
            text=True,
        )

    def ask(self, patience: float, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            WorkerError: If the worker reports a failure, dies, or takes more than ``patience`` seconds.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(command) + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._death()) from None
        if not select.select([stdout], [], [], patience)[0]:
            self.stop()
            raise WorkerError(f"no answer within {patience:.0f} s")
        line = stdout.readline()
        if not line:
            raise WorkerError(self._death())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _death(self) -> str:
        return f"its process ended with code {self.process.wait()} (-9: out of memory)"


@contextmanager
def _stopping(workers: dict[str, Remote]) -> Iterator[None]:
    try:
        yield
    finally:
        for worker in workers.values():
            worker.stop()


def measure(plan: Plan, names: list[str], tell: Callable[[str], None]) -> Iterator[dict[str, dict[str, Row]]]:
    """Figures of every contestant at every length so far, or ``{"skipped": reason}``, length by length.

    Args:
        plan: What to measure.
        names: Contestants, by their names in ``CONTESTANTS``.
        tell: Called with a word on every piece of work that begins; :func:`pieces` counts them.
    """
    rows: dict[str, dict[str, Row]] = {name: {} for name in names}
    for length in plan.lengths:
        _length(plan, length, rows, tell)
        yield rows


def pieces(plan: Plan, names: list[str]) -> int:
    """How often :func:`measure` and :func:`decode` call ``tell``."""
    return len(plan.lengths) * len(names) * (1 + plan.rounds) + bool(plan.prompts) * (1 + plan.rounds)


def _length(plan: Plan, length: int, rows: dict[str, dict[str, Row]], tell: Callable[[str], None]) -> None:
    workers: dict[str, Remote] = {}
    with _stopping(workers):
        for name, own in rows.items():
            tell(f"{name}, {length} tokens, first step")
            reason = CONTESTANTS[name].missing() or _hopeless(plan, length, own)
            if reason is None:
                workers[name] = Remote(plan.keep)
                own[str(length)] = _first(plan, name, length, workers[name])
            else:
                own[str(length)] = {"skipped": reason}
        crowded = _crowded([own[str(length)] for own in rows.values()])
        for turn in range(plan.rounds):
            for name, own in rows.items():
                tell(f"{name}, {length} tokens, round {turn + 1}")
                if name in workers and "skipped" not in own[str(length)]:
                    _turn(plan, own[str(length)], workers[name], crowded)
    for own in rows.values():
        _summary(plan, length, own[str(length)])


def _hopeless(plan: Plan, length: int, own: dict[str, Row]) -> str | None:
    """Why not even to try a length, judged by the length before."""
    if not own:
        return None
    before = list(own)[-1]
    row, growth = own[before], length / int(before)
    if "skipped" in row:
        return f"skipped at {before} tokens already: {row['skipped'].removeprefix('not tried: ')}"
    seconds, extra = row["step_seconds"] * growth, row["peak_bytes"] * growth
    if seconds > plan.step_limit:
        return f"not tried: a step would take {seconds:.0f} s or more, the limit is {plan.step_limit:.0f} s"
    if extra > plan.memory_limit:
        return (
            f"not tried: a step would take {extra / 2**30:.1f} GiB, "
            f"the limit is {plan.memory_limit / 2**30:.1f} GiB"
        )
    return None


def _first(plan: Plan, name: str, length: int, worker: Remote) -> Row:
    try:
        size = plan.size.__dict__
        built = worker.ask(START, do="build", name=name, length=length, batch=plan.batch, size=size)
        limit = min(plan.memory_limit, available_bytes() * 9 // 10)
        first = worker.ask(PATIENCE * plan.step_limit, do="first", memory_limit=limit, keep=plan.keep)
    except WorkerError as error:
        return {"skipped": str(error)}
    if first["seconds"] > 1.5 * plan.step_limit:
        return {"skipped": f"a step takes {first['seconds']:.0f} s, the limit is {plan.step_limit:.0f} s"}
    # What is over the budget at once has its first step as its only one.
    turns = [first["seconds"]] if first["seconds"] > plan.budget else []
    return {**built, "peak_bytes": first["bytes"], "first_seconds": first["seconds"], "turns": turns}


def _crowded(rows: list[Row]) -> bool:
    """Whether the contestants of a length cannot all keep their memory between their turns."""
    needed: float = sum(row.get("peak_bytes", 0) for row in rows) * HOLES
    return needed > available_bytes()


def _turn(plan: Plan, row: Row, worker: Remote, crowded: bool) -> None:
    """One turn: as many steps as last ``plan.turn``. Later rounds of what is over its budget are left out."""
    seconds = row["turns"][-1] if row["turns"] else row["first_seconds"]
    times = max(1, round(plan.turn / max(seconds, 1e-3)))
    if sum(row["turns"]) + seconds > plan.budget and row["turns"]:
        return
    try:
        answer = worker.ask(2 * PATIENCE * plan.step_limit, do="steps", times=times, crowded=crowded)
    except WorkerError as error:
        row["skipped"] = str(error)
        return
    row["turns"].append(answer["seconds"])


def _summary(plan: Plan, length: int, row: Row) -> None:
    if "skipped" in row:
        return
    tokens = plan.batch * length
    speeds = [tokens / seconds for seconds in row["turns"]]
    row["step_seconds"] = statistics.median(row["turns"])
    row["tokens_per_cpu_second"] = statistics.median(speeds)
    row["spread"] = [min(speeds), max(speeds)]
    row["peak_bytes_per_token"] = row["peak_bytes"] / tokens


def ratio(own: Row, other: Row) -> float | None:
    """Median over the common rounds of one contestant's speed over another's."""
    if "skipped" in own or "skipped" in other:
        return None
    pairs: list[tuple[float, float]] = list(zip(own["turns"], other["turns"], strict=False))
    return statistics.median(theirs / ours for ours, theirs in pairs)


def decode(plan: Plan, changes: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Row]:
    """CPU-seconds per decoded token and bytes of state after several prompts, the sessions alternating."""
    worker = Remote(plan.keep)
    prompts = list(plan.prompts)
    with _stopping({"": worker}):
        tell("decoding: reading the prompts")
        request = {"changes": changes, "size": plan.size.__dict__, "prompts": prompts, "piece": plan.piece}
        prefill = worker.ask(START + 0.1 * sum(prompts), do="prefill", **request)
        turns = []
        for turn in range(plan.rounds):
            tell(f"decoding, round {turn + 1}")
            turns.append(worker.ask(START, do="decode", count=plan.decoded))
    seconds = [[turn["seconds"][i] for turn in turns] for i in range(len(prompts))]
    ratios = [[b / a for a, b in zip(seconds[0], own, strict=True)] for own in seconds]
    return {
        str(prompt): {
            "prefill_tokens_per_cpu_second": prompt / prefill["seconds"][i],
            "cpu_seconds_per_token": statistics.median(seconds[i]),
            "ratio_to_shortest": statistics.median(ratios[i]),
            "state_bytes_after_prompt": prefill["bytes"][i],
            "state_bytes": turns[-1]["bytes"][i],
        }
        for i, prompt in enumerate(prompts)
    }


def available_bytes() -> int:
    """Memory that the machine could give now; a large number where it does not say."""
    path = Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 2**50


def peak_speed() -> float:
    """Operations per CPU-second of one float32 product, one thread; median of five."""
    torch.set_num_threads(1)
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    speeds = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(20):
            a @ b
        speeds.append(20 * 2 * 512**3 / (time.process_time() - started))
    return statistics.median(speeds)
