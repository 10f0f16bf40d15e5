"""Do memories stay bounded? A million tokens in one session, with the gates held at the ends of their ranges.

    python -m benchmarks.long_stream [--tokens 1000000] [--result results/long_stream.json]

MLP and matrix memories, in a model as initialised and in one after a short training, each with its own gates
and with the rate at its highest and the retention at one, the rate at its highest and the retention at zero,
and the rate at zero and the retention at one. The stream has stretches of the task, of one token repeated and
of random tokens. After every piece the largest norm of a memory is held against its initial state; resident
memory is read after a tenth of the stream and at its end. One thread, no gradients, batch 1. The result is
written after every case.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.long_stream_run import (
    MEMORIES,
    SHAPE,
    TASK,
    Settings,
    cases,
    stream_case,
    training_losses,
)
from nestlearn.reporting.files import write_atomically

DEFAULT = Settings()


def main(
    tokens: Annotated[int, typer.Option(help="Tokens of each of the 16 streams.")] = DEFAULT.tokens,
    piece: Annotated[int, typer.Option(help="Tokens fed at a time.")] = DEFAULT.piece,
    updates: Annotated[int, typer.Option(help="Updates of the trained models.")] = DEFAULT.updates,
    seed: Annotated[int, typer.Option(help="Of models and streams.")] = DEFAULT.seed,
    result: Annotated[Path, typer.Option(help="JSON file for the figures.")] = Path(
        "results/long_stream.json"
    ),
) -> None:
    """Stream a million tokens through memories whose gates are held at their ends, and watch their size."""
    torch.set_num_threads(1)
    try:
        content = _run(Settings(tokens, piece, updates, seed), result)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print(f"stopped; {result} has the cases that were finished", file=sys.stderr)
        raise typer.Exit(130) from None
    _show(content)


def _run(settings: Settings, result: Path) -> dict[str, Any]:
    """Do all cases, writing after each."""
    content: dict[str, Any] = {
        "settings": asdict(settings),
        "shape": dict(SHAPE),
        "task": {"name": type(TASK).__name__, **asdict(TASK)},
        "torch": torch.__version__,
        "training_losses": {},
        "cases": [],
    }
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        line = progress.add_task("training", total=len(cases()) * settings.tokens)
        content["training_losses"] = {memory: training_losses(memory, settings) for memory in MEMORIES}
        for number, case in enumerate(cases()):
            progress.update(line, description=case.describe(), completed=number * settings.tokens)
            if not console.is_terminal:
                console.print(case.describe(), highlight=False)
            figures = stream_case(case, settings, lambda count: progress.advance(line, count))
            content["cases"].append({**asdict(case), **figures})
            write_atomically(result, json.dumps(content, indent=1) + "\n")
        progress.update(line, completed=len(cases()) * settings.tokens)
    return content


def _show(content: dict[str, Any]) -> None:
    table = Table(title=f"Memories over {content['settings']['tokens']:,} tokens")
    words = ("memory", "model", "gates")
    for column in (*words, "norm, largest", "last", "state KiB", "RAM grows, MiB", "tokens/s"):
        table.add_column(column, justify="left" if column in words else "right")
    for row in content["cases"]:
        norms = (row["largest_norm_ratio"], row["last_norm_ratio"])
        first, last = row["state_bytes"]
        size = f"{first / 1024:.0f}" if first == last else f"{first / 1024:.0f} to {last / 1024:.0f}"
        table.add_row(
            row["memory"],
            "trained" if row["trained"] else "untrained",
            row["gates"],
            *(f"{norm:.3g}" if row["finite"] else "not finite" for norm in norms),
            size,
            _growth(row["resident_bytes"]),
            str(row["tokens_per_cpu_second"]),
        )
    table.caption = "norm of a memory over that of its initial state"
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _growth(resident: list[int | None] | None) -> str:
    """Resident memory at the end minus that after a tenth of the stream."""
    if resident is None or resident[0] is None or resident[1] is None:
        return "-"
    return f"{(resident[1] - resident[0]) / 2**20:.1f}"


if __name__ == "__main__":
    typer.run(main)
