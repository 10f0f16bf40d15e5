"""transformers' Trainer with levels: resumed anywhere in a period, training goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nestlearn as nl
from tests.helpers import difference
from tests.training.systems import Rows, everything, hope, llama, two_contexts

STEPS = 13
SYSTEMS: dict[str, Any] = {
    "hope": hope,
    "hope, nested": lambda: hope(cms_variant="nested"),
    "llama": llama,
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def trainer(folder: Path, model: nn.Module, optimizer: Any, accumulation: int = 1, **settings: Any) -> Any:
    """A Trainer over two contexts, the second of which begins at step 11."""
    from transformers import Trainer, TrainingArguments

    arguments = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2 // accumulation,
        "gradient_accumulation_steps": accumulation,
        "save_steps": 1,
        "train_sampling_strategy": "sequential",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        **settings,
    }
    data = Rows(two_contexts(20, 40))
    callbacks = [nl.NestedCallback()]
    return Trainer(
        model, TrainingArguments(**arguments), train_dataset=data, optimizers=(optimizer, None), callbacks=callbacks
    )


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", SYSTEMS)
def test_resumed_anywhere_in_a_period_is_uninterrupted(tmp_path, name, accumulation):
    model, optimizer = SYSTEMS[name]()
    trainer(tmp_path, model, optimizer, accumulation).train()
    expected = everything(model, optimizer)
    assert optimizer.clock.tokens == STEPS * 16
    assert optimizer.surprises == [160]  # found in the loss: the second context begins here
    assert optimizer.memories["slow"].committed == 1
    for step in range(8, 12):  # every offset of every period, before the surprise and after it
        model, optimizer = SYSTEMS[name]()
        again = trainer(tmp_path, model, optimizer, accumulation, save_strategy="no")
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert difference(expected, everything(model, optimizer)) is None, f"resumed after step {step}"
