"""What ``nestlearn inspect``, ``report`` and ``watch`` do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from torch import nn

from nestlearn import optim
from nestlearn.levels import Level, NestedSystem, inspect
from nestlearn.levels.gradients import is_torch_optimizer
from nestlearn.observing import read_run, read_system
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.live import Server
from nestlearn.reporting.status import status
from nestlearn.reporting.system import system_mermaid, system_svg, system_tree, write_page

#: Optimizers whose arguments are not just parameters and a rate.
_OURS = (
    "M3",
    "Momentum",
    "Muon",
    "DeltaMomentum",
    "FeatureMomentum",
    "DeepMomentum",
    "PreconditionedMomentum",
)


def run_inspect(
    *,
    target: str,
    optimizer: str | None,
    levels: str | None,
    tokens_per_step: int | None,
    html: Path | None,
    svg: Path | None,
    mermaid: Path | None,
    out: Path | None,
) -> None:
    """See ``nestlearn inspect --help``.

    Raises:
        ValueError: For a target, an optimizer or levels that are not known.
    """
    found = _saved(target)
    if found is None:
        found = _inspected(target, optimizer, levels, tokens_per_step)
    elif optimizer or levels or tokens_per_step:
        raise ValueError(
            f"{target} was inspected already: leave out --optimizer, --levels and --tokens-per-step"
        )
    document = found.to_json()
    Console().print(system_tree(document))
    if html is not None:
        write_page(html, document)
    for path, text in ((svg, system_svg), (mermaid, system_mermaid)):
        if path is not None:
            write_atomically(path, text(document))
    if out is not None:
        write_atomically(out, json.dumps(document, indent=1) + "\n")


def run_report(*, run_dir: Path, html: Path | None) -> None:
    """See ``nestlearn report --help``.

    Raises:
        ValueError: If the folder has no run.
    """
    run = read_run(_run_folder(run_dir))
    system = read_system(run_dir)
    console = Console()
    if system is not None:
        console.print(system_tree(system.to_json()))
    console.print(status(run))
    target = run_dir / "report.html" if html is None else html
    write_page(target, None if system is None else system.to_json(), run)
    console.print(f"\n{target} has the pictures (for a browser).", soft_wrap=True, highlight=False)


def run_watch(*, run_dir: Path, port: int, page: bool, every: float) -> None:
    """See ``nestlearn watch --help``.

    Raises:
        ValueError: If the folder has no run, or the port is taken.
    """
    from rich.live import Live  # noqa: PLC0415

    folder, console = _run_folder(run_dir), Console()
    server = Server(folder, port) if page else None
    try:
        if server is not None:
            console.print(f"The page: {server.address} (this machine only). Ctrl-C ends both.")
        run = read_run(folder)
        if not console.is_terminal:
            console.print(status(run))
        with Live(status(run), console=console, auto_refresh=False) as live:
            while not run["finished"] or server is not None:
                time.sleep(every)
                run = read_run(folder)
                live.update(status(run), refresh=True)
    except KeyboardInterrupt:
        console.print("Stopped watching; the run goes on.")
        raise typer.Exit(130) from None
    finally:
        if server is not None:
            server.close()


def _run_folder(path: Path) -> Path:
    """A run's folder, or a hint at the runs inside.

    Raises:
        ValueError: If it is none.
    """
    if (path / "metrics.jsonl").is_file():
        return path
    inside = sorted(entry.parent.name for entry in path.glob("*/metrics.jsonl"))
    if inside:
        raise ValueError(f"{path} holds several runs: give one of {', '.join(str(path / n) for n in inside)}")
    raise ValueError(f"{path} is not the folder of a training run: it has no metrics.jsonl")


def _saved(target: str) -> NestedSystem | None:
    """A system that was written down: a JSON file, a run's folder, or a checkpoint inside one."""
    path = Path(target)
    if path.suffix == ".json" and path.is_file() and path.name != "config.json":
        return NestedSystem.load(path)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise ValueError(f"there is no checkpoint {path}")
        found = read_system(path.parent)
        if found is None:
            raise ValueError(
                f"{path} has no system.json beside it: give the model's folder, or the run's whole folder"
            )
        return found
    return read_system(path) if path.is_dir() else None


def _inspected(target: str, optimizer: str | None, levels: str | None, tokens: int | None) -> NestedSystem:
    from nestlearn.models.outline import made_by, outline  # noqa: PLC0415  (transformers takes seconds)

    own = None
    if ":" in target and not Path(target).exists():
        model, own = made_by(target)
    else:
        model = outline(target)
    if levels is not None:
        if optimizer is not None:
            raise ValueError("--levels brings its own optimizer: leave out --optimizer")
        model, own = _levelled(model, _levels(levels))
    elif optimizer is not None:
        own = _optimizer(optimizer, model)
    return inspect(model, own, schedule=tokens)


def _levels(text: str) -> list[Level]:
    """Levels written as ``fast=512,slow=4096``."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or not all(name.strip() and period.strip().isdigit() for name, _, period in pairs):
        raise ValueError(f"--levels are names and periods in tokens, as fast=512,slow=4096; got {text!r}")
    return [Level(name.strip(), int(period), consolidate=True) for name, _, period in pairs]


def _levelled(model: nn.Module, levels: list[Level]) -> tuple[nn.Module, Any]:
    """A model with levels: its own division, or that of a retrofit."""
    if hasattr(model, "assign_level") or len(levels) == 1:
        return model, optim.Nested(levels, model)
    from nestlearn.retrofitting import NestedUnits, retrofit  # noqa: PLC0415

    twin = retrofit(model, levels)
    return twin, NestedUnits(twin)


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer by its name; ours before torch's Muon, which takes matrices alone."""
    known: Mapping[str, Any] = {
        **{n.lower(): kind for n, kind in vars(torch.optim).items() if is_torch_optimizer(n)},
        **{own.lower(): getattr(optim, own) for own in _OURS},
    }
    if name.lower() not in known:
        raise ValueError(f"--optimizer {name!r} is not known; there are {', '.join(sorted(known))}")
    settings = {"momentum": 0.9} if name.lower() == "sgd" else {}
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    made: torch.optim.Optimizer = known[name.lower()](trained, lr=1e-3, **settings)
    return made
