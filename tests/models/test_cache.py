"""Sessions: snapshots, resets, selection of samples, and how much memory a session takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nestlearn.models.hope import HopeCache
from tests.helpers import copy_tree, in_pieces, random_tokens, relative_error, state_tensors, tiny_model
from tests.models.variants import FEW, Changes, over

MEMORIES: list[Changes] = [
    {"memory": "matrix"},
    {"memory": "mlp", "projection_chunk_size": 8, "momentum": True},
    {"mixer": "gated_delta", "chunk_size": 1},
    {"mixer": "ttt_linear"},
    {"mixer": "attention", "window": 5},
]


@torch.no_grad()
def after(model: Any, tokens: torch.Tensor) -> HopeCache:
    return model(tokens, use_cache=True).past_key_values


@over(FEW)
@torch.no_grad()
def test_a_snapshot_is_not_changed_by_later_tokens(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 30)
    cache = after(model, tokens[:, :10])
    snapshot, bits = cache.copy(), copy_tree(state_tensors(cache))
    first = model(tokens[:, 10:], past_key_values=cache).logits
    assert (snapshot.seen_tokens, cache.seen_tokens) == (10, 30)
    assert all(torch.equal(a, b) for a, b in zip(bits, state_tensors(snapshot), strict=True))
    again = model(tokens[:, 10:], past_key_values=snapshot.copy()).logits  # roll back and repeat
    assert torch.equal(first, again)
    assert snapshot.seen_tokens == 10


@over(FEW)
@torch.no_grad()
def test_a_reset_cache_is_a_fresh_one(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 19)
    cache = after(model, random_tokens(2, 33, seed=5))
    cache.reset()
    assert cache.get_seq_length() == 0
    assert cache.num_bytes() == 0
    assert torch.equal(
        model(tokens, past_key_values=cache).logits, model(tokens, past_key_values=HopeCache()).logits
    )


@over(FEW)
@torch.no_grad()
def test_a_reset_cache_takes_another_batch_size(changes: Changes) -> None:
    model = tiny_model(**changes)
    cache = after(model, random_tokens(2, 9))
    cache.reset()
    assert model(random_tokens(3, 4), past_key_values=cache).logits.shape[0] == 3


@over(FEW)
@torch.no_grad()
def test_interleaved_sessions_equal_separate_ones(changes: Changes) -> None:
    model = tiny_model(**changes)
    users = [random_tokens(1, 24, seed) for seed in range(3)]
    separate = [in_pieces(model, tokens, 5)[0] for tokens in users]
    kept = copy_tree(model.state_dict())
    caches, logits = [HopeCache() for _ in users], [[] for _ in users]
    for start in range(0, 24, 5):
        for user, tokens in enumerate(users):
            out = model(tokens[:, start : start + 5], past_key_values=caches[user])
            logits[user].append(out.logits)
    for expected, got in zip(separate, logits, strict=True):
        assert torch.equal(expected, torch.cat(got, dim=1))
    assert all(torch.equal(a, b) for a, b in zip(kept.values(), model.state_dict().values(), strict=True))


@over(FEW)
@torch.no_grad()
def test_samples_are_selected_and_repeated(changes: Changes) -> None:
    model, tokens, following = tiny_model(**changes), random_tokens(3, 14), random_tokens(3, 6, seed=1)
    alone = [
        model(torch.cat([row, nxt])[None]).logits[0, 14:] for row, nxt in zip(tokens, following, strict=True)
    ]

    beams = torch.tensor([2, 0, 0])
    cache = after(model, tokens)
    assert cache.reorder_cache(beams) is cache
    for source, got in zip(
        beams.tolist(), model(following[beams], past_key_values=cache).logits, strict=True
    ):
        assert relative_error(alone[source], got) < 1e-5

    cache = after(model, tokens).batch_select_indices(torch.tensor([1]))
    assert relative_error(alone[1], model(following[1:2], past_key_values=cache).logits[0]) < 1e-5

    cache = after(model, tokens).batch_repeat_interleave(2)
    logits = model(following.repeat_interleave(2, 0), past_key_values=cache).logits
    for row in range(6):
        assert relative_error(alone[row // 2], logits[row]) < 1e-5


@over(FEW)
@torch.no_grad()
def test_selecting_does_not_change_a_snapshot(changes: Changes) -> None:
    model = tiny_model(**changes)
    cache = after(model, random_tokens(3, 14))
    snapshot = cache.copy()
    cache.reorder_cache(torch.tensor([1, 1, 1]))
    assert not torch.equal(state_tensors(snapshot)[0], state_tensors(cache)[0])
    assert torch.equal(state_tensors(snapshot)[0], state_tensors(after(model, random_tokens(3, 14)))[0])


def storage_bytes(cache: HopeCache) -> int:
    """Bytes that the cache really keeps alive, views counted with what they are views of."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state_tensors(cache)}
    return sum(storages.values())


@over(MEMORIES)
@torch.no_grad()
def test_the_size_of_a_session_is_constant(changes: Changes) -> None:
    model = tiny_model(**changes)
    cache, sizes = HopeCache(), []
    for piece in random_tokens(1, 160).split(16, dim=1):
        model(piece, past_key_values=cache)
        sizes.append(cache.num_bytes())
    assert len(set(sizes)) == 1


@torch.no_grad()
def test_attention_keeps_every_token() -> None:
    model = tiny_model(mixer="attention")
    sizes = [after(model, random_tokens(1, length)).num_bytes() for length in (10, 20, 30)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] == 10 * 2 * 16 * 4  # keys and values in float32


@over(MEMORIES)
@torch.no_grad()
def test_a_session_does_not_keep_a_long_piece_alive(changes: Changes) -> None:
    """Constant memory means the storage too: a view of the last inputs would hold on to all of them."""
    model = tiny_model(**changes)
    short, long = after(model, random_tokens(1, 16)), after(model, random_tokens(1, 1600))
    assert long.num_bytes() == short.num_bytes()
    # The state itself, and what one piece of ordinary size may leave behind.
    assert storage_bytes(long) <= 2 * storage_bytes(short)


@over(FEW)
@torch.no_grad()
def test_a_refused_piece_leaves_the_session_as_it_was(changes: Changes) -> None:
    model = tiny_model(**changes)
    cache = after(model, random_tokens(2, 9))
    bits = copy_tree(state_tensors(cache))
    with pytest.raises(ValueError, match="attention_mask"):
        mask = torch.tensor([[1, 1, 1], [1, 0, 1]])
        model(random_tokens(2, 3), past_key_values=cache, attention_mask=mask)
    with pytest.raises(ValueError, match="non-empty"):
        model(random_tokens(2, 3)[:, :0], past_key_values=cache)
    assert cache.seen_tokens == 9
    assert all(torch.equal(a, b) for a, b in zip(bits, state_tensors(cache), strict=True))
