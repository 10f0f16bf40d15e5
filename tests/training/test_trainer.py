"""transformers' Trainer with levels: resumed anywhere in a period, training goes on bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler

import nestlearn as nl
from tests.helpers import difference, random_tokens, tiny_config
from tests.pages import run_examples
from tests.training.systems import LENGTH, Rows, everything, hope, llama, rows, two_contexts

STEPS = 13
SYSTEMS: dict[str, Any] = {
    "hope": hope,
    "hope, nested": lambda: hope(cms_variant="nested"),
    "llama": llama,
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


#: Settings that are the Trainer's own and not its arguments'.
OWN = ("train_dataset", "eval_dataset", "callbacks", "compute_loss_func")


def trainer(
    folder: Path,
    model: nn.Module,
    optimizer: Any,
    accumulation: int = 1,
    *,
    shuffled: bool = False,
    **settings: Any,
) -> Any:
    """A Trainer over two contexts, the second of which begins at step 11."""
    from transformers import Trainer, TrainingArguments

    own = {
        "train_dataset": Rows(two_contexts(20, 40)),
        "callbacks": [nl.NestedCallback()],
        **{name: settings.pop(name) for name in OWN if name in settings},
    }
    arguments = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2 // accumulation,
        "gradient_accumulation_steps": accumulation,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        **settings,
    }
    made = Trainer(model, TrainingArguments(**arguments), optimizers=(optimizer, None), **own)
    if not shuffled:  # the argument that says so is missing in older transformers
        made._get_train_sampler = lambda *_: SequentialSampler(own["train_dataset"])  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize(
    ("name", "accumulation", "surprises"),
    [
        ("hope", 1, [160]),
        ("hope", 2, [160]),
        ("hope, nested", 1, []),
        ("llama", 1, [160]),
        ("llama", 2, [160]),
    ],
)
def test_resumed_anywhere_in_a_period_is_uninterrupted(tmp_path, name, accumulation, surprises):
    model, optimizer = SYSTEMS[name]()
    trainer(tmp_path, model, optimizer, accumulation).train()
    expected = everything(model, optimizer)
    assert optimizer.clock.tokens == STEPS * 16
    assert optimizer.surprises == surprises  # the second context, noticed by the loss
    assert optimizer.memories["slow"].committed == len(surprises)
    for step in range(8, 12):  # every offset of every period, before the surprise and after it
        model, optimizer = SYSTEMS[name]()
        again = trainer(tmp_path, model, optimizer, accumulation, save_strategy="no")
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert difference(expected, everything(model, optimizer)) is None, f"resumed after step {step}"


def test_shuffled_epochs_resume_within_an_epoch(tmp_path):
    settings = {"shuffled": True, "max_steps": -1, "num_train_epochs": 2}
    short = {"train_dataset": Rows(two_contexts(7, 7))}  # seven steps an epoch
    model, optimizer = hope()
    trainer(tmp_path, model, optimizer, 2, **settings, **short).train()
    expected = everything(model, optimizer)
    assert optimizer.clock.tokens == 2 * 14 * 8
    model, optimizer = hope()
    again = trainer(tmp_path, model, optimizer, 2, save_strategy="no", **settings, **short)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    assert difference(expected, everything(model, optimizer)) is None


def test_consolidated_resumes_with_what_it_keeps(tmp_path):
    def made() -> tuple[nn.Module, nl.optim.Consolidated]:
        model, _ = hope()
        return model, nl.optim.Consolidated(model.named_parameters(), lr=1e-2, model=model)

    model, optimizer = made()
    trainer(tmp_path, model, optimizer, max_steps=3).train()
    optimizer.commit()
    folder = tmp_path / "second"
    trainer(folder, model, optimizer, max_steps=6).train()
    expected = everything(model, optimizer)
    assert optimizer.memories.committed == 1
    model, optimizer = made()
    again = trainer(folder, model, optimizer, max_steps=6, save_strategy="no")
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert difference(expected, everything(model, optimizer)) is None


def test_padding_and_evaluation_are_not_counted(tmp_path):
    model, optimizer = llama()
    data = [{**row, "attention_mask": torch.ones(LENGTH, dtype=torch.long)} for row in Rows(rows(8))]
    for row in data:
        row["attention_mask"][:3] = 0
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 4}
    trainer(tmp_path, model, optimizer, train_dataset=data, eval_dataset=Rows(rows(4)), **settings).train()
    assert optimizer.clock.tokens == 8 * (LENGTH - 3)


def test_other_counts(tmp_path):
    model, optimizer = hope()
    callback = nl.NestedCallback(tokens=lambda inputs: len(inputs["input_ids"]))
    trainer(tmp_path, model, optimizer, callbacks=[callback], max_steps=3).train()
    assert optimizer.clock.tokens == 3 * 2  # sequences


def test_a_loss_that_is_not_the_models(tmp_path):
    """The Trainer then asks the model for no loss, and the function tells the meter."""
    callback = nl.NestedCallback()

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        found = nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        callback.meter.add_loss(found)
        return found

    model, optimizer = hope()
    trainer(tmp_path, model, optimizer, callbacks=[callback], compute_loss_func=loss).train()
    assert optimizer.surprises == [160]
    model, optimizer = hope()
    with pytest.raises(ValueError, match=r"meter\.add_loss"):
        trainer(
            tmp_path, model, optimizer, compute_loss_func=lambda outputs, *_, **__: outputs.logits.sum()
        ).train()


def test_nothing_is_left_after_training(tmp_path):
    model, optimizer = hope()
    before = len(model._forward_hooks)
    made = trainer(tmp_path, model, optimizer, max_steps=1)
    made.train()
    assert len(model._forward_hooks) == before
    with pytest.raises(ValueError, match="step needs tokens"):
        optimizer.step()
    made.train()  # once more, with a step counted once
    assert optimizer.clock.tokens == 2 * 16


def test_refusals(tmp_path):
    model, optimizer = hope()
    with pytest.raises(ValueError, match="AdamW, which has no levels"):
        trainer(tmp_path, model, None).train()
    trainer(tmp_path, model, optimizer, max_steps=2, save_only_model=True).train()
    model, optimizer = hope()
    again = trainer(tmp_path, model, optimizer, save_strategy="no")
    with pytest.raises(ValueError, match="save_only_model=False"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def killed(folder: str) -> None:
    """Train, and be killed between the two halves of step 11."""
    from transformers import TrainerCallback

    class Kill(TrainerCallback):  # type: ignore[misc]
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == 10:
                os.kill(os.getpid(), signal.SIGKILL)

    trainer(Path(folder), *hope(), 2, save_steps=3, callbacks=[nl.NestedCallback(), Kill()]).train()


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path):
    code = f"from tests.training.test_trainer import killed; killed({str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert run.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in (3, 6, 9)]
    model, optimizer = hope()
    trainer(tmp_path / "whole", model, optimizer, 2, save_strategy="no").train()
    expected = everything(model, optimizer)
    model, optimizer = hope()
    trainer(tmp_path, model, optimizer, 2, save_strategy="no").train(resume_from_checkpoint=True)
    assert difference(expected, everything(model, optimizer)) is None


@pytest.mark.filterwarnings("default")
def test_the_page_shows_what_its_code_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples("trainer.md")


def test_a_hope_is_evaluated_and_the_best_is_loaded(tmp_path):
    model, optimizer = hope()
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3, "load_best_model_at_end": True}
    found = trainer(tmp_path, model, optimizer, eval_dataset=Rows(rows(4)), **settings)
    found.train()
    assert found.state.best_model_checkpoint is not None
    assert found.evaluate()["eval_loss"] == pytest.approx(found.state.best_metric, rel=1e-5)
    assert found.predict(Rows(rows(4))).predictions.shape[:2] == (4, LENGTH)


@pytest.mark.parametrize("kind", ["HopeForCausalLM", "HopeForSequenceClassification"])
def test_accumulated_gradients_are_those_of_one_batch(tmp_path, kind):
    """The Trainer divides by the number of passes, which it leaves to models that say they do it."""
    pytest.importorskip("transformers", minversion="5.20", reason="5.4 and accelerate both divide")
    from transformers import Trainer, TrainingArguments

    config = tiny_config(num_labels=3)
    tokens = random_tokens(4, 8)
    labels = tokens if kind == "HopeForCausalLM" else torch.tensor([0, 2, 1, 0])
    data = [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]
    after = []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        model = getattr(nl, kind)(config)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)).train()
        after.append(model.state_dict())
    for name, value in after[0].items():
        assert torch.allclose(value, after[1][name], atol=1e-5), name
