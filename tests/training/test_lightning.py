"""Lightning with levels, under both of the names that it is installed by."""

from __future__ import annotations

import importlib
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from nestlearn.training.lightning import NestedCallback
from tests.helpers import difference
from tests.pages import run_examples
from tests.training.systems import everything, hope, llama, rows, two_contexts

STEPS = 13
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]


class Resumable(DataLoader):  # type: ignore[type-arg]
    """A loader that knows where it is, as Lightning needs to go on in the middle of an epoch."""

    position = 0

    def __iter__(self):
        for index, batch in enumerate(super().__iter__()):
            if index >= self.position:
                self.position = index + 1
                yield batch
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def module(package: Any, model: nn.Module, optimizer: Any, accumulation: int) -> Any:
    """A module of Lightning's that computes its loss by itself."""

    class Module(package.LightningModule):  # type: ignore[misc]
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, batch_idx):
            logits = self.model(batch).logits
            return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

        def configure_optimizers(self):
            return optimizer

        def train_dataloader(self):
            return Resumable(two_contexts(20, 40), batch_size=2 // accumulation)

    return Module()


def fit(
    folder: Any, system: Any, accumulation: int = 1, name: str = "lightning.pytorch", **settings: Any
) -> Any:
    """Train the system of two contexts, the second of which begins at step 11."""
    package = importlib.import_module(name)
    checkpoints = package.callbacks.ModelCheckpoint(
        dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    trainer = package.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        accumulate_grad_batches=accumulation,
        callbacks=[NestedCallback(), checkpoints],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module(package, *system, accumulation), **settings)
    return trainer


@pytest.mark.parametrize(
    ("made", "accumulation", "name"),
    [
        (hope, 2, "lightning.pytorch"),
        (partial(llama, dropout=0.0), 1, "lightning.pytorch"),
        (hope, 2, "pytorch_lightning"),
    ],
    ids=["hope-2", "llama-1", "pytorch_lightning"],
)
def test_resumed_anywhere_in_a_period_is_uninterrupted(tmp_path, made, accumulation, name):
    pytest.importorskip(name)
    torch.manual_seed(0)
    model, optimizer = made()
    fit(tmp_path, (model, optimizer), accumulation, name)
    expected = everything(model, optimizer)
    assert optimizer.clock.tokens == STEPS * 16
    assert optimizer.surprises == [160]
    for step in range(8, 12):
        model, optimizer = made()
        checkpoint = str(tmp_path / f"step={step}.ckpt")
        fit(tmp_path, (model, optimizer), accumulation, name, ckpt_path=checkpoint)
        assert difference(expected, everything(model, optimizer)) is None, f"resumed after step {step}"


def started(*optimizers: Any, scaler: Any = None) -> Any:
    """The callback at the start of a training by these optimizers."""
    callback = NestedCallback()
    precision = SimpleNamespace(scaler=scaler)
    trainer = SimpleNamespace(
        optimizers=optimizers, precision_plugin=precision, precision="16-mixed", accumulate_grad_batches=1
    )
    callback.on_train_start(trainer, None)
    return callback, trainer


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        (rows(2), 16),
        ((rows(2), torch.zeros(2)), 16),
        ({"input_ids": rows(2), "attention_mask": torch.tensor([[0] * 3 + [1] * 5, [1] * 8])}, 13),
    ],
    ids=["ids", "a tuple", "a mapping with padding"],
)
def test_batches_are_counted_when_they_are_learned_from(batch, tokens):
    model, optimizer = hope()
    callback, trainer = started(optimizer)
    callback.on_train_batch_start(trainer, None, batch, 0)  # skipped
    callback.on_train_batch_start(trainer, None, batch, 1)
    loss = model(rows(2), labels=rows(2)).loss
    callback.on_before_backward(trainer, None, loss)
    loss.backward()
    optimizer.step()
    assert optimizer.clock.tokens == tokens
    callback.on_train_end(trainer, None)
    with pytest.raises(ValueError, match="step needs tokens"):
        optimizer.step()


def test_refusals():
    model, optimizer = hope()
    with pytest.raises(ValueError, match="has 2 optimizers"):
        started(optimizer, optimizer)
    with pytest.raises(ValueError, match="16-mixed scales gradients"):
        started(optimizer, scaler=object())
    with pytest.raises(ValueError, match="SGD, which has no levels"):
        started(torch.optim.SGD(model.parameters()))


@pytest.mark.filterwarnings("default")
def test_the_page_shows_what_its_code_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples("lightning.md")
