"""Levels in time: nothing moves between boundaries, and a boundary sees the mean over its period."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestlearn.levels import Level
from nestlearn.optim import Nested
from tests.helpers import difference, random_tokens, relative_error, tiny_model
from tests.models.variants import CMS, Changes, over
from tests.optim.nets import TOKENS, batches, by_layer, loss_of, net, train, two_levels, values


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("slow", [2, 3, 5])
def test_a_level_is_bit_identical_between_its_boundaries(slow: int, optimizer: str) -> None:
    model = net()
    nested = Nested(
        two_levels(slow=slow * TOKENS, optimizer=optimizer, weight_decay=0.1), model, assign=by_layer
    )
    before = [values(model)]

    def check(step: int) -> None:
        now = values(model)
        for name, value in now.items():
            due = by_layer(name, value) == "fast" or step % slow == 0  # type: ignore[arg-type]
            assert torch.equal(value, before[0][name]) is not due, f"{name} at step {step}"
        before[0] = now

    train(model, nested, batches(11), after=check)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=10), st.integers(1, 30), st.integers(1, 4))
def test_levels_move_exactly_when_the_clock_says_so(steps: list[int], period: int, factor: int) -> None:
    model = net()
    optimizer = Nested(two_levels(period, period * factor + 1), model, assign=by_layer)
    for tokens, batch in zip(steps, batches(len(steps)), strict=True):
        before, due = values(model), {level.name for level in optimizer.clock.due(tokens)}
        loss_of(model, batch).backward()
        optimizer.step(tokens=tokens)
        moved = {by_layer(n, v) for n, v in values(model).items() if not torch.equal(v, before[n])}  # type: ignore[arg-type]
        assert moved == due
    assert optimizer.clock.tokens == sum(steps)


@pytest.mark.parametrize("norm", [None, 0.01])
def test_the_gradient_at_a_boundary_is_the_mean_over_the_tokens_of_the_period(norm: float | None) -> None:
    sizes = [3, 5, 1, 7, 4, 4]  # boundaries at 9 and 24 tokens: periods of 9 and, later, 15 tokens
    model, reference = net(), net()
    optimizer = Nested([Level("all", 9, lr=1e-2, max_grad_norm=norm)], model)
    adamw = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    tokens, total = 0, [torch.zeros_like(p) for p in reference.parameters()]
    since = 0
    for size, batch in zip(sizes, batches(len(sizes)), strict=True):
        loss_of(model, batch).backward()
        optimizer.step(tokens=size)
        gradients = torch.autograd.grad(loss_of(reference, batch), list(reference.parameters()))
        total = [t + size * g for t, g in zip(total, gradients, strict=True)]
        tokens, since = tokens + size, since + size
        if tokens // 9 > (tokens - size) // 9:
            for parameter, summed in zip(reference.parameters(), total, strict=True):
                parameter.grad = summed / since
            if norm is not None:
                torch.nn.utils.clip_grad_norm_(reference.parameters(), norm)
            adamw.step()
            since, total = 0, [torch.zeros_like(t) for t in total]
        for expected, got in zip(reference.parameters(), model.parameters(), strict=True):
            assert relative_error(expected, got) < 1e-6


def test_a_slow_level_sees_the_gradients_at_the_weights_of_their_time() -> None:
    """By hand: the fast level moves at every step, the slow one once with the mean of three gradients."""
    model, reference = net(), net()
    optimizer = Nested(two_levels(max_grad_norm=None), model, assign=by_layer)
    train(model, optimizer, batches(3))

    groups = {
        level: [p for n, p in reference.named_parameters() if by_layer(n, p) == level]
        for level in ("fast", "slow")
    }
    fast = torch.optim.AdamW(groups["fast"], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    slow = torch.optim.AdamW(groups["slow"], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for batch in batches(3):
        (loss_of(reference, batch) / 3).backward()
        for parameter in groups["fast"]:
            parameter.grad *= 3
        fast.step()
        fast.zero_grad()
    slow.step()
    for expected, got in zip(reference.parameters(), model.parameters(), strict=True):
        assert relative_error(expected, got) < 1e-6


def test_clipping_is_over_one_level() -> None:
    """A level's norm does not depend on the other's gradients."""
    model, other = net(), net()
    for each, scale in ((model, 1.0), (other, 100.0)):
        optimizer = Nested(
            two_levels(slow=TOKENS, max_grad_norm=0.1, optimizer="sgd", betas=(0.0, 0.9)),
            each,
            assign=by_layer,
        )
        loss_of(each, batches(1)[0]).backward()
        for name, parameter in each.named_parameters():
            if by_layer(name, parameter) == "slow":
                parameter.grad *= scale
        optimizer.step(tokens=TOKENS)
    for name, value in values(model).items():
        if by_layer(name, value) == "fast":  # type: ignore[arg-type]
            assert torch.equal(value, values(other)[name]), name


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_between_steps_loses_nothing(to_none: bool) -> None:
    outcomes = []
    for zero in (True, False):
        model = net()
        optimizer = Nested(two_levels(2 * TOKENS, 6 * TOKENS), model, assign=by_layer)
        train(
            model,
            optimizer,
            batches(13),
            zero=False,
            after=(lambda _, o=optimizer: o.zero_grad(set_to_none=to_none)) if zero else None,
        )
        outcomes.append(values(model))
    assert difference(*outcomes) is None


def test_several_backward_passes_before_a_step_add_up() -> None:
    one, two = net(), net()
    batch = batches(1)[0]
    for model, parts in ((one, 1), (two, 2)):
        optimizer = Nested([Level("all", TOKENS, optimizer="sgd", lr=0.1, max_grad_norm=None)], model)
        for _ in range(parts):
            (loss_of(model, batch) / parts).backward()
        optimizer.step(tokens=TOKENS)
    for expected, got in zip(one.parameters(), two.parameters(), strict=True):
        assert relative_error(expected, got) < 1e-6


def test_the_order_in_which_levels_are_given_makes_no_difference() -> None:
    outcomes = []
    for turn in (1, -1):
        model = net()
        optimizer = Nested(two_levels()[::turn], model, assign=by_layer)
        assert [level.name for level in optimizer.levels] == ["fast", "slow"]
        train(model, optimizer, batches(7))
        outcomes.append(values(model))
    assert difference(*outcomes) is None


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_the_nested_variant_resets_faster_levels_at_slower_boundaries(rate: float) -> None:
    start = values(net())
    runs = {}
    for variant in ("sequential", "nested"):
        model = net()
        optimizer = Nested(two_levels(), model, assign=by_layer, variant=variant, reset_rate=rate)
        seen = []
        train(model, optimizer, batches(5), after=lambda _, m=model, s=seen: s.append(values(m)))
        runs[variant] = seen
    plain, nested = runs["sequential"], runs["nested"]
    assert difference(plain[1], nested[1]) is None  # the same up to the first slow boundary
    for name, value in nested[2].items():
        if by_layer(name, value) == "slow":  # type: ignore[arg-type]
            assert torch.equal(value, plain[2][name])
        else:
            moved = start[name] + rate * (plain[2][name] - start[name])
            assert relative_error(moved, value) < 1e-6
            assert rate == 1.0 or not torch.equal(value, plain[2][name])


def test_the_nested_variant_resets_everything_below_the_slowest_due_level() -> None:
    model = net()
    levels = [Level(name, n * TOKENS, lr=1e-2) for name, n in (("a", 1), ("b", 2), ("c", 4))]
    assign = {"first": "a", "norm": "b", "second": "c"}
    optimizer = Nested(
        levels, model, assign=lambda n, _: assign[n.split(".")[0]], variant="nested", reset_rate=1e-9
    )
    start, seen = values(model), []
    train(model, optimizer, batches(4), after=lambda _: seen.append(values(model)))
    # Step 2 updates a and b and resets a; step 4 updates all and resets a and b. 1e-9 of the way is none.
    for step, moved in ((2, "norm"), (4, "second")):
        for name, value in seen[step - 1].items():
            assert torch.allclose(value, start[name], atol=1e-6) is not name.startswith(moved), (
                f"{name} at {step}"
            )


@over([*CMS, {"tie_word_embeddings": False, "mixer": "gated_delta"}])
def test_every_parameter_of_hope_is_in_exactly_one_level(changes: Changes) -> None:
    model = tiny_model(**changes)
    periods = model.config.cms_periods
    optimizer = Nested([Level(f"every {p}", p) for p in periods], model)
    owner = {
        id(p): level.name
        for level, group in zip(optimizer.levels, optimizer.param_groups, strict=True)
        for p in group["params"]
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(owner)
    assert set(owner) == {id(p) for p in model.parameters()}
    for layer in model.model.layers:
        for block, period in zip(layer.cms.blocks, periods, strict=True):
            assert {owner[id(p)] for p in block.parameters()} == {f"every {period}"}
    fastest = f"every {periods[0]}"
    for name, parameter in model.named_parameters():
        if ".cms.blocks." not in name:
            assert owner[id(parameter)] == fastest, name


@over([{}, {"cms_variant": "independent"}])
def test_blocks_of_hope_are_bit_identical_between_boundaries(changes: Changes) -> None:
    model = tiny_model(**changes, cms_periods=(18, 54)).train()
    optimizer = Nested([Level("fast", 18, lr=1e-2), Level("slow", 54, lr=1e-2)], model, tokens_per_step=18)
    for step in range(1, 8):
        before = values(model)
        tokens = random_tokens(2, 9, seed=step)
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        for name, value in values(model).items():
            still = ".cms.blocks.1." in name and step % 3 != 0
            assert torch.equal(value, before[name]) is still, f"{name} at step {step}"


def test_a_block_without_a_level_is_named() -> None:
    model = tiny_model(cms_periods=(16, 64))
    with pytest.raises(ValueError, match=r"cms\.blocks\.1\..*64.*16, 128"):
        Nested([Level("fast", 16), Level("slow", 128)], model)
