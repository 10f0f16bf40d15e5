"""Hope beside a plain Transformer, titans-pytorch and nested-learning, all in one run.

    make peers                                           # installs the other packages, then runs this
    python -m benchmarks.peers [--result results/peers.json]

One thread, float32, forward and backward without an optimizer. Every contestant has a process of its own per
length; they take turns, so that a change of the machine's speed meets all of them. The first step of a
process gives the peak of memory; it counts as warm-up. With ``--keep`` freed memory stays with a process, in
large pages (``peers_run.KEEP``, which anyone may set). Speeds are medians over the rounds in tokens per
CPU-second, ratios medians over the rounds of the ratio in one round. What is missing, too slow or too big is
left out, with the reason in the result.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import importlib.metadata
import json
import platform
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.peers_models import CONTESTANTS, Size
from benchmarks.peers_run import Plan, Row, WorkerError, decode, measure, peak_speed, pieces, ratio

#: The changes to the plan of ``--quick``.
QUICK: dict[str, Any] = {
    "size": Size(dim=32, layers=1, heads=2, chunk=8),
    "batch": 2,
    "turn": 0.05,
    "lengths": (32, 64),
    "prompts": (32, 128),
    "decoded": 16,
    "piece": 32,
}
PACKAGES = ("torch", "transformers", "nestlearn", "titans-pytorch", "nested-learning")
#: Whose ratios to all others are shown.
OURS = tuple(CONTESTANTS)[:2]


def main(
    result: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds; the median is shown.")] = 5,
    only: Annotated[
        list[str] | None, typer.Option(help="Contestants whose name contains this; can be repeated.")
    ] = None,
    lengths: Annotated[str, typer.Option(help="Sequence lengths, ascending.")] = "512,1024,2048,8192",
    decoding: Annotated[bool, typer.Option(help="Also measure decoding.")] = True,
    step_limit: Annotated[float, typer.Option(help="CPU-seconds that one step may take.")] = 120.0,
    budget: Annotated[
        float, typer.Option(help="CPU-seconds per contestant and length; then it takes no further turns.")
    ] = 120.0,
    memory_limit: Annotated[float, typer.Option(help="GiB that one step may take.")] = 16.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Freed memory stays with its process; default: the system's.")
    ] = False,
    quick: Annotated[bool, typer.Option(help="Tiny models, to see whether everything runs.")] = False,
) -> None:
    """Measure speed and memory of training, and decoding, beside other packages."""
    names = _chosen(only)
    settings: dict[str, Any] = QUICK.copy() if quick else {"lengths": _lengths(lengths)}
    if not decoding:
        settings["prompts"] = ()
    plan = Plan(
        rounds=rounds,
        step_limit=step_limit,
        budget=budget,
        memory_limit=int(memory_limit * 2**30),
        keep=keep,
        **settings,
    )
    for content in _run(plan, names):
        if result is not None:
            _write(result, content)
    _show(content, plan)


def _chosen(only: list[str] | None) -> list[str]:
    names = [name for name in CONTESTANTS if not only or any(part in name for part in only)]
    if not names:
        raise typer.BadParameter(f"no contestant is called so; there are: {', '.join(CONTESTANTS)}")
    return names


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        lengths = (0,)
    if lengths[0] < 2:
        raise typer.BadParameter(
            f"--lengths takes numbers from 2 on between commas, such as 512,2048; got {text!r}"
        )
    return lengths


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def _run(plan: Plan, names: list[str]) -> Iterator[dict[str, Any]]:
    """The result after every length, and at last with decoding."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    peaks = [peak_speed()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=pieces(plan, names))

        def tell(words: str) -> None:
            progress.update(task, description=words, advance=1)
            if not console.is_terminal:
                console.print(words, highlight=False)
            if "round" in words and words.startswith(names[0]):
                peaks.append(peak_speed())

        for rows in measure(plan, names, tell):
            yield _content(plan, rows, {}, peaks)
        if plan.prompts:
            yield _content(plan, rows, _decode(plan, tell), peaks)


