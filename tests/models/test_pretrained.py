"""Pretrained models by folder, and the one that a package carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nestlearn.models import packaged
from nestlearn.models.pretrained import load_pretrained, smollm2
from nestlearn.streams import DataError
from nestlearn.streams.material import UnavailableError
from tests.continual.small import tokenizer
from tests.retrofitting.small import pretrained


def test_a_folder(tmp_path: Path) -> None:
    made = pretrained(dtype=torch.bfloat16)
    made.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model, own = load_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert own.decode(own("red")["input_ids"]) == "red"
    assert all(torch.equal(p, model.get_parameter(n)) for n, p in made.named_parameters())
    assert load_pretrained(str(tmp_path), dtype=torch.float32)[0].dtype == torch.float32


def test_a_name_that_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no model .* give a folder, a name on the hub, or smollm2"):
        load_pretrained(tmp_path / "nothing")


def test_without_the_package_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise UnavailableError("no network")

    monkeypatch.setattr(packaged, "download", refuse)
    with pytest.raises(DataError, match=r"smollm2 could not be had \(no network\).*HuggingFaceTB/SmolLM2"):
        smollm2(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_smollm2_answers() -> None:
    """The real model, where its package can be had."""
    try:
        model, own = load_pretrained("smollm2")
    except DataError as reason:
        if "could not be had" not in str(reason):
            raise
        pytest.skip(str(reason))
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    ids = own.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
    assert "Paris" in own.decode(out[0, ids.shape[1] :])
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.config._name_or_path == "smollm2"
