"""What a meter counts, and what it gives to the optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nestlearn as nl
from nestlearn.training import Meter, count_tokens
from tests.helpers import difference
from tests.training.systems import everything, hope, rows


def given(optimizer: nl.optim.Nested) -> list[dict[str, Any]]:
    """What every step is given, from now on."""
    seen: list[dict[str, Any]] = []
    optimizer.register_step_pre_hook(lambda _, args, kwargs: seen.append(kwargs))
    return seen


def test_the_same_as_telling_the_optimizer():
    told, told_optimizer = hope()
    model, optimizer = hope()
    Meter(optimizer, model)
    for batch in rows(12).split(2):
        loss = told(input_ids=batch, labels=batch).loss
        loss.backward()
        told_optimizer.step(tokens=batch.numel(), surprise=loss)
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    # The loss goes through one product and one quotient by its number of predictions.
    for state in (told_optimizer._surprise, optimizer._surprise):
        for name, value in state.state_dict().items():
            setattr(state, name, round(value, 9))
    assert difference(everything(told, told_optimizer), everything(model, optimizer)) is None


def test_passes_before_a_step_are_one_batch_weighted_by_their_predictions():
    model, optimizer = hope()
    Meter(optimizer, model)
    seen = given(optimizer)
    first, second = rows(3), rows(1, seed=1)
    labels = first.clone()
    labels[0] = -100
    losses = [model(input_ids=first, labels=labels).loss, model(second, labels=second).loss]
    sum(losses).backward()
    optimizer.step()
    predictions = (14, 7)  # two sequences of eight tokens, one
    expected = sum(float(loss.detach()) * n for loss, n in zip(losses, predictions, strict=True)) / 21
    assert seen[0]["tokens"] == first.numel() + second.numel()
    assert seen[0]["surprise"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_that_is_a_share_of_the_step_is_made_a_mean():
    """As models that are given ``num_items_in_batch`` return it."""

    class Shared(nn.Module):
        def forward(self, input_ids, labels, num_items_in_batch):
            return {"loss": (labels[:, 1:] + 0.0).sum() / num_items_in_batch}

    inner, optimizer = hope()
    model = Shared()
    model.inner = inner
    Meter(optimizer, model)
    seen = given(optimizer)
    batches = rows(4).split(2)
    for batch in batches:
        model(input_ids=batch, labels=batch, num_items_in_batch=torch.tensor(28))
    optimizer.step()
    assert seen[0]["surprise"] == pytest.approx(float(torch.cat(batches)[:, 1:].float().mean()))


def test_evaluation_does_not_count():
    model, optimizer = hope()
    Meter(optimizer, model)
    seen, batch = given(optimizer), rows(2)
    with torch.no_grad():
        model(input_ids=batch, labels=batch)
    model.eval()
    model(input_ids=batch, labels=batch)
    model.train()
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    assert seen[0]["tokens"] == batch.numel()


def test_a_closure_is_counted_before_the_step():
    model, optimizer = hope()
    Meter(optimizer, model)
    seen, calls = given(optimizer), []

    def closure():
        calls.append(1)
        loss = model(input_ids=rows(2), labels=rows(2)).loss
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert len(calls) == 1 and optimizer.clock.tokens == seen[0]["tokens"] == 16
    assert float(loss.detach()) == pytest.approx(seen[0]["surprise"])


def test_what_a_step_is_told_goes_first():
    model, optimizer = hope()
    meter = Meter(optimizer, model)
    model(input_ids=rows(2), labels=rows(2)).loss.backward()
    meter.reset()
    optimizer.step(tokens=5, surprise=1.0)
    assert optimizer.clock.tokens == 5


def test_by_hand():
    model, optimizer = hope()
    meter, seen = Meter(optimizer), given(optimizer)
    model(input_ids=rows(2), labels=rows(2)).loss.backward()
    meter.add(99)
    meter.reset()
    meter.add(16)
    meter.add_loss(torch.tensor(3.0, requires_grad=True))
    meter.add_loss(1.0)
    optimizer.step()
    assert seen == [{"tokens": 16, "surprise": 2.0}]


def test_nothing_is_left_after_closing():
    model, optimizer = hope()
    before = len(model._forward_hooks)
    meter = Meter(optimizer, model)
    meter.close()
    assert len(model._forward_hooks) == before
    with pytest.raises(ValueError, match="step needs tokens"):
        optimizer.step()


def test_consolidated_needs_no_count():
    model, _ = hope()
    optimizer = nl.optim.Consolidated(model.named_parameters(), model=model)
    Meter(optimizer, model)
    before = model.lm_head.weight.clone()
    model(input_ids=rows(2), labels=rows(2)).loss.backward()
    optimizer.step()
    assert not torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize(
    ("inputs", "tokens"),
    [
        ({"input_ids": torch.zeros(2, 5)}, 10),
        (
            {
                "input_ids": torch.zeros(2, 5),
                "attention_mask": torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]]),
            },
            6,
        ),
        ({"input_ids": torch.zeros(2, 5), "attention_mask": torch.zeros(2, 1, 5, 5)}, 10),
        ({"input_ids": None, "inputs_embeds": torch.zeros(2, 5, 3)}, 10),
    ],
)
def test_padding_is_not_counted(inputs, tokens):
    assert count_tokens(inputs) == tokens


class Wrapper(torch.optim.Optimizer):
    """As accelerate wraps an optimizer."""

    def __init__(self, optimizer, scaler=None):
        self.optimizer, self.scaler = optimizer, scaler


def test_refusals():
    model, optimizer = hope()
    with pytest.raises(ValueError, match="AdamW, which has no levels"):
        Meter(torch.optim.AdamW(model.parameters()), model)
    with pytest.raises(ValueError, match="no parameter of this HopeForCausalLM"):
        Meter(optimizer, hope()[0])
    with pytest.raises(ValueError, match="train in bf16"):
        Meter(Wrapper(optimizer, scaler=object()), model)
    with pytest.raises(ValueError, match="pixel_values has no input_ids"):
        count_tokens({"pixel_values": torch.zeros(2, 3)})
    meter = Meter(Wrapper(optimizer), model)
    with pytest.raises(ValueError, match="no token has passed"):
        optimizer.step()
    model(input_ids=rows(2)).logits.sum().backward()
    with pytest.raises(ValueError, match=r"meter\.add_loss"):
        optimizer.step()
    assert optimizer.clock.tokens == 0
    meter.add(16)
    meter.add_loss(1.0)
    optimizer.step()  # the gradients are still there
    assert optimizer.clock.tokens == 16
