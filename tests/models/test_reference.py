"""The model built on the chunk form equals the model built on the sequential equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nestlearn.memory import naive
from tests.helpers import random_tokens, relative_error, tiny_model
from tests.models.variants import COMBINED, HYBRIDS, SELF_MODIFYING, STATIC, Changes, over

LENGTH = 19


def outcome(model: Any, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    out = model(tokens, labels=tokens)
    names = [name for name, _ in model.named_parameters()]
    return out.logits, dict(zip(names, torch.autograd.grad(out.loss, list(model.parameters())), strict=True))


def compare(
    model: Any, monkeypatch: pytest.MonkeyPatch, forward: float = 1e-5, backward: float = 1e-4
) -> None:
    tokens = random_tokens(2, LENGTH)
    logits, gradients = outcome(model, tokens)
    monkeypatch.setattr("nestlearn.layers.self_modifying.chunk.self_modifying", naive.self_modifying)
    expected, reference = outcome(model, tokens)
    assert not torch.equal(expected, logits)  # the reference was used
    assert relative_error(expected, logits) < forward
    errors = {name: relative_error(reference[name], gradients[name]) for name in reference}
    assert max(errors.values()) < backward, errors


@over([*SELF_MODIFYING, *STATIC, *COMBINED, *HYBRIDS])
def test_chunk_form_equals_the_equations_forward_and_backward(
    changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(tiny_model(**changes).train().double(), monkeypatch, 1e-10, 1e-8)


@over([{"memory": "matrix"}, {"memory": "mlp"}])
def test_in_two_layers_and_three_chunks(changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(tiny_model(**changes, num_hidden_layers=2, chunk_size=8).train(), monkeypatch)


@pytest.mark.parametrize(
    ("rate", "retention"), [(30.0, 30.0), (0.0, -8.0), (0.0, -30.0), (-30.0, 0.0), (2.0, -100.0)]
)
@over([{"memory": "matrix"}, {"memory": "mlp"}, {"mixer": "gated_delta"}])
def test_at_extreme_gates(
    changes: Changes, rate: float, retention: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of very small retentions over a chunk are ratios near one between its neighbours."""
    model = tiny_model(**{**changes, "chunk_size": 16}).train()
    with torch.no_grad():
        model.model.layers[0].mixer.gate_bias[0] += rate
        model.model.layers[0].mixer.gate_bias[1] += retention
    tokens = random_tokens(2, 33)
    with torch.no_grad():
        logits = model(tokens).logits
        monkeypatch.setattr("nestlearn.layers.self_modifying.chunk.self_modifying", naive.self_modifying)
        assert relative_error(model(tokens).logits, logits) < 1e-5
