"""Diagnostics against values by hand, and alarms in situations that deserve them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nestlearn as nl
from nestlearn.observing import Diagnostics
from nestlearn.observing.alarms import RULES, Alarms
from nestlearn.observing.diary import SAMPLES, Diary, sketch, without_gradient


def layer(*values: float) -> nn.Module:
    module = nn.Linear(len(values), 1, bias=False)
    module.weight.data = torch.tensor([values])
    return module


def stepped(model, gradients, optimizer=None, **settings):
    """Values after each of several steps with given gradients, of the one level there is."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1.0)
    found = []
    with Diagnostics(model, optimizer, schedule=1, **settings) as diagnostics:
        for count, gradient in enumerate(gradients, start=1):
            model.weight.grad = torch.tensor([gradient])
            optimizer.step()
            found.append(diagnostics.record(count, 1.0)[0].get("weights", {}))
    return found


def test_update_ratio_and_drift_by_hand():
    first, second = stepped(layer(3.0, 4.0), [(3.0, 0.0), (0.0, 4.0)])
    assert first["update_ratio"] == pytest.approx(3 / 4)  # (3, 4) -> (0, 4)
    assert first["drift"] == pytest.approx(3 / 5)
    assert second["update_ratio"] == 0.0  # (0, 4) -> (0, 0): a length of zero has no share
    assert second["drift"] == pytest.approx(1.0)


def test_updates_that_undo_each_other():
    back_and_forth = stepped(layer(1.0, 1.0), [(0.5, 0.0), (-0.5, 0.0)] * 2, window=4)
    assert back_and_forth[-1]["cancel"] == pytest.approx(1.0)
    assert "cancel" not in back_and_forth[-2]
    straight = stepped(layer(1.0, 1.0), [(0.1, 0.0)] * 4, window=4)
    assert straight[-1]["cancel"] == pytest.approx(0.0, abs=1e-5)
    corner = stepped(layer(1.0, 1.0), [(3.0, 0.0), (0.0, 4.0)], window=2)
    assert corner[-1]["cancel"] == pytest.approx(1 - 5 / 7)


def test_agreement_with_the_context_before():
    model = layer(1.0, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    diagnostics = Diagnostics(model, optimizer, schedule=1)

    def agreement(*gradient: float) -> float | None:
        model.weight.grad = torch.tensor([gradient])
        with diagnostics:
            optimizer.step()
        return diagnostics.record(1, 1.0)[0]["weights"].get("agreement")

    assert agreement(1.0, 0.0) is None
    diagnostics.end_context()
    assert agreement(2.0, 0.0) == pytest.approx(1.0)
    assert agreement(0.0, 1.0) == pytest.approx(0.0)
    assert agreement(-1.0, 0.0) == pytest.approx(-1.0)
    diagnostics.end_context()
    # The mean gradient of the second context, the past weighing 0.9: (2, 0), (1.8, 0.1), (1.52, 0.09).
    assert agreement(1.52, 0.09) == pytest.approx(1.0, abs=1e-6)


def test_surprise_counts_deviations_of_the_loss():
    model = layer(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values = []
    with Diagnostics(model, optimizer, schedule=1) as diagnostics:
        for count, loss in enumerate([1.0] * 10 + [1.5], start=1):
            model.weight.grad = torch.ones(1, 1)
            optimizer.step()
            values.append(diagnostics.record(count, loss)[0]["weights"].get("surprise"))
    assert values[:8] == [None] * 8  # a context begins
    assert values[9] == 0.0
    assert values[10] == pytest.approx(0.5 / 0.025)  # the least deviation


def test_units_without_gradient():
    assert without_gradient([None, None]) is None
    matrix = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 2]])
    assert without_gradient([matrix, None, torch.zeros(2)]) == 0.5  # biases are no rows


