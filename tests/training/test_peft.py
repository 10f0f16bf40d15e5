"""PEFT's adapters on Hope: where they attach, which level they are in, and what is saved of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestlearn as nl
from tests.helpers import difference
from tests.pages import run_examples
from tests.training.systems import PERIODS, everything, hope, levels, rows
from tests.training.test_trainer import trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def adapted(**settings: Any) -> Any:
    """A tiny Hope with LoRA."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(hope()[0], LoraConfig(r=2, **{"target_modules": "all-linear", **settings}))


def learn(model: nn.Module, optimizer: nl.optim.Nested, steps: int = 8) -> None:
    """Some steps on drawn sequences."""
    meter = nl.training.Meter(optimizer, model)
    for batch in rows(2 * steps).split(2):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    meter.close()


def logits(model: nn.Module) -> Tensor:
    """On sequences that :func:`learn` has not seen."""
    with torch.no_grad():
        return model.eval()(input_ids=rows(2, seed=9)).logits  # type: ignore[no-any-return]


def test_all_linear_is_every_projection_and_no_memory_or_head():
    model = adapted()
    linear = {name for name, module in hope()[0].named_modules() if isinstance(module, nn.Linear)}
    with_adapter = {
        name.removeprefix("base_model.model.").rsplit(".lora_A")[0]
        for name, parameter in model.named_parameters()
        if "lora_A" in name
    }
    assert with_adapter == linear - {"lm_head"}
    assert any(".mixer." in name for name in linear) and any(".cms." in name for name in linear)
    learned_states = [p for name, p in model.named_parameters() if ".memory_" in name]
    assert learned_states and not any(p.requires_grad for p in learned_states)


def test_adapters_belong_to_the_level_of_what_they_adapt():
    model = adapted()
    optimizer = nl.optim.Nested(levels(1e-2), model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for index, (level, group) in enumerate(zip(optimizer.levels, optimizer.param_groups, strict=True)):
        members = [names[parameter] for parameter in group["params"]]
        of_blocks = {name for name in members if ".cms." in name}
        assert of_blocks == {
            name for name in names.values() if f".cms.blocks.{index}." in name and "lora" in name
        }
        # The fastest also has what belongs to no block.
        assert set(members) == of_blocks or level.name == "fast"


def test_an_adapter_changes_only_when_its_level_is_due():
    model = adapted()
    optimizer = nl.optim.Nested(levels(1e-2), model)
    learn(model, optimizer, steps=3)
    adapters = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    moved = {name for name, p in adapters.items() if p.count_nonzero()}  # they start at zero
    assert moved == {name for name in adapters if ".cms.blocks.2." not in name}
    learn(model, optimizer, steps=1)
    assert all(p.count_nonzero() for p in adapters.values())


def test_the_adapters_of_one_level_can_be_trained_alone():
    model = adapted(target_modules=r".*\.cms\.blocks\.2\..*_proj")
    before = {name: p.clone() for name, p in model.named_parameters()}
    learn(model, nl.optim.Nested([nl.Level("slow", PERIODS[2], lr=1e-2)], model))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "lora" in name}
    with pytest.raises(ValueError, match="no parameters"):
        nl.optim.Nested(levels(1e-2), model)


def test_adapters_are_saved_loaded_and_merged(tmp_path):
    from peft import PeftModel

    model = adapted()
    learn(model, nl.optim.Nested(levels(1e-2), model))
    learned = logits(model)
    assert not torch.equal(learned, logits(hope()[0]))
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(PeftModel.from_pretrained(hope()[0], tmp_path / "adapter")), learned)
    merged = model.merge_and_unload()
    assert isinstance(merged, nl.HopeForCausalLM)
    assert torch.allclose(logits(merged), learned, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(nl.HopeForCausalLM.from_pretrained(tmp_path / "merged")), logits(merged))


def test_memories_learn_as_modules_to_save(tmp_path):
    from peft import PeftModel

    model = adapted(target_modules=r".*\.cms\..*_proj", modules_to_save=["mixer"])
    optimizer = nl.optim.Nested(levels(1e-2), model)
    states = {name: p for name, p in model.named_parameters() if ".memory_" in name and p.requires_grad}
    before = {name: p.clone() for name, p in states.items()}
    learn(model, optimizer)
    assert states and not any(torch.equal(p, before[name]) for name, p in states.items())
    learned = logits(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(hope()[0], tmp_path)), learned)


def test_adapters_in_the_trainer_resume_within_a_period(tmp_path):
    def made() -> tuple[Any, nl.optim.Nested]:
        torch.manual_seed(0)  # adapters are drawn
        model = adapted(lora_dropout=0.1)
        return model, nl.optim.Nested(levels(1e-2), model)

    model, optimizer = made()
    trainer(tmp_path, model, optimizer).train()
    expected = everything(model, optimizer)
    model, optimizer = made()
    again = trainer(tmp_path, model, optimizer, save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert difference(expected, everything(model, optimizer)) is None


@pytest.mark.filterwarnings("default")
def test_the_page_shows_what_its_code_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples("peft.md")
