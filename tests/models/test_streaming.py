"""A sequence in pieces of any sizes, through a cache, equals one pass."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestlearn.models.hope import HopeCache
from tests.helpers import in_pieces, random_tokens, relative_error, state_tensors, tiny_model
from tests.models.variants import ALL, CMS, FEW, SELF_MODIFYING, SOME, Changes, over


def check(changes: Changes, length: int, *cuts: int | list[int]) -> None:
    """Logits and final state are those of one pass."""
    # In double precision: rounding that a mixer amplifies would hide a small mistake.
    model, tokens = tiny_model(**changes).double(), random_tokens(2, length)
    out = model(tokens, use_cache=True)
    end = state_tensors(out.past_key_values)
    for sizes in cuts:
        logits, cache = in_pieces(model, tokens, sizes)
        assert relative_error(out.logits, logits) < 1e-10
        assert cache.seen_tokens == cache.get_seq_length() == length
        for expected, got in zip(end, state_tensors(cache), strict=True):
            assert relative_error(expected, got) < 1e-10


def random_sizes(length: int, seed: int) -> list[int]:
    sizes, generator = [], random.Random(seed)
    while sum(sizes) < length:
        sizes.append(min(generator.randint(1, 20), length - sum(sizes)))
    return sizes


@over(ALL)
@torch.no_grad()
def test_pieces_of_random_sizes_equal_one_pass(changes: Changes) -> None:
    check(changes, 40, random_sizes(40, seed=len(str(changes))))


@over([*SELF_MODIFYING[1::3], *FEW, *CMS])
@torch.no_grad()
def test_pieces_of_7_13_and_64_equal_one_pass(changes: Changes) -> None:
    check(changes, 67, 7, 13, 64)


@over([*SOME, *SELF_MODIFYING[2::3]])
@torch.no_grad()
def test_token_by_token_equals_one_pass(changes: Changes) -> None:
    check(changes, 21, 1)


@over(FEW)
def test_any_pieces_equal_one_pass(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(1, 40)
    with torch.no_grad():
        whole = model(tokens).logits

    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.integers(1, 23), min_size=1, max_size=8))
    def any_sizes(sizes: list[int]) -> None:
        length = min(sum(sizes), 40)
        cuts = [0]
        for size in sizes:
            cuts.append(min(cuts[-1] + size, 40))
        with torch.no_grad():
            logits, _ = in_pieces(model, tokens[:, :length], [b - a for a, b in pairwise(cuts) if b > a])
        assert relative_error(whole[:, :length], logits) < 1e-5

    any_sizes()


@over(FEW)
def test_gradients_in_pieces_equal_those_of_one_pass(changes: Changes) -> None:
    """The cache carries the graph: nothing is cut unless it is detached."""
    model, tokens = tiny_model(**changes).train(), random_tokens(2, 21)
    parameters = list(model.parameters())
    whole = torch.autograd.grad(model(tokens).logits.square().mean(), parameters)
    logits, _ = in_pieces(model, tokens, [6, 1, 14])
    for expected, got in zip(whole, torch.autograd.grad(logits.square().mean(), parameters), strict=True):
        assert relative_error(expected, got) < 1e-4


@over(FEW)
def test_detach_cuts_the_graph(changes: Changes) -> None:
    model, tokens = tiny_model(**changes).train(), random_tokens(1, 12)
    inputs = model.get_input_embeddings()(tokens).detach().requires_grad_()
    cache = model(inputs_embeds=inputs[:, :6], use_cache=True).past_key_values
    assert cache.detach() is cache
    logits = model(inputs_embeds=inputs[:, 6:], past_key_values=cache).logits
    (gradient,) = torch.autograd.grad(logits.sum(), inputs)
    assert gradient[:, :6].abs().sum() == 0
    assert gradient[:, 6:].abs().sum() > 0


@over(FEW)
@torch.no_grad()
def test_left_out_or_in_the_cache_gives_the_same_logits(changes: Changes) -> None:
    model, tokens = tiny_model(**changes), random_tokens(2, 9)
    assert torch.equal(
        model(tokens, use_cache=False).logits, model(tokens, past_key_values=HopeCache()).logits
    )
    assert model(tokens, use_cache=False).past_key_values is None
