"""With one level that is due at every step, ``Nested`` is torch's own optimizer bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from nestlearn.levels import Level
from nestlearn.optim import Nested
from tests.helpers import difference, random_tokens, tiny_model
from tests.optim.nets import TOKENS, Net, batches, loss_of, net, train, values

STEPS = 10
Make = Callable[[nn.Module], torch.optim.Optimizer]

CASES: dict[str, tuple[dict[str, Any], Make]] = {
    "adamw": (
        {"lr": 1e-2, "betas": (0.9, 0.95)},
        lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0),
    ),
    "adamw, weight decay": (
        {"lr": 3e-3, "betas": (0.8, 0.999), "weight_decay": 0.1},
        lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3, betas=(0.8, 0.999), weight_decay=0.1),
    ),
    "sgd": (
        {"optimizer": "sgd", "lr": 0.1, "betas": (0.0, 0.9)},
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
    ),
    "sgd, momentum and weight decay": (
        {"optimizer": "sgd", "lr": 0.05, "betas": (0.9, 0.9), "weight_decay": 0.01},
        lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01),
    ),
}


def plain(
    model: nn.Module, optimizer: torch.optim.Optimizer, norm: float | None, schedule: Any = None
) -> None:
    scheduler = LambdaLR(optimizer, schedule) if schedule is not None else None
    for batch in batches(STEPS):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        if norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.parametrize("consolidate", [False, True], ids=["plain", "consolidating, nothing kept"])
@pytest.mark.parametrize("norm", [None, 0.05])
@pytest.mark.parametrize("case", CASES)
def test_one_level_is_the_plain_optimizer_bit_for_bit(
    case: str, norm: float | None, consolidate: bool
) -> None:
    settings, make = CASES[case]
    expected, got = net(), net()
    plain(expected, make(expected), norm)
    level = Level("all", TOKENS, max_grad_norm=norm, consolidate=consolidate, **settings)
    train(got, Nested([level], got), batches(STEPS))
    assert difference(values(expected), values(got)) is None
    assert difference(values(net()), values(got)) is not None


@pytest.mark.parametrize("mixer", ["self_modifying", "attention"])
def test_the_same_on_hope(mixer: str) -> None:
    models = [tiny_model(mixer=mixer).train() for _ in range(2)]
    level = Level("all", 18, lr=1e-2, max_grad_norm=None)
    nested = Nested([level], models[0], tokens_per_step=18)
    adamw = torch.optim.AdamW(models[1].parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(STEPS):
        tokens = random_tokens(2, 9, seed=step)
        for model, optimizer in zip(models, (nested, adamw), strict=True):
            model(tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert difference(values(models[1]), values(models[0])) is None


@pytest.mark.parametrize("period", [1, 3, TOKENS])
def test_a_period_shorter_than_a_step_is_due_once_a_step(period: int) -> None:
    expected, got = net(), net()
    plain(expected, CASES["adamw"][1](expected), None)
    train(got, Nested([Level("all", period, max_grad_norm=None, **CASES["adamw"][0])], got), batches(STEPS))
    assert difference(values(expected), values(got)) is None


@pytest.mark.parametrize("case", CASES)
def test_a_scheduler_acts_on_it_as_on_the_plain_optimizer(case: str) -> None:
    settings, make = CASES[case]

    def schedule(step: int) -> float:
        return (step + 1) / STEPS

    expected, got = net(), net()
    plain(expected, make(expected), None, schedule)
    optimizer = Nested([Level("all", TOKENS, max_grad_norm=None, **settings)], got)
    scheduler = LambdaLR(optimizer, schedule)
    train(got, optimizer, batches(STEPS), after=lambda _: scheduler.step())
    assert difference(values(expected), values(got)) is None


def test_a_scheduler_still_acts_after_loading_a_state() -> None:
    model = net()
    optimizer = Nested([Level("all", TOKENS, lr=1e-2)], model)
    scheduler = LambdaLR(optimizer, lambda step: 1.0 if step < 2 else 0.0)
    train(model, optimizer, batches(1), after=lambda _: scheduler.step())
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer, batches(1), after=lambda _: scheduler.step())
    stopped = values(model)
    train(model, optimizer, batches(3), after=lambda _: scheduler.step())
    assert difference(stopped, values(model)) is None


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    """As in torch: neither weight decay nor old momentum moves what the loss does not touch."""

    class Half(Net):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(4))

    torch.manual_seed(0)
    expected = Half()
    got = Half()
    got.load_state_dict(expected.state_dict())
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    plain(expected, torch.optim.AdamW(expected.parameters(), betas=(0.9, 0.95), **settings), None)
    train(got, Nested([Level("all", TOKENS, max_grad_norm=None, **settings)], got), batches(STEPS))
    assert torch.equal(got.unused, torch.ones(4))
    assert difference(values(expected), values(got)) is None


def test_a_learning_rate_of_zero_leaves_a_level_as_it_is() -> None:
    model = net()
    before = values(model)
    train(model, Nested([Level("all", TOKENS, lr=0.0)], model), batches(3))
    assert difference(before, values(model)) is None


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned() -> None:
    expected, got = net(), net()
    plain(expected, CASES["adamw"][1](expected), None)
    optimizer = Nested(
        [Level("all", TOKENS, max_grad_norm=None, **CASES["adamw"][0])], got, tokens_per_step=TOKENS
    )
    for batch in batches(STEPS):

        def closure(batch: Any = batch) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(got, batch)
            loss.backward()
            return loss

        with torch.no_grad():
            loss = loss_of(got, batch)
        assert optimizer.step(closure).item() == loss.item()
    assert difference(values(expected), values(got)) is None
