"""Milliseconds of a step and bytes of state of every optimizer, beside PyTorch's, in one run.

    python -m benchmarks.optimizers [--result results/optimizer_cost.json]

The parameters are those of a Transformer of 4 layers and width 256, with random gradients; one thread. The
optimizers take turns, so that a change of the machine's speed meets all of them. Times are means over ten
steps, in which M3 reads its slow memory once, and medians over the tens; so are ratios.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from nestlearn import optim
from nestlearn.models.hope import HopeConfig, HopeForCausalLM
from nestlearn.reporting.files import write_atomically

Named = list[tuple[str, nn.Parameter]]
#: Steps that are taken together: the period of M3's slow memory.
TOGETHER = 10
#: Against whom each is compared.
REFERENCES = ("torch SGD", "torch AdamW", "torch Muon")


def _muon(named: Named) -> Optimizer:
    """PyTorch's, which takes matrices only; here it is given nothing else."""
    return torch.optim.Muon(named, lr=1e-3, adjust_lr_fn="match_rms_adamw")


OPTIMIZERS: Mapping[str, Callable[[Named], Optimizer]] = {
    "torch SGD": lambda named: torch.optim.SGD(named, lr=1e-3, momentum=0.9),
    "torch AdamW": torch.optim.AdamW,
    "torch Muon": _muon,
    "Momentum": optim.Momentum,
    "FeatureMomentum": optim.FeatureMomentum,
    "DeltaMomentum": optim.DeltaMomentum,
    "DeltaMomentum, whole": lambda named: optim.DeltaMomentum(named, side="whole"),
    "PreconditionedMomentum, adam": optim.PreconditionedMomentum,
    "PreconditionedMomentum, kronecker": lambda named: optim.PreconditionedMomentum(
        named, preconditioner="kronecker"
    ),
    "DeepMomentum": optim.DeepMomentum,
    "Muon": optim.Muon,
    "M3": optim.M3,
    "M3 with denominator": lambda named: optim.M3(named, denominator=True),
    "M3 without slow memory": lambda named: optim.M3(named, periods=(), slow_betas=(), weights=()),
}


def matrices(width: int, layers: int) -> Named:
    """Matrices of a Transformer's layers, each with a random gradient."""
    config = HopeConfig(
        vocab_size=256, hidden_size=width, num_hidden_layers=layers, num_heads=4, mixer="attention"
    )
    named = [
        (name, parameter)
        for name, parameter in HopeForCausalLM(config).named_parameters()
        if parameter.dim() == 2 and ".layers." in f".{name}"
    ]
    for _, parameter in named:
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    return named


def measure(width: int, layers: int, rounds: int) -> dict[str, Any]:
    """Times, ratios and bytes by optimizer."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = {name: make(matrices(width, layers)) for name, make in OPTIMIZERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for optimizer in made.values():  # the first step makes the state
        optimizer.step()
    for _ in track(range(rounds), description="rounds"):
        spent = dict.fromkeys(made, 0.0)
        for _ in range(TOGETHER):
            for name, optimizer in made.items():
                started = time.process_time()
                optimizer.step()
                spent[name] += time.process_time() - started
        for name in made:
            seconds[name].append(spent[name] / TOGETHER)
    size = sum(p.numel() for _, p in matrices(width, layers))
    return {
        "parameters": size,
        "rounds": rounds,
        "torch": torch.__version__,
        "optimizers": {name: _row(name, seconds, made[name], size) for name in made},
    }


def _row(name: str, seconds: dict[str, list[float]], optimizer: Optimizer, size: int) -> dict[str, Any]:
    tensors = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    return {
        "milliseconds": 1000 * statistics.median(seconds[name]),
        "bytes_per_parameter": sum(t.numel() * t.element_size() for t in tensors) / size,
        "over": {
            reference: statistics.median(
                own / other for own, other in zip(seconds[name], seconds[reference], strict=True)
            )
            for reference in REFERENCES
        },
    }


def show(content: dict[str, Any]) -> None:
    """The table in the terminal."""
    table = Table(title=f"One step, {content['parameters'] / 1e6:.1f} million parameters, one thread")
    for column in ("optimizer", "ms", *(f"over {name}" for name in REFERENCES), "bytes per parameter"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for name, row in content["optimizers"].items():
        ratios = (f"{row['over'][reference]:.2f}" for reference in REFERENCES)
        table.add_row(name, f"{row['milliseconds']:.1f}", *ratios, f"{row['bytes_per_parameter']:.1f}")
    Console().print(table)


def main(
    result: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    width: Annotated[int, typer.Option(min=8, help="Width of the Transformer.")] = 256,
    layers: Annotated[int, typer.Option(min=1, help="Its layers.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of ten steps; the median is shown.")] = 5,
) -> None:
    """Measure the cost of one step of every optimizer."""
    content = measure(width, layers, rounds)
    if result is not None:
        write_atomically(result, json.dumps(content, indent=1) + "\n")
    show(content)


if __name__ == "__main__":
    typer.run(main)
