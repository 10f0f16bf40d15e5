"""What several tests use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 50


def relative_error(expected: Tensor, got: Tensor) -> float:
    """Root mean square of the difference over root mean square of the expected tensor."""
    assert expected.shape == got.shape, f"{tuple(got.shape)} instead of {tuple(expected.shape)}"
    if expected.numel() == 0:
        return 0.0
    expected, got = (
        t.detach().flatten().to(torch.promote_types(t.dtype, torch.float32)) for t in (expected, got)
    )
    difference = (expected - got).square().mean().sqrt()
    return (difference / (expected.square().mean().sqrt() + 1e-8)).item()


def tiny_config(**changes: Any) -> Any:
    """A Hope of a few thousand parameters."""
    from nestlearn.models.hope import HopeConfig

    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_heads": 2,
        "intermediate_size": 24,
        "chunk_size": 4,
        "cms_periods": (16, 64),
        "eos_token_id": None,
        **changes,
    }
    return HopeConfig(**settings)


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    """The same, built and in evaluation mode."""
    from nestlearn.models.hope import HopeForCausalLM

    torch.manual_seed(seed)
    return HopeForCausalLM(tiny_config(**changes)).eval()


def random_tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    """int64 ``[batch, length]``."""
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def in_pieces(
    model: nn.Module, tokens: Tensor, sizes: Sequence[int] | int, cache: Any = None
) -> tuple[Tensor, Any]:
    """Logits of a sequence that is fed through a cache in pieces, and the cache."""
    from nestlearn.models.hope import HopeCache

    cache = HopeCache() if cache is None else cache
    pieces = tokens.split(sizes if isinstance(sizes, int) else list(sizes), dim=1)
    return torch.cat([model(piece, past_key_values=cache).logits for piece in pieces], dim=1), cache


def state_tensors(cache: Any) -> list[Tensor]:
    """All tensors of a cache (or of any nested tuples), in order."""
    if isinstance(cache, Tensor):
        return [cache]
    return [t for part in getattr(cache, "states", cache) for t in state_tensors(part)]


def copy_tree(tree: Any) -> Any:
    """A deep copy of nested dicts, lists and tuples of tensors."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: copy_tree(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(copy_tree(value) for value in tree)
    return tree


def difference(expected: Any, got: Any, place: str = "") -> str | None:
    """Where two trees first differ by a bit or a type, or None. NaN equals NaN."""
    if type(expected) is not type(got):
        return f"{place}: {type(expected).__name__} became {type(got).__name__}"
    if isinstance(expected, Tensor):
        same = expected.dtype == got.dtype and expected.shape == got.shape
        same = same and torch.equal(expected.isnan(), got.isnan())
        same = same and torch.equal(*(t.masked_fill(t.isnan(), 0) for t in (expected, got)))
        return None if same else f"{place}: tensors differ"
    if isinstance(expected, dict):
        if list(expected) != list(got):
            return f"{place}: keys {list(expected)} became {list(got)}"
        pairs = [(f"{place}/{key}", expected[key], got[key]) for key in expected]
    elif isinstance(expected, list | tuple):
        if len(expected) != len(got):
            return f"{place}: length {len(expected)} became {len(got)}"
        pairs = [(f"{place}/{i}", a, b) for i, (a, b) in enumerate(zip(expected, got, strict=True))]
    else:
        both_nan = isinstance(expected, float) and math.isnan(expected) and math.isnan(got)
        return None if both_nan or expected == got else f"{place}: {expected!r} became {got!r}"
    return next((found for where, a, b in pairs if (found := difference(a, b, where))), None)
