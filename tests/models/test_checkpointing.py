"""Less memory for the same gradients, and gradients that end where the configuration says."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.helpers import random_tokens, relative_error, tiny_model
from tests.models.variants import BASELINE, HYBRIDS, Changes, over

LENGTH = 22
MIXERS: list[Changes] = [
    {"memory": "matrix"},
    {"momentum": True, "projection_chunk_size": 8},
    *BASELINE,
    *HYBRIDS,
]


def outcome(model: Any) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss, gradients, and how many numbers were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    tokens = random_tokens(2, LENGTH)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = model(tokens, labels=tokens).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}, sum(kept.values())


def enable(model: Any) -> None:
    """Newer versions of transformers have another name for it."""
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)()


def same(a: tuple[Tensor, dict[str, Tensor], int], b: tuple[Tensor, dict[str, Tensor], int]) -> None:
    assert torch.equal(a[0], b[0])
    assert all(relative_error(g, b[1][name]) < 1e-6 for name, g in a[1].items())


@over(MIXERS)
def test_gradient_checkpointing_by_layer_changes_nothing(changes: Changes) -> None:
    plain, again = (tiny_model(**changes).train() for _ in range(2))
    enable(again)
    assert again.model.gradient_checkpointing
    expected, got = outcome(plain), outcome(again)
    same(expected, got)
    assert got[2] < expected[2]


@over([c for c in MIXERS if c.get("mixer") != "attention"])
@pytest.mark.parametrize("chunks", [1, 2])
def test_checkpoints_by_chunks_change_nothing(changes: Changes, chunks: int) -> None:
    expected = outcome(tiny_model(**changes).train())
    same(expected, outcome(tiny_model(**changes, checkpoint_chunks=chunks).train()))


def test_both_kinds_of_checkpoints_together() -> None:
    changes: Changes = {"num_hidden_layers": 2, "checkpoint_chunks": 2}
    both = tiny_model(**changes).train()
    enable(both)
    same(outcome(tiny_model(num_hidden_layers=2).train()), outcome(both))


def test_checkpoints_save_memory() -> None:
    plain, saved = (
        outcome(tiny_model(chunk_size=2, conv_size=0, checkpoint_chunks=chunks).train())[2]
        for chunks in (0, 4)
    )
    assert saved < plain / 2


@pytest.mark.parametrize(
    "changes",
    [{}, {"memory": "matrix", "momentum": True}, {"mixer": "titans"}, {"mixer": "gated_delta"}],
    ids=str,
)
@pytest.mark.parametrize(("cut", "first"), [(None, 0), (1, 20), (2, 16), (3, 12)])
def test_backprop_chunks_cut_the_graph(changes: Changes, cut: int | None, first: int) -> None:
    """The last of 22 tokens is in the sixth chunk of four; without convolutions only memories look back."""
    model = tiny_model(**changes, conv_size=0, backprop_chunks=cut).train()
    inputs = model.get_input_embeddings()(random_tokens(1, LENGTH)).detach().requires_grad_()
    logits = model(inputs_embeds=inputs).logits
    (gradient,) = torch.autograd.grad(logits[:, -1].square().sum(), inputs)
    reached = (gradient.abs().sum((0, 2)) > 0).nonzero().flatten().tolist()
    assert reached == list(range(first, LENGTH))
    with torch.no_grad():
        whole = tiny_model(**changes, conv_size=0)
        assert torch.equal(logits, whole(inputs_embeds=inputs).logits)


def test_reentrant_checkpoints_through_a_cache_are_refused() -> None:
    model, tokens = tiny_model().train(), random_tokens(1, 9)
    model.gradient_checkpointing = True
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=True)
    with pytest.raises(ValueError, match="leave out use_reentrant"):
        model(tokens, use_cache=True)


def test_a_checkpointed_block_is_called_as_a_module() -> None:
    """What shards parameters hooks into the call."""
    model, calls = tiny_model(num_hidden_layers=2).train(), []
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
    for block in model.model.layers:
        block.register_forward_pre_hook(lambda module, given: calls.append(module))
    model(random_tokens(1, 9), labels=random_tokens(1, 9)).loss.backward()
    assert len(calls) == 2
