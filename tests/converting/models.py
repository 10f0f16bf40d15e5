"""Models in folders, and what they are compared by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nestlearn.converting.content import COMPANIONS, is_companion, raw
from tests.continual.small import tokenizer
from tests.helpers import tiny_model


def saved(folder: Path, model: Any = None, **further: Any) -> Any:
    """A model (by default a Hope) in a folder, with a tokenizer."""
    model = tiny_model(vocab_size=63) if model is None else model
    model.save_pretrained(folder, **further)
    tokenizer().save_pretrained(folder)
    return model


def loaded(folder: Path) -> Any:
    """What transformers makes of a folder, in the dtype that it names."""
    from transformers import AutoModelForCausalLM

    import nestlearn.models.hope  # noqa: F401

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def bits(model: Any) -> dict[str, Any]:
    """Dtype, shape and bytes of everything in a model's state."""
    return {n: (t.dtype, t.shape, raw(t).numpy().tobytes()) for n, t in model.state_dict().items()}


def companions(folder: Path) -> dict[str, bytes]:
    """Files that go along."""
    assert COMPANIONS
    return {file.name: file.read_bytes() for file in folder.iterdir() if is_companion(file.name)}


def hard(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A Hope with values that comparisons by value would miss or refuse."""
    model = tiny_model(vocab_size=63, **changes).to(dtype)
    with torch.no_grad():
        weight = model.model.norm.weight
        weight[0], weight[1], weight[2] = float("nan"), -0.0, float("inf")
    return model