def test_dead_relus_are_found_and_unused_embeddings_are_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 2))
    model[1].bias.data[:8], model[1].bias.data[8:] = -100.0, 10.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Diagnostics(model, optimizer, schedule=1) as diagnostics:
        model(torch.tensor([1, 2, 3])).square().sum().backward()
        optimizer.step()
        values, alarms = diagnostics.record(1, 1.0)
    assert values["weights"]["dead"] == pytest.approx(8 / 12)
    assert [a.sentence for a in alarms if a.kind == "dead"] == [
        "level 'weights' has dead units: 67 % of its units get no gradient"
    ]


def test_a_sketch_keeps_lengths():
    torch.manual_seed(0)
    small, large = torch.randn(5, 7), torch.randn(10 * SAMPLES + 3)
    assert torch.equal(sketch([small]), small.flatten())
    assert len(sketch([large])) <= SAMPLES
    assert float(sketch([small, large]).norm()) == pytest.approx(
        float((small.norm() ** 2 + large.norm() ** 2).sqrt()), rel=0.05
    )
    assert len(sketch([])) == 0


def test_a_sketch_is_a_copy():
    weights = torch.ones(3)
    taken = sketch([weights])
    weights.zero_()
    assert torch.equal(taken, torch.ones(3))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))


def nested(model: nn.Module) -> nl.optim.Nested:
    levels = [
        nl.Level("fast", 4, consolidate=True),
        nl.Level("slow", 16, consolidate=True, strength=1e-6, output_strength=1e-6),
    ]
    assign = lambda name, _: "fast" if name.startswith("one") else "slow"  # noqa: E731
    return nl.optim.Nested(levels, model, assign=assign, tokens_per_step=4)


def stream(model, optimizer, diagnostics, steps=24, start=0):
    """Steps along a stream whose context ends in the middle; every event with its position."""
    found = []
    for step in range(start, start + steps):
        torch.manual_seed(step)
        if step == 12:
            optimizer.commit()
        loss = (model(torch.randn(4, 4)) - 1).square().mean()
        loss.backward()
        with diagnostics:
            optimizer.step(surprise=loss)
        optimizer.zero_grad()
        found.append(diagnostics.record(optimizer.clock.tokens, loss.item()))
    return found


def test_levels_of_a_nested_optimizer():
    torch.manual_seed(0)
    model = Net()
    optimizer = nested(model)
    diagnostics = Diagnostics(model, optimizer)
    found = stream(model, optimizer, diagnostics)
    assert [i for i, (values, _) in enumerate(found) if "drift" in values.get("slow", {})] == [
        3,
        7,
        11,
        15,
        19,
        23,
    ]
    assert all("drift" in values["fast"] for values, _ in found)
    at = found[12][0]
    for name in ("fast", "slow"):
        memory = optimizer.memories[name]
        assert at[name]["rank"] == pytest.approx(memory.rank())
        assert at[name]["fill"] == pytest.approx(memory.fill())
        assert 0 < at[name]["rank"] <= 1
    assert at["slow"]["fill"] > 0.99, "tiny strengths hold everything back"
    assert any(a.kind == "full" and a.level == "slow" for _, alarms in found for a in alarms)
    assert all("agreement" in values["fast"] for values, _ in found[13:])


def test_diagnostics_change_nothing_and_resume_to_the_bit(tmp_path):
    from nestlearn.training import load_tree, save_tree

    torch.manual_seed(0)
    model = Net()
    optimizer = nested(model)
    whole = Diagnostics(model, optimizer)
    expected = stream(model, optimizer, whole)

    torch.manual_seed(0)
    bare = Net()
    plain = nested(bare)
    for step in range(24):
        torch.manual_seed(step)
        if step == 12:
            plain.commit()
        loss = (bare(torch.randn(4, 4)) - 1).square().mean()
        loss.backward()
        plain.step(surprise=loss)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), bare.parameters(), strict=True))

    torch.manual_seed(0)
    part = Net()
    first = nested(part)
    half = Diagnostics(part, first)
    begun = stream(part, first, half, steps=14)
    save_tree(tmp_path / "d", {"m": part.state_dict(), "o": first.state_dict(), "d": half.state_dict()})
    other = Net()
    second = nested(other)
    resumed = Diagnostics(other, second)
    state = load_tree(tmp_path / "d")
    second.load_state_dict(state["o"])
    other.load_state_dict(state["m"])
    resumed.load_state_dict(state["d"])
    assert begun + stream(other, second, resumed, steps=10, start=14) == expected


