"""One layer's memories alone, composed of PyTorch's operations and compiled, beside their products' floor.

    python -m benchmarks.memories [--result results/memories.json]

Forward and backward of :func:`nestlearn.memory.chunk.self_modifying` at the shape of the other benchmarks,
one thread, float32. The forms take turns; medians of several rounds. The floor is what the equations
multiply, forward once and backward twice, at the speed of PyTorch's batched product of 64 x 64 matrices in
the same run.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from nestlearn.memory import MemoryParameters, MemoryRule, Streams, native
from nestlearn.memory.chunk import self_modifying
from nestlearn.reporting.files import write_atomically

BATCH, HEADS, WIDTH, CHUNK = 4, 4, 64, 64
#: Products of a chunk's tokens with tiles of 64 x 64, by kind of memory: projections and own targets with the
#: keys' products, writes of five memories, their ends, the read; causal products count half.
TILES = {"mlp": 16.5 + 5 * 5.5 + 10 + 6, "matrix": 8.5 + 5 * 1.5 + 5 + 3}


def memories(kind: str, tokens: int) -> Callable[[], None]:
    """A function that runs a layer's memories forward and backward once."""
    rule = MemoryRule(kind=kind, chunk_size=CHUNK)  # type: ignore[arg-type]
    count, g = len(rule.names), torch.Generator().manual_seed(0)

    def leaf(*shape: int, scale: float) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=g)).requires_grad_()

    weights = tuple(leaf(count, HEADS, WIDTH, WIDTH, scale=0.1) for _ in range(2 if kind == "mlp" else 1))
    bias = torch.tensor([0.0, 4.0]).view(2, 1, 1).repeat(1, HEADS, 1).requires_grad_()  # retentions near 0.98
    parameters = MemoryParameters(
        weights, leaf(2, HEADS, WIDTH, scale=0.1), bias, torch.full((count, HEADS), 0.5).requires_grad_()
    )
    streams = Streams(*(leaf(BATCH, HEADS, tokens, WIDTH, scale=1.0) for _ in range(3)))

    def step() -> None:
        reads, _ = self_modifying(streams, parameters, None, rule)
        reads.sum().backward()

    return step


def timed(step: Callable[[], None], compiled: bool) -> float:
    """CPU-seconds of one step in one of the two forms."""
    before = os.environ.get(native.SWITCH)
    os.environ[native.SWITCH] = str(int(compiled))
    try:
        started = time.process_time()
        step()
        return time.process_time() - started
    finally:
        os.environ.pop(native.SWITCH) if before is None else os.environ.update({native.SWITCH: before})


def machine(rounds: int = 50) -> dict[str, float]:
    """Operations a second of a batched product of 80 tiles, and bytes a second of one product by elements."""
    x, y = torch.randn(2, 80, WIDTH, WIDTH)

    def median(function: Callable[[], Any]) -> float:
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    return {
        "operations": 2 * 80 * WIDTH**3 / median(lambda: x @ y),
        "bytes": 3 * x.numel() * 4 / median(lambda: x * y),
    }


def measure(tokens: int, rounds: int) -> dict[str, Any]:
    """All forms in turns."""
    steps = {kind: memories(kind, tokens) for kind in TILES}
    forms = [(kind, compiled) for kind in TILES for compiled in (False, True)]
    forms = [form for form in forms if native.available() or not form[1]]
    times: dict[tuple[str, bool], list[float]] = {form: [] for form in forms}
    speed = []
    for number in range(rounds + 1):
        speed.append(machine())
        for kind, compiled in forms:
            seconds = timed(steps[kind], compiled)
            if number:  # the first round warms up
                times[kind, compiled].append(seconds)
    chunks = BATCH * HEADS * tokens / CHUNK
    per_second = statistics.median(s["operations"] for s in speed)
    return {
        "shape": {"batch": BATCH, "heads": HEADS, "width": WIDTH, "chunk": CHUNK, "tokens": tokens},
        "rounds": rounds,
        "products_per_second": per_second,
        "pass_bytes_per_second": statistics.median(s["bytes"] for s in speed),
        "forms": [
            {
                "memory": kind,
                "compiled": compiled,
                "milliseconds": 1e3 * statistics.median(seconds),
                "floor_milliseconds": 1e3 * 3 * TILES[kind] * chunks * 2 * WIDTH**2 * CHUNK / per_second,
            }
            for (kind, compiled), seconds in times.items()
        ],
    }


def main(
    tokens: Annotated[int, typer.Option(min=1, help="Length of each of the four sequences.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds; medians are shown.")] = 9,
    result: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Time one layer's memories, composed and compiled, forward and backward."""
    torch.set_num_threads(1)
    if not native.available():
        print("the compiled form is not built or switched off: `nestlearn native` builds it", file=sys.stderr)
    content = measure(tokens, rounds)
    if result is not None:
        write_atomically(result, json.dumps(content, indent=1) + "\n")
    table = Table(title=f"One layer's memories, forward and backward, 4 x {tokens} tokens")
    for column in ("memory", "form", "ms", "floor, ms", "of floor"):
        table.add_column(column, justify="left" if column in {"memory", "form"} else "right")
    for form in content["forms"]:
        share = form["floor_milliseconds"] / form["milliseconds"]
        name = "compiled" if form["compiled"] else "composed"
        times = (f"{form['milliseconds']:.0f}", f"{form['floor_milliseconds']:.0f}", f"{share:.0%}")
        table.add_row(form["memory"], name, *times)
    speeds = content["products_per_second"] / 1e9, content["pass_bytes_per_second"] / 1e9
    table.caption = f"products {speeds[0]:.0f} GFLOP/s, a pass by elements {speeds[1]:.0f} GB/s"
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
