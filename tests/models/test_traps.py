"""The traps that recurrent models fell into in transformers, one test each.

Sources: transformers#49036 (crop), #45513 (several tokens on a filled cache), fla#1009 and fla#582 (names
that move), titans-pytorch PR 54 and the caches of transformers themselves (reset).
"""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import cache_utils

from nestlearn.models.hope import HopeCache, NestedMemoryLayer
from nestlearn.models.hope.outputs import CACHE_NAME, cache_of
from tests.helpers import random_tokens, relative_error, state_tensors, tiny_model
from tests.models.variants import EVERY, FEW, Changes, over


@over(EVERY)
@torch.no_grad()
def test_reset_goes_back_to_the_meta_learned_state_and_not_to_zero(changes: Changes) -> None:
    """Zeros are no beginning for fast weights whose initial state was learned."""
    model, tokens = tiny_model(**changes), random_tokens(2, 9)
    cache = cache_of(model(random_tokens(2, 14, seed=3), use_cache=True))
    cache.reset()
    again = model(tokens, past_key_values=cache).logits
    assert torch.equal(model(tokens, use_cache=True).logits, again)
    zeroed = cache_of(model(tokens[:, :1], use_cache=True))
    for layer in zeroed.layers:
        layer.map_state(torch.zeros_like)
    wrong = model(tokens, past_key_values=zeroed).logits
    if changes.get("rest") == "zero" or changes.get("mixer") in ("titans", "ttt_mlp", "gated_delta"):
        assert relative_error(again, wrong) > 1e-4  # so this test can tell the two apart


@over(FEW)
@torch.no_grad()
def test_crop_undoes_a_recurrent_state(changes: Changes) -> None:
    """What was cropped has left no trace, in any tensor of the state."""
    model, tokens = tiny_model(**changes), random_tokens(1, 12)
    cache = HopeCache()
    cache.activate_past_recording()
    model(tokens, past_key_values=cache)
    cache.crop(-5)
    for expected, got in zip(
        state_tensors(cache_of(model(tokens[:, :7], use_cache=True))), state_tensors(cache), strict=True
    ):
        assert relative_error(expected, got) < 1e-5


def test_assisted_generation_is_not_switched_off() -> None:
    assert not tiny_model()._is_stateful
    assert HopeCache().is_croppable


@over(FEW)
@pytest.mark.parametrize("sizes", [(1,) * 24, (2,) * 12, (7, 7, 7, 3), (5, 1, 11, 2, 4, 1), (23, 1)])
@torch.no_grad()
def test_several_tokens_on_a_filled_cache_see_it(changes: Changes, sizes: tuple[int, ...]) -> None:
    """Nine models dropped the state whenever more than one token came."""
    model, tokens = tiny_model(**changes), random_tokens(2, 24)
    cache = HopeCache()
    pieces = [model(piece, past_key_values=cache).logits for piece in tokens.split(sizes, dim=1)]
    assert relative_error(model(tokens).logits, torch.cat(pieces, dim=1)) < 1e-5


def test_a_layer_answers_to_the_names_of_every_version() -> None:
    """``get_max_cache_shape`` became ``get_max_length``; ``past_key_values`` becomes ``cache``."""
    layer = NestedMemoryLayer()
    assert layer.get_max_cache_shape() == layer.get_max_length() == -1
    abstract = cache_utils.CacheLayerMixin.__abstractmethods__
    assert all(hasattr(layer, name) for name in abstract)
    assert CACHE_NAME in ("past_key_values", "cache")
    model, tokens = tiny_model(), random_tokens(1, 8)
    cache = cache_of(model(tokens[:, :5], use_cache=True))
    by_old, by_new = (
        model(tokens[:, 5:], **{name: cache.copy()}).logits for name in ("past_key_values", "cache")
    )
    assert torch.equal(by_old, by_new)
    with pytest.raises(ValueError, match="two names of one thing"):
        model(tokens[:, 5:], past_key_values=cache, cache=cache)


def test_every_method_of_a_cache_works_on_ours() -> None:
    """What this version of transformers may call, with and without a session."""
    model = tiny_model(num_hidden_layers=2)
    for cache in (HopeCache(), cache_of(model(random_tokens(2, 5), use_cache=True))):
        length = cache.get_seq_length()
        assert length in (0, 5)
        assert len(cache) == len(cache.layers)
        assert cache.is_compileable is False
        assert not any(cache.is_sliding)
        assert cache.is_initialized in (
            False,
            length > 0,
        )  # 5.4 asks the layers
        assert "HopeCache" in repr(cache)
        if hasattr(cache, "get_max_length") and cache.layers:
            assert cache.get_max_length() == -1
        if "batch_size" in dir(type(cache)) and cache.layers:
            assert cache.batch_size == 2
        assert cache.get_mask_sizes(3, 0) == (length + 3, 0)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0]))
        cache.reorder_cache(torch.tensor([0]))
        cache.reset()
        assert cache.get_seq_length() == 0


def test_the_configuration_names_our_layers_and_is_saved_without_them() -> None:
    config = tiny_model(num_hidden_layers=3).config
    assert config.layer_types == ["nested_memory"] * 3
    assert "layer_types" not in config.to_dict()
    config.validate_layer_type()
    registered = getattr(cache_utils, "DYNAMIC_LAYER_TYPE_MAPPING", {"nested_memory": NestedMemoryLayer})
    assert registered["nested_memory"] is NestedMemoryLayer


def test_a_loss_is_a_mean_for_the_trainer() -> None:
    """Trainer divides by itself where a model takes ``num_items_in_batch``: ours says that it does not."""
    model = tiny_model()
    assert model.accepts_loss_kwargs is False
    assert "num_items_in_batch" not in inspect.signature(model.forward).parameters
