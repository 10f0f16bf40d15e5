"""TRL's SFTTrainer with levels."""

from __future__ import annotations

from typing import Any

import pytest

import nestlearn as nl
from tests.helpers import VOCABULARY, difference
from tests.pages import run_examples
from tests.training.systems import everything, hope, llama, two_contexts

STEPS = 13
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def tokenizer() -> Any:
    """One word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def sft_trainer(folder: Any, model: Any, optimizer: Any, peft_config: Any = None, **settings: Any) -> Any:
    """An SFTTrainer over two contexts, the second of which begins at step 11."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
        "save_steps": 1,
        "train_sampling_strategy": "sequential",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "logging_strategy": "no",
        **settings,
    }
    return SFTTrainer(
        model,
        SFTConfig(**arguments),
        train_dataset=Dataset.from_dict({"input_ids": two_contexts(20, 40).tolist()}),
        processing_class=tokenizer(),
        optimizers=(optimizer, None),
        callbacks=[nl.NestedCallback()],
        peft_config=peft_config,
    )


@pytest.mark.parametrize("made", [hope, llama], ids=["hope", "llama"])
def test_resumed_anywhere_in_a_period_is_uninterrupted(tmp_path, made):
    model, optimizer = made()
    sft_trainer(tmp_path, model, optimizer).train()
    expected = everything(model, optimizer)
    assert optimizer.clock.tokens == STEPS * 16
    assert optimizer.surprises == [160]
    for step in range(8, 12):  # every offset of every period, before the surprise and after it
        model, optimizer = made()
        again = sft_trainer(tmp_path, model, optimizer, save_strategy="no")
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert difference(expected, everything(model, optimizer)) is None, f"resumed after step {step}"


def test_adapters_that_the_optimizer_does_not_know_are_refused(tmp_path):
    from peft import LoraConfig

    model, optimizer = hope()
    made = sft_trainer(tmp_path, model, optimizer, peft_config=LoraConfig(target_modules="all-linear"))
    with pytest.raises(ValueError, match="with PEFT after the adapters"):
        made.train()


@pytest.mark.filterwarnings("default")
def test_the_page_shows_what_its_code_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples("trl.md")
