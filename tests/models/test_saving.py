"""What transformers promises of a saved model: shards, tied weights, types, missing weights, devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import nestlearn as nl
from nestlearn.models.hope.initialization import reset_missing
from nestlearn.models.hope.modeling import HopePreTrainedModel
from tests.helpers import difference, random_tokens, relative_error, tiny_model
from tests.models.variants import FEW, Changes, over


def moved(**changes: Any) -> Any:
    """A model none of whose parameters has its initial value."""
    model = tiny_model(seed=1, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def same(model: Any, other: Any) -> bool:
    return difference(dict(model.state_dict()), dict(other.state_dict())) is None


@over(FEW)
def test_shards_come_back_to_the_bit(changes: Changes, tmp_path: Path) -> None:
    model = moved(**changes)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(shards) > 1
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert set(index["weight_map"]) == {name for name, _ in model.named_parameters()}
    loaded = nl.HopeForCausalLM.from_pretrained(tmp_path)
    assert same(model, loaded)
    assert torch.equal(model(random_tokens(2, 9)).logits, loaded(random_tokens(2, 9)).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_the_vocabulary_can_grow(tied: bool, tmp_path: Path) -> None:
    model = moved(tie_word_embeddings=tied)
    model.resize_token_embeddings(60, mean_resizing=False)
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    loaded = nl.HopeForCausalLM.from_pretrained(tmp_path)
    for each in (model, loaded):
        assert each.config.vocab_size == 60
        assert (each.lm_head.weight is each.model.embed_tokens.weight) is tied
        assert each(torch.tensor([[59, 0]])).logits.shape == (1, 2, 60)
    assert same(model, loaded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_a_type_can_be_chosen_and_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model, tokens = moved(), random_tokens(2, 13)
    model.save_pretrained(tmp_path / "first")
    chosen = nl.HopeForCausalLM.from_pretrained(tmp_path / "first", dtype=dtype)
    assert {parameter.dtype for parameter in chosen.parameters()} == {dtype}
    assert relative_error(model(tokens).logits, chosen(tokens).logits.float()) < 0.05
    chosen.save_pretrained(tmp_path / "second")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "second", dtype="auto")
    assert again.config.dtype == dtype
    assert same(chosen, again)


@over([{}, {"memory": "matrix"}, {"mixer": "titans"}])
@torch.no_grad()
def test_nothing_needs_to_stay_in_float32(
    changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memories are written in float32 whatever the parameters' type: wider gates and starts gain nothing."""
    model, tokens = moved(initializer_range=0.5, **changes), random_tokens(4, 128)
    model.save_pretrained(tmp_path)
    expected, errors = model(tokens).logits, []
    memories = {"memory", "memory_in", "memory_out", "gate_weight", "gate_bias", "write_logit"}
    for kept in (set(), memories):
        monkeypatch.setattr(HopePreTrainedModel, "_keep_in_fp32_modules_strict", kept)
        loaded = nl.HopeForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert (torch.float32 in {p.dtype for p in loaded.parameters()}) is bool(kept)
        errors.append(relative_error(expected, loaded(tokens).logits.float()))
    assert errors[0] < 0.03
    assert errors[0] < 1.5 * errors[1]


def test_a_whole_checkpoint_is_loaded_without_a_draw(tmp_path: Path) -> None:
    moved(tie_word_embeddings=False).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    model = nl.HopeForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert list(model.buffers()) == []  # nothing that a model built without memory would lack


def without(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Take a parameter out of a saved model; returns the rest."""
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


MIXER = "model.layers.0.mixer."


@pytest.mark.parametrize("name", ["memory_in", "gate_bias", "write_logit", "convolution.bias"])
def test_a_missing_weight_is_drawn_and_the_others_stay(name: str, tmp_path: Path) -> None:
    moved().save_pretrained(tmp_path)
    rest = without(tmp_path, MIXER + name)
    model, found = nl.HopeForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert found["missing_keys"] == {MIXER + name}
    loaded = model.state_dict()
    assert [key for key in rest if not torch.equal(rest[key], loaded[key])] == []
    initial = tiny_model().get_parameter(MIXER + name)
    assert abs(loaded[MIXER + name].float().std(correction=0) - initial.std(correction=0)) < 0.2


def test_a_reset_leaves_what_was_loaded() -> None:
    for module in (moved().model.layers[0].mixer, moved().model.layers[0].mixer.convolution):
        names = [name for name, _ in module.named_parameters(recurse=False)]
        for missing in names:
            before = {name: module.get_parameter(name).detach().clone() for name in names}
            for name in names:
                module.get_parameter(name)._is_hf_initialized = name != missing
            reset_missing(module)
            changed = [name for name in names if not torch.equal(before[name], module.get_parameter(name))]
            assert changed == [missing]
            with torch.no_grad():
                module.get_parameter(missing).add_(1.0)


def test_what_does_not_belong_is_reported(tmp_path: Path) -> None:
    moved().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.7.norm.weight"] = torch.ones(16)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, found = nl.HopeForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(found["unexpected_keys"]) == {"model.layers.7.norm.weight"}
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        nl.HopeForCausalLM.from_pretrained(tmp_path, intermediate_size=48)
    assert same(moved(), model)


def test_generation_settings_and_further_fields_are_kept(tmp_path: Path) -> None:
    model = moved(house="yellow", bos_token_id=3)
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).house == "yellow"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.max_new_tokens == 7
    assert loaded.generation_config.bos_token_id == 3


PLACES = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}


@pytest.mark.parametrize("device_map", ["cpu", "auto", PLACES], ids=["cpu", "auto", "disk"])
def test_devices_can_be_chosen(device_map: Any, tmp_path: Path) -> None:
    model, tokens = moved(num_hidden_layers=2), random_tokens(2, 9)
    model.save_pretrained(tmp_path / "model")
    loaded = nl.HopeForCausalLM.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "disk"
    )
    assert any(p.device.type == "meta" for p in loaded.parameters()) is (device_map is PLACES)
    assert torch.equal(model(tokens).logits, loaded(tokens).logits)
    expected = model.generate(tokens, max_new_tokens=4, do_sample=False)
    assert torch.equal(expected, loaded.generate(tokens, max_new_tokens=4, do_sample=False))
