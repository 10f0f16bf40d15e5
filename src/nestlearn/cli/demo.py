"""``nestlearn demo``: the comparison with progress bars, a table and a report."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from nestlearn.continual.comparison import compare
from nestlearn.continual.strategies import Comparison
from nestlearn.reporting import print_summary, write_report


def run_demo(
    *,
    quick: bool,
    languages: tuple[str, ...],
    steps: int | None,
    seed: int,
    out: Path,
    resume: bool,
    data: Path | None,
    workers: int | None,
    track: str,
) -> None:
    """Run the comparison, print the retention table, write ``results.json`` and ``report.html``.

    Raises:
        ValueError: For bad input, among it a used ``out`` without ``resume``.
        typer.Exit: With code 130 after Ctrl-C, when every run has saved.
    """
    _check_extras()
    comparison = _comparison(quick, languages, steps, seed)
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    if out.exists() and any(out.iterdir()) and not resume:
        raise ValueError(
            f"{out} is not empty: add --resume to go on with what is there, or choose another --out"
        )
    console = Console()
    console.print(_announcement(comparison), highlight=False)
    started = time.perf_counter()
    try:
        with _Display(console, comparison) as display:
            results = compare(
                comparison, out, data_dir=data, workers=workers, on_message=display.show, track=track
            )
    except KeyboardInterrupt:
        command = _command(quick, comparison, steps, out, data, track)
        console.print(
            f"\nStopped; every model under way has saved a checkpoint. Go on with: {command}",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(130) from None
    write_report(results, out / "report.html")
    print_summary(results, console)
    console.print(
        f"\n{out / 'results.json'} has the figures, {out / 'report.html'} the pictures (for a browser). "
        f"That took {(time.perf_counter() - started) / 60:.1f} minutes.",
        soft_wrap=True,
        highlight=False,
    )


def _check_extras() -> None:
    """Say what is missing before ten minutes have passed."""
    missing = [name for name in ("matplotlib", "tokenizers", "transformers") if find_spec(name) is None]
    if missing:
        raise ValueError(f"the demo needs {', '.join(missing)}: pip install 'nestlearn[all]'")


def _command(
    quick: bool, comparison: Comparison, steps: int | None, out: Path, data: Path | None, track: str
) -> str:
    """The command that resumes this demo, with every option that differs from its default."""
    words = [sys.executable, "-m", "nestlearn.cli.main", "demo", *(["--quick"] if quick else [])]
    words += ["--languages", ",".join(comparison.languages), "--seed", str(comparison.seed)]
    words += [] if steps is None else ["--steps", str(steps)]
    words += [] if data is None else ["--data", str(data)]
    words += [] if track == "auto" else ["--track", track]
    return shlex.join([*words, "--out", str(out), "--resume"])


def _comparison(quick: bool, languages: tuple[str, ...], steps: int | None, seed: int) -> Comparison:
    if not languages:
        raise ValueError("--languages is empty: give at least one of en, fr, de, es, it")
    if seed < 0:
        raise ValueError(f"--seed must be zero or more, got {seed}")
    base = Comparison.quick_demo() if quick else Comparison()
    return replace(base, languages=languages, seed=seed, steps=base.steps if steps is None else steps)


def _announcement(comparison: Comparison) -> str:
    stages = comparison.stages(comparison.strategies[0])
    tokens = comparison.batch_size * comparison.context
    path = ", then ".join(f"{stage.language} ({stage.steps * tokens / 1000:.0f}k tokens)" for stage in stages)
    return f"Three models read the same stream: {path}. One thread each; Ctrl-C saves and stops."


class _Display:
    """One progress bar per run; plain lines where there is no terminal."""

    def __init__(self, console: Console, comparison: Comparison) -> None:
        self.console, self.comparison = console, comparison
        self.titles = {strategy.name: strategy.title for strategy in comparison.strategies}
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        for name, title in self.titles.items():
            self.bars[name] = self.progress.add_task(
                title, total=self.comparison.steps, status="waits", start=False
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, message: dict[str, Any]) -> None:
        """Take in one message of a run."""
        run, event = message["run"], message["event"]
        if event == "step":
            self._step(run, message)
        elif event == "evaluation" and not self.console.is_terminal:
            figures = "  ".join(f"{name} {value:.3f}" for name, value in message["bits_per_byte"].items())
            self.console.print(
                f"{run:>11}  step {message['step']:>4}  bits per byte: {figures}", highlight=False
            )
        elif event == "done":
            total = self.comparison.steps
            self.progress.start_task(self.bars[run])
            self.progress.update(self.bars[run], completed=total, status="done")

    def _step(self, run: str, message: dict[str, Any]) -> None:
        bar = self.bars[run]
        if not self.progress.tasks[bar].started:
            self.progress.start_task(bar)
        speed = message["tokens"] / max(message["cpu_seconds"], 1e-9)
        levels = " ".join(message["due"]) if message["due"] != ["all"] else ""
        status = f"{message['language']} loss {message['loss']:.2f} {speed:5.0f} tok/s {levels:<16}"
        self.progress.update(bar, completed=message["step"], status=status)
