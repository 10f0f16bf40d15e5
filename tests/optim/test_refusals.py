"""What is refused, and that nothing has changed then."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestlearn.levels import Level
from nestlearn.optim import Nested, NonFiniteGradientError
from tests.helpers import difference
from tests.optim.nets import TOKENS, batches, by_layer, loss_of, net, snapshot, train, two_levels

NAN, INF = math.nan, math.inf


def trained(consolidate: bool, steps: int = 4, variant: str = "sequential") -> tuple[nn.Module, Nested]:
    """A system inside its slow level's period, with something kept if it consolidates."""
    model = net()
    optimizer = Nested(two_levels(consolidate=consolidate), model, assign=by_layer, variant=variant)
    train(model, optimizer, batches(steps))
    if consolidate:
        optimizer.commit()
    return model, optimizer


@pytest.mark.parametrize("variant", ["sequential", "nested"])
@pytest.mark.parametrize("consolidate", [False, True])
@pytest.mark.parametrize("name", ["first.weight", "norm.bias", "second.bias"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_gradient_that_is_not_finite_changes_nothing(
    bad: float, name: str, consolidate: bool, variant: str
) -> None:
    model, optimizer = trained(consolidate, variant=variant)
    before = snapshot(model, optimizer)
    loss = loss_of(model, batches(1, seed=9)[0])
    loss.backward()
    dict(model.named_parameters())[name].grad.view(-1)[-1] = bad
    with pytest.raises(NonFiniteGradientError, match=f"{optimizer.clock.tokens} tokens"):
        optimizer.step(tokens=TOKENS, surprise=loss)
    assert difference(before, snapshot(model, optimizer)) is None


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_surprise_that_is_not_finite_changes_nothing(bad: float, gradients: bool, as_tensor: bool) -> None:
    model, optimizer = trained(consolidate=True)
    before = snapshot(model, optimizer)
    if gradients:
        loss_of(model, batches(1, seed=9)[0]).backward()
    with pytest.raises(NonFiniteGradientError):
        optimizer.step(tokens=TOKENS, surprise=torch.tensor(bad) if as_tensor else bad)
    assert difference(before, snapshot(model, optimizer)) is None


def overflow(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A batch whose inputs, loss and gradients are not finite."""
    return loss_of(model, (batch[0] * INF, batch[1]))


@pytest.mark.parametrize("consolidate", [False, True])
@pytest.mark.parametrize("at", [0, 2, 3, 5])
def test_after_a_refused_batch_training_goes_on_as_if_it_had_not_been(at: int, consolidate: bool) -> None:
    """Key memories included: what the refused pass left in them must not reach the next update."""
    runs = []
    for poisoned in (False, True):
        model = net()
        optimizer = Nested(two_levels(consolidate=consolidate), model, assign=by_layer)
        for step, batch in enumerate(batches(9)):
            if poisoned and step == at:
                loss = overflow(model, batch)
                loss.backward()
                with pytest.raises(NonFiniteGradientError):
                    optimizer.step(tokens=TOKENS, surprise=loss)
                optimizer.zero_grad()
            train(model, optimizer, [batch])
            if step == 6 and consolidate:
                optimizer.commit()
        runs.append(snapshot(model, optimizer))
    assert difference(*runs) is None


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True, "8"], ids=str)
def test_a_token_count_that_is_none_changes_nothing(tokens: Any) -> None:
    model, optimizer = trained(consolidate=False)
    before = snapshot(model, optimizer)
    loss_of(model, batches(1)[0]).backward()
    with pytest.raises(ValueError, match="tokens must be a whole number"):
        optimizer.step(tokens=tokens)
    assert difference(before, snapshot(model, optimizer)) is None


def test_missing_tokens_are_refused_and_named() -> None:
    model, optimizer = trained(consolidate=False)
    before = snapshot(model, optimizer)
    loss_of(model, batches(1)[0]).backward()
    with pytest.raises(ValueError, match="tokens="):
        optimizer.step()
    assert difference(before, snapshot(model, optimizer)) is None


def test_a_missing_surprise_is_refused_where_one_is_needed() -> None:
    model, optimizer = trained(consolidate=True)
    before = snapshot(model, optimizer)
    loss_of(model, batches(1)[0]).backward()
    with pytest.raises(ValueError, match="surprise=loss"):
        optimizer.step(tokens=TOKENS)
    assert difference(before, snapshot(model, optimizer)) is None


@pytest.mark.parametrize(
    ("levels", "more", "words"),
    [
        ([], {}, "at least one level"),
        ([Level("a", 8), Level("a", 16)], {"assign": lambda *_: "a"}, "unique names"),
        (two_levels(), {"assign": lambda *_: "medium"}, "'medium'.*fast.*slow"),
        (two_levels(), {"assign": lambda *_: "fast"}, "'slow' has no parameters"),
        (two_levels(), {}, "Net does not say"),
        (two_levels(), {"assign": by_layer, "variant": "parallel"}, "'parallel'"),
        (two_levels(), {"assign": by_layer, "reset_rate": 0.0}, "reset_rate.*0.0"),
        (two_levels(), {"assign": by_layer, "reset_rate": 1.5}, "reset_rate.*1.5"),
        (two_levels(), {"assign": by_layer, "reset_rate": NAN}, "reset_rate.*nan"),
        (two_levels(), {"assign": by_layer, "tokens_per_step": 0}, "tokens.*0"),
    ],
)
def test_a_system_that_makes_no_sense_is_refused(levels: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Nested(levels, net(), **more)


def test_a_level_whose_parameters_are_frozen_is_refused() -> None:
    model = net()
    model.second.requires_grad_(False)
    with pytest.raises(ValueError, match="'slow' has no parameters"):
        Nested(two_levels(), model, assign=by_layer)


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    model.norm.requires_grad_(False)
    optimizer = Nested(two_levels(consolidate=True), model, assign=by_layer)
    before = model.norm.weight.clone()
    train(model, optimizer, batches(4))
    optimizer.commit()
    train(model, optimizer, batches(4))
    assert torch.equal(before, model.norm.weight)


def test_a_group_of_no_level_is_refused() -> None:
    """A parameter that is added without a level would never be updated."""
    model = net()
    optimizer = Nested(two_levels(), model, assign=by_layer)
    for parameter in (nn.Parameter(torch.zeros(2)), ("late", nn.Parameter(torch.zeros(2)))):
        with pytest.raises((ValueError, NotImplementedError)):
            optimizer.add_param_group({"params": [parameter]})
