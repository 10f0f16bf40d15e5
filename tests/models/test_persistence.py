"""A saved model comes back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from nestlearn.models.hope import HopeConfig, HopeForCausalLM, HopeModel
from tests.helpers import difference, random_tokens, tiny_model
from tests.models.variants import FEW, Changes, over


@over([*FEW, {"tie_word_embeddings": False}])
def test_a_round_trip_is_bit_identical(changes: Changes, tmp_path: Path) -> None:
    model, tokens = tiny_model(seed=1, **changes), random_tokens(2, 13)
    model.save_pretrained(tmp_path)
    for loaded in (HopeForCausalLM.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert type(loaded) is HopeForCausalLM
        assert not loaded.training
        assert difference(dict(model.state_dict()), dict(loaded.state_dict())) is None
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, loaded(tokens).logits)
        tied = changes.get("tie_word_embeddings", True)
        assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied


def test_only_safetensors_and_json_are_written(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json"}


@over(FEW)
def test_the_configuration_comes_back(changes: Changes, tmp_path: Path) -> None:
    config = tiny_model(**changes).config
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "nestlearn_hope"
    for loaded in (HopeConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is HopeConfig
        assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}
        assert isinstance(loaded.cms_periods, tuple)


def test_the_body_without_its_head_loads_too(tmp_path: Path) -> None:
    model, tokens = tiny_model(), random_tokens(1, 5)
    model.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    assert type(body) is HopeModel
    with torch.no_grad():
        assert torch.equal(model.model(tokens).last_hidden_state, body(tokens).last_hidden_state)


def test_tied_weights_are_one_parameter_before_and_after(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = HopeForCausalLM.from_pretrained(tmp_path).train()
    for each in (model, loaded):
        assert each.lm_head.weight is each.model.embed_tokens.weight
        assert (
            sum(
                name.endswith(("embed_tokens.weight", "lm_head.weight"))
                for name, _ in each.named_parameters()
            )
            == 1
        )
    tokens = random_tokens(1, 9)
    loaded(tokens, labels=tokens).loss.backward()
    torch.optim.SGD(loaded.parameters(), lr=1.0).step()
    assert torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)
    assert not torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_a_model_in_bfloat16_comes_back_in_bfloat16(tmp_path: Path) -> None:
    model = tiny_model(mixer="attention").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = HopeForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert difference(dict(model.state_dict()), dict(loaded.state_dict())) is None


def test_a_saved_configuration_that_was_damaged_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cms_periods": [64, 16]}))
    with pytest.raises(ValueError, match="cms_periods"):
        HopeForCausalLM.from_pretrained(tmp_path)
