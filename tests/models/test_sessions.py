"""Sessions of any ages in one batch, taken apart again, and kept in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nestlearn.layers import tensors_of
from nestlearn.models.hope import HopeCache
from nestlearn.models.hope.session_file import FORMAT
from tests.helpers import copy_tree, difference, random_tokens, relative_error, tiny_model
from tests.models.variants import Changes, over

#: Every mixer whose state does not grow.
CONSTANT: list[Changes] = [
    {"projection_chunk_size": 8},
    {"projection_chunk_size": 8, "momentum": True, "num_hidden_layers": 2},
    {"projection_chunk_size": 2, "memory": "matrix", "rest": "zero"},
    {"projection_chunk_size": 8, "objective": "l2", "causal_reads": False, "adaptive_query": True},
    {"projection_chunk_size": 8, "adaptive_key": False, "adaptive_value": False, "adaptive_gates": False},
    *(
        {"mixer": mixer}
        for mixer in (
            "gated_delta",
            "delta",
            "linear_attention",
            "retention",
            "ttt_linear",
            "ttt_mlp",
            "titans",
        )
    ),
    {"mixer": "titans_mac", "persistent_tokens": 2},
    {"mixer": "titans_mag", "window": 5},
    {"mixer": "titans_mal", "window": 5, "persistent_tokens": 2},
    {"mixer": "attention", "window": 5, "persistent_tokens": 2},
    {"mixer": ("self_modifying", "attention"), "num_hidden_layers": 2, "window": 3, "conv_size": 0},
]
GROWING: list[Changes] = [
    {"mixer": "attention"},
    {"mixer": ("attention", "self_modifying"), "num_hidden_layers": 2},
]
AGES = (3, 8, 16, 1)
MORE = 11


def after(model: Any, tokens: Tensor) -> HopeCache:
    cache: HopeCache = model(tokens, use_cache=True).past_key_values
    return cache


def streams(ages: tuple[int, ...] = AGES) -> list[Tensor]:
    return [random_tokens(1, age + MORE, seed) for seed, age in enumerate(ages)]


def follow(model: Any, cache: HopeCache, tokens: list[Tensor]) -> Tensor:
    """Logits of what is left of each stream."""
    batch = torch.cat([row[:, -MORE:] for row in tokens])
    logits: Tensor = model(batch, past_key_values=cache).logits
    return logits


def aliased(cache: HopeCache) -> list[bool]:
    """Whether each layer's memories are their own snapshots."""
    memories = [layer.memory for layer in cache.states if hasattr(layer, "memory")]
    return [all(a is b for a, b in zip(m.weights, m.snapshot, strict=True)) for m in memories]


@over([*CONSTANT, *GROWING])
@torch.no_grad()
def test_sessions_of_different_ages_are_one_batch(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), streams()
    caches = [after(model, row[:, :age]) for row, age in zip(tokens, AGES, strict=True)]
    bits = [copy_tree(tensors_of(cache.states)) for cache in caches]
    cache = HopeCache.join(caches)
    assert cache.seen_tokens.tolist() == list(AGES)
    assert cache.get_seq_length() == 16
    if changes in CONSTANT:  # full attention keeps as many places for the shorter ones
        assert cache.num_bytes() == sum(c.num_bytes() for c in caches)
    logits = follow(model, cache, tokens)
    assert cache.seen_tokens.tolist() == [age + MORE for age in AGES]
    assert cache.get_seq_length() == 16 + MORE
    for row, got in zip(tokens, logits, strict=True):
        assert relative_error(model(row).logits[0, -MORE:], got) < 1e-5
    for before, now in zip(bits, caches, strict=True):  # the single sessions are as they were
        assert difference(before, tensors_of(now.states)) is None


