"""Parameters split over two processes (FSDP2) learn what whole ones do."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn
from torch.multiprocessing.spawn import spawn

from nestlearn import optim

WHOLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "Momentum": (optim.Momentum, {}),
    "FeatureMomentum": (optim.FeatureMomentum, {}),
    "DeltaMomentum": (optim.DeltaMomentum, {}),
    "DeltaMomentum, whole": (optim.DeltaMomentum, {"side": "whole"}),
    "adam": (optim.PreconditionedMomentum, {}),
    "damped": (optim.PreconditionedMomentum, {"damping": 1.0}),
    "Muon": (optim.Muon, {}),
    "M3": (optim.M3, {"periods": (2,)}),
}
REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "DeepMomentum": (optim.DeepMomentum, {}),
    "kronecker": (optim.PreconditionedMomentum, {"preconditioner": "kronecker"}),
}


def net() -> nn.Module:
    """Two matrices of one shape, one of another, and vectors."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))


def train(model: nn.Module, made: torch.optim.Optimizer) -> None:
    """A few steps on data that is the same everywhere."""
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        made.zero_grad()
        model(x).square().mean().backward()
        made.step()


def process(rank: int, port: int, folder: str) -> None:
    """One of two processes; the first writes the largest differences."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    lines = []
    for name, (cls, settings) in {**WHOLE, **REFUSED}.items():
        model, reference = net(), net()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        train(reference, cls(reference.parameters(), lr=0.01, **settings))
        try:
            train(model, cls(model.parameters(), lr=0.01, **settings))
        except ValueError as error:
            lines.append(f"{name} {'refused' if 'split over' in str(error) else error}")
            continue
        pairs = zip(model.parameters(), reference.parameters(), strict=True)
        largest = max(float((a.full_tensor() - b).detach().abs().max()) for a, b in pairs)  # type: ignore[attr-defined]
        lines.append(f"{name} {largest}")
    if rank == 0:
        Path(folder, "result").write_text("\n".join(lines))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_sharded_parameters_learn_what_whole_ones_do(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(process, (port, str(tmp_path)), nprocs=2)
    found = dict(line.rsplit(" ", 1) for line in (tmp_path / "result").read_text().splitlines())
    for name in WHOLE:
        assert float(found[name]) < 1e-6, name
    assert {name: found[name] for name in REFUSED} == dict.fromkeys(REFUSED, "refused")