def _content(
    plan: Plan, rows: dict[str, dict[str, Row]], decoded: dict[str, Row], peaks: list[float]
) -> dict[str, Any]:
    peak = statistics.median(peaks)
    for own in rows.values():
        for row in own.values():
            _floor(row, peak)
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": _machine(),
        "peak_gflops": peak / 1e9,
        "size": plan.size.__dict__,
        "batch": plan.batch,
        "keep": plan.keep,
        "rounds": plan.rounds,
        "limits": {"step": plan.step_limit, "budget": plan.budget, "memory_bytes": plan.memory_limit},
        "contestants": {name: {"what": CONTESTANTS[name].what, "lengths": own} for name, own in rows.items()},
        "ratios": _ratios(rows),
        "decoding": decoded,
    }


def _decode(plan: Plan, tell: Any) -> dict[str, Row]:
    changes = CONTESTANTS[OURS[0]].config
    assert changes is not None
    try:
        return decode(plan, changes, tell)
    except WorkerError as error:
        return {"skipped": {"reason": str(error)}}


def _floor(row: Row, peak: float) -> None:
    """Speed that the definition's products alone would allow at the machine's peak, and the part reached."""
    if row.get("floor_operations"):
        row["floor_tokens_per_cpu_second"] = peak / row["floor_operations"]
        row["of_floor"] = row["tokens_per_cpu_second"] / row["floor_tokens_per_cpu_second"]


def _ratios(rows: dict[str, dict[str, Row]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Speed of each of ours over each other contestant's, per length."""
    return {
        own: {
            other: {length: ratio(rows[own][length], row) for length, row in rows[other].items()}
            for other in rows
            if other not in OURS
        }
        for own in OURS
        if own in rows
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _show(content: dict[str, Any], plan: Plan) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    title = f"Training, tokens per CPU-second, one thread, {content['peak_gflops']:.0f} GFLOP/s peak"
    _table(console, content, plan, title, "tokens_per_cpu_second", 1.0)
    _table(console, content, plan, "Peak memory of a step, KiB per token", "peak_bytes_per_token", 1 / 1024)
    for own, others in content["ratios"].items():
        table = Table(title=f"Speed of {own} over")
        _columns(table, "contestant", plan)
        for other, values in others.items():
            table.add_row(other, *("-" if v is None else f"{v:.2f}" for v in values.values()))
        console.print(table)
    _show_decoding(console, content["decoding"])
    for name, entry in content["contestants"].items():
        for length, row in entry["lengths"].items():
            if "skipped" in row:
                console.print(f"{name}, {length}: {row['skipped']}", style="yellow", highlight=False)


def _columns(table: Table, first: str, plan: Plan) -> None:
    table.add_column(first, no_wrap=True)
    for length in plan.lengths:
        table.add_column(str(length), justify="right", no_wrap=True)


def _table(console: Console, content: dict[str, Any], plan: Plan, title: str, key: str, scale: float) -> None:
    table = Table(title=title)
    _columns(table, "contestant", plan)
    for name, entry in content["contestants"].items():
        values = [entry["lengths"][str(length)].get(key) for length in plan.lengths]
        table.add_row(name, *("-" if v is None else f"{v * scale:.0f}" for v in values))
    console.print(table)


def _show_decoding(console: Console, rows: dict[str, Row]) -> None:
    if "skipped" in rows:
        console.print(f"decoding: {rows['skipped']['reason']}", style="yellow", highlight=False)
        return
    table = Table(title=f"Decoding with {OURS[0]}")
    for column in ("tokens before", "CPU ms per token", "ratio", "state KiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for prompt, row in rows.items():
        milliseconds, kibibytes = 1000 * row["cpu_seconds_per_token"], row["state_bytes"] / 1024
        table.add_row(prompt, f"{milliseconds:.2f}", f"{row['ratio_to_shortest']:.3f}", f"{kibibytes:.0f}")
    if rows:
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