@over([*CONSTANT, *GROWING])
@torch.no_grad()
def test_a_batch_is_taken_apart_at_any_time(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), streams()
    cache = HopeCache.join([after(model, row[:, :age]) for row, age in zip(tokens, AGES, strict=True)])
    begun = [row[:, : age + 4] for row, age in zip(tokens, AGES, strict=True)]
    model(torch.cat([row[:, -4:] for row in begun]), past_key_values=cache)
    parts = cache.split()
    assert [part.seen_tokens for part in parts] == [age + 4 for age in AGES]
    kept = {t.untyped_storage().data_ptr() for t in tensors_of(cache.states) if t.numel()}
    for row, part, age in zip(tokens, parts, AGES, strict=True):
        assert all(t.shape[0] == 1 for t in tensors_of(part.states))
        assert not kept & {t.untyped_storage().data_ptr() for t in tensors_of(part.states) if t.numel()}
        logits = model(row[:, age + 4 :], past_key_values=part).logits
        assert relative_error(model(row).logits[:, age + 4 :], logits) < 1e-5


@over([*CONSTANT, *GROWING])
@torch.no_grad()
def test_joining_what_was_taken_apart_changes_no_bit(changes: Changes) -> None:
    model = tiny_model(**changes)
    for age in (7, 16):
        cache = after(model, random_tokens(3, age))
        again = HopeCache.join(cache.split())
        assert again.seen_tokens == age
        assert difference(cache.states, again.states) is None
        assert aliased(again) == aliased(cache)
        following = random_tokens(3, 5, seed=1)
        first = model(following, past_key_values=cache.copy()).logits
        assert torch.equal(first, model(following, past_key_values=again).logits)


@over([*CONSTANT, *GROWING])
@pytest.mark.parametrize("age", [1, 7, 16])
@torch.no_grad()
def test_a_session_from_a_file_goes_on_to_the_bit(changes: Changes, age: int, tmp_path: Path) -> None:
    model = tiny_model(**changes)
    cache = after(model, random_tokens(2, age))
    file = tmp_path / "deep" / "session.safetensors"
    cache.save(file)
    assert list(file.parent.iterdir()) == [file]
    loaded = HopeCache.load(str(file))
    assert loaded.seen_tokens == age
    assert difference(cache.states, loaded.states) is None
    assert aliased(loaded) == aliased(cache)
    for piece in random_tokens(2, 20, seed=1).split(9, dim=1):
        expected = model(piece, past_key_values=cache).logits
        assert torch.equal(expected, model(piece, past_key_values=loaded).logits)
    assert difference(cache.states, loaded.states) is None


@torch.no_grad()
def test_a_file_keeps_ages_types_and_an_empty_session(tmp_path: Path) -> None:
    model = tiny_model(mixer=("self_modifying", "titans_mac"), num_hidden_layers=2).to(torch.bfloat16)
    cache = HopeCache.join([after(model, random_tokens(2, 5)), after(model, random_tokens(1, 9))])
    cache.save(tmp_path / "mixed")
    loaded = HopeCache.load(tmp_path / "mixed")
    assert torch.equal(loaded.seen_tokens, torch.tensor([5, 5, 9]))
    assert difference(cache.states, loaded.states) is None
    HopeCache().save(tmp_path / "empty")
    empty = HopeCache.load(tmp_path / "empty")
    assert (empty.states, empty.seen_tokens) == ([], 0)


def test_a_graph_is_not_kept_in_a_file(tmp_path: Path) -> None:
    cache = tiny_model()(random_tokens(1, 6), use_cache=True).past_key_values
    cache.save(tmp_path / "session")
    assert any(t.requires_grad for t in tensors_of(cache.states))
    assert not any(t.requires_grad for t in tensors_of(HopeCache.load(tmp_path / "session").states))


def test_joined_sessions_keep_their_graphs() -> None:
    model, tokens = tiny_model(), [random_tokens(1, age, seed) for seed, age in enumerate((5, 8))]
    caches = [model(row, use_cache=True).past_key_values for row in tokens]
    model(random_tokens(2, 3), past_key_values=HopeCache.join(caches)).logits.sum().backward()
    for row in tokens:
        assert model.get_input_embeddings().weight.grad[row[0, 0]].norm() > 0


