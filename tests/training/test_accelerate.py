"""accelerate's plain loop with levels: resumed, and on two processes."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader

import nestlearn as nl
from tests.helpers import difference
from tests.training.systems import Rows, everything, hope, llama, two_contexts
from tests.training.test_trainer import trainer

STEPS = 13
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def loop(
    system: Any, folder: Path | None = None, *, accumulation: int = 1, batch: int = 2, start: int = 0
) -> None:
    """Train along two contexts, and save after every step in a folder, or go on from there.

    The second context begins at step 11 of each process.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    first = 10 * batch * accelerator.num_processes
    model, optimizer = system
    nl.training.Meter(optimizer, model)
    loader = DataLoader(Rows(two_contexts(first, first)), batch_size=batch // accumulation)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if start:
        accelerator.load_state(str(folder / f"step-{start}"))
        loader = accelerator.skip_first_batches(loader, start * accumulation)
    step = start
    for inputs in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**inputs).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            step += 1
            if folder is not None and not start:
                accelerator.save_state(str(folder / f"step-{step}"))
        if step == STEPS:
            return


def no_dropout(dtype: torch.dtype = torch.float32) -> Any:
    """Two processes would drop different numbers, and accelerate's loaders draw one when they begin."""
    return llama(dtype, dropout=0.0)


@pytest.mark.parametrize(("made", "accumulation"), [(hope, 2), (no_dropout, 1)], ids=["hope-2", "llama-1"])
def test_resumed_anywhere_in_a_period_is_uninterrupted(tmp_path, made, accumulation):
    torch.manual_seed(0)
    model, optimizer = made()
    loop((model, optimizer), tmp_path, accumulation=accumulation)
    expected = everything(model, optimizer)
    assert optimizer.clock.tokens == STEPS * 16
    assert optimizer.surprises == [160]
    for step in range(8, 12):
        model, optimizer = made()
        loop((model, optimizer), tmp_path, accumulation=accumulation, start=step)
        assert difference(expected, everything(model, optimizer)) is None, f"resumed after step {step}"


def in_trainer(system: Any, batch: int, folder: str) -> None:
    """The same in transformers' Trainer, with accumulation."""
    first = 10 * batch * int(os.environ.get("WORLD_SIZE", "1"))
    settings = {"per_device_train_batch_size": batch // 2, "save_strategy": "no"}
    data = Rows(two_contexts(first, first))
    trainer(Path(folder), *system, 2, train_dataset=data, **settings).train()


#: What makes a system, and whether it is trained by the Trainer or in a plain loop.
KINDS: dict[str, tuple[Any, bool]] = {
    "hope": (hope, False),
    "llama": (no_dropout, False),
    "hope, Trainer": (hope, True),
    "llama, Trainer": (no_dropout, True),
}


def learned(name: str, batch: int, folder: str) -> dict[str, Any]:
    """All of a system after training in double precision, where Adam does not magnify rounding."""
    made, with_trainer = KINDS[name]
    model, optimizer = made(torch.float64)
    if with_trainer:
        in_trainer((model, optimizer), batch, folder)
    else:
        loop((model, optimizer), batch=batch)
    return everything(model, optimizer)


def process(rank: int, port: int, folder: str) -> None:
    """One of two processes; each writes what it has learned."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2"
    )
    torch.set_num_threads(1)
    for name in KINDS:
        torch.save(learned(name, 2, folder), Path(folder, f"{name}-{rank}"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_learn_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(process, (port, str(tmp_path)), nprocs=2)
    for name in KINDS:
        one = learned(name, 4, str(tmp_path))
        two, other = (torch.load(tmp_path / f"{name}-{rank}", weights_only=True) for rank in (0, 1))
        assert difference(two, other) is None, name  # both processes have the same, to the bit
        assert two["optimizer"]["clock"] == one["optimizer"]["clock"]
        assert two["optimizer"]["surprises"] == one["optimizer"]["surprises"] == [320]
        assert two["optimizer"]["surprise"] == pytest.approx(
            one["optimizer"]["surprise"],
            rel=1e-4,  # Llama computes its loss in float32
        )
        for key, weight in one["model"].items():
            assert torch.allclose(weight, two["model"][key], rtol=0.0, atol=1e-9), (name, key)