def test_foreign_states_are_refused():
    model = Net()
    diagnostics = Diagnostics(model, nested(model))
    other = layer(1.0)
    state = Diagnostics(other, torch.optim.SGD(other.parameters(), lr=0.1)).state_dict()
    with pytest.raises(ValueError, match="levels"):
        diagnostics.load_state_dict(state)
    with pytest.raises(ValueError, match="another model"):
        Diary([("a", torch.ones(3))], 2).load_state_dict(Diary([("a", torch.ones(4))], 2).state_dict())


@pytest.mark.parametrize("name", ["every", "window"])
def test_settings_are_checked(name):
    model = layer(1.0)
    with pytest.raises(ValueError, match=f"{name} is a number of updates, at least 1, got 0"):
        Diagnostics(model, torch.optim.SGD(model.parameters(), lr=0.1), **{name: 0})


def test_every_looks_at_some_updates_only():
    found = stepped(layer(1.0, 1.0), [(0.1, 0.0)] * 6, every=3)
    assert [bool(values) for values in found] == [False, False, True] * 2


def test_an_alarm_is_raised_once_until_it_clears():
    alarms = Alarms()
    sentences = [
        [a.sentence for a in alarms.check(t, "fast", {"cancel": value})]
        for t, value in enumerate([0.92, 0.95, 0.85, 0.99, 0.5, 0.91])
    ]
    assert sentences == [
        ["level 'fast' saturates: its updates cancel 92 % of each other"],
        [],
        [],
        [],
        [],
        ["level 'fast' saturates: its updates cancel 91 % of each other"],
    ]
    restored = Alarms()
    restored.load_state_dict(alarms.state_dict())
    assert restored.raised == alarms.raised
    assert restored.check(9, "fast", {"cancel": 0.99}) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_no_value_raises_and_clears_a_rule_at_once(rule):
    values = [x / 100 for x in range(-200, 500)]
    assert any(rule.raised(v) for v in values)
    assert any(rule.cleared(v) for v in values)
    assert not any(rule.raised(v) and rule.cleared(v) for v in values)


def test_a_level_that_sleeps_is_reported():
    model = Net()
    optimizer = nested(model)
    with Diagnostics(model, optimizer) as diagnostics:
        alarms = []
        for _ in range(20):
            loss = model(torch.randn(4, 4)).square().mean()
            loss.backward()
            for parameter in model.two.parameters():
                parameter.grad = None
            optimizer.step(surprise=loss)
            alarms += diagnostics.record(optimizer.clock.tokens, loss.item())[1]
    assert [(a.level, a.kind, a.tokens) for a in alarms if a.kind == "idle"] == [("slow", "idle", 52)]


def test_parts_of_weights_have_gradients_too():
    from tests.retrofitting.small import pretrained

    twin = nl.retrofit(pretrained("llama"), [nl.Level("fast", 16), nl.Level("slow", 32)])
    optimizer = nl.NestedUnits(twin, tokens_per_step=16)
    diagnostics = Diagnostics(twin, optimizer)
    ids = torch.arange(16).reshape(2, 8)
    agreements = []
    for _ in range(6):
        loss = twin(input_ids=ids, labels=ids).loss
        loss.backward()
        with diagnostics:
            optimizer.step()
        optimizer.zero_grad()
        values, _ = diagnostics.record(optimizer.clock.tokens, loss.item())
        agreements.append(values["fast"].get("agreement"))
        assert values["fast"]["dead"] < 1.0
        if len(agreements) == 3:
            diagnostics.end_context()
    assert agreements[:3] == [None] * 3
    assert all(value > 0.5 for value in agreements[3:]), "the same text again"