@torch.no_grad()
def test_batches_are_selected_from_sessions_of_different_ages() -> None:
    model, tokens = tiny_model(mixer="titans_mag", window=5), streams()
    caches = [after(model, row[:, :age]) for row, age in zip(tokens, AGES, strict=True)]
    cache = HopeCache.join(caches).reorder_cache(torch.tensor([2, 0, 2]))
    assert cache.seen_tokens.tolist() == [16, 3, 16]
    chosen = [tokens[i] for i in (2, 0, 2)]
    for row, got in zip(chosen, follow(model, cache, chosen), strict=True):
        assert relative_error(model(row).logits[0, -MORE:], got) < 1e-5

    cache = HopeCache.join(caches).batch_repeat_interleave(2)
    assert cache.seen_tokens.tolist() == [3, 3, 8, 8, 16, 16, 1, 1]
    cache = cache.batch_select_indices(torch.tensor([4, 5]))
    assert cache.seen_tokens == 16  # of one age again
    assert aliased(cache) == [True]
    assert HopeCache.join(caches).detach().seen_tokens.tolist() == list(AGES)


@torch.no_grad()
def test_what_cannot_be_joined_is_refused() -> None:
    cache = after(tiny_model(), random_tokens(1, 5))
    for caches in ([], [HopeCache()], [cache, HopeCache()]):
        with pytest.raises(ValueError, match="at least one token"):
            HopeCache.join(caches)
    for other, message in (
        (tiny_model(num_hidden_layers=2), r"sessions of \[1, 2\] layers"),
        (tiny_model(mixer="attention", window=3), "states differ in type: MixerState, WindowState"),
        (tiny_model(momentum=True), "states differ in size"),
        (tiny_model(num_heads=4), "different models, types or devices"),
        (tiny_model().to(torch.bfloat16), "torch.bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            HopeCache.join([cache, after(other, random_tokens(1, 5))])


def test_an_empty_cache_is_split_into_none() -> None:
    assert HopeCache().split() == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "session.safetensors"
    with torch.no_grad():
        after(tiny_model(), random_tokens(1, 6)).save(path)
    return path


def test_a_damaged_file_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for content in (b"", whole[:5], whole[: len(whole) // 2], whole[:-1], whole + b"x", b"{}" * 100):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"session.safetensors is damaged or no session"):
            HopeCache.load(file)
    file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(ValueError, match="its checksum is wrong"):
        HopeCache.load(file)


def test_what_is_no_session_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no session at"):
        HopeCache.load(tmp_path / "missing")
    with pytest.raises(ValueError, match="there is no session at"):
        HopeCache.load(tmp_path)
    save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="no session of this library: its format is None"):
        HopeCache.load(file)


def test_a_session_of_another_version_is_refused(file: Path) -> None:
    from nestlearn.models.hope.session_file import _digest

    with safe_open(file, framework="pt") as opened:
        session = opened.metadata()["session"]
    tensors = load_file(file)
    for changed in (
        session.replace("MixerState", "os.system"),
        session.replace('"seen_tokens"', '"tokens"'),
        json.dumps({"layers": [{"type": "Window", "parts": []}], "seen_tokens": 0}),
    ):
        metadata = {"format": FORMAT, "session": changed, "sha256": _digest(changed, tensors)}
        save_file(tensors, file, metadata=metadata)
        with pytest.raises(ValueError, match="this version cannot read"):
            HopeCache.load(file)


@torch.no_grad()
def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = file.read_bytes()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("nestlearn.models.hope.session_file.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        after(tiny_model(), random_tokens(1, 9)).save(file)
    assert file.read_bytes() == whole
    assert list(file.parent.iterdir()) == [file]


@torch.no_grad()
def test_a_session_of_another_model_is_refused_when_it_is_used(file: Path) -> None:
    for changes, message in (
        ({"mixer": "titans_mac"}, "a cache belongs to one model"),
        ({"num_heads": 4}, "a state belongs to one configuration"),
        ({"projection_chunk_size": 2, "chunk_size": 2}, "at positions"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_model(**changes)(random_tokens(1, 3), past_key_values=HopeCache.load(file))
