"""The trace sees what really changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nestlearn as nl
from nestlearn.observing import TraceError


class Model(nn.Module):
    """Three layers over token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.one, self.two = nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.two(self.one(self.embedding(ids)))


def level_of(name: str, _: object = None) -> str:
    return "slow" if name.startswith("two") else "fast"


def loss_of(model: nn.Module) -> Tensor:
    ids = torch.arange(16).reshape(2, 8) % 8
    return model(ids).square().mean()


def run(model, optimizer, watched, steps=12, **arguments):
    with watched:
        for _ in range(steps):
            loss = loss_of(model)
            loss.backward()
            optimizer.step(**arguments)
            optimizer.zero_grad()
    return watched.report()


def nested(model: nn.Module, **changes: object) -> nl.optim.Nested:
    levels = [nl.Level("fast", 16), nl.Level("slow", 64, **changes)]
    return nl.optim.Nested(levels, model, assign=level_of, tokens_per_step=16)


def rows(report):
    return {row.name: (row.due, row.updates) for row in report.rows}


def test_a_nested_optimizer_does_what_it_declares():
    model = Model()
    optimizer = nested(model)
    report = run(model, optimizer, nl.trace(model, optimizer))
    assert report.problems == ()
    assert report.notes == ()
    assert (report.steps, report.tokens) == (12, 192)
    assert rows(report)["fast"] == (12, 12)
    assert rows(report)["slow"] == rows(report)["momentum of slow"] == (3, 3)
    assert "as declared" in str(report)
    report.raise_for_problems()


@pytest.mark.parametrize("start", [0, 3])
def test_a_trace_may_begin_anywhere(start):
    model = Model()
    optimizer = nested(model)
    for _ in range(start):
        loss_of(model).backward()
        optimizer.step()
    report = run(model, optimizer, nl.trace(model, optimizer), steps=6)
    assert report.problems == ()
    assert rows(report)["slow"] == ((start + 6) // 4 - start // 4,) * 2


def test_consolidation_counts_as_one_update():
    model = Model()
    optimizer = nested(model, consolidate=True)
    with nl.trace(model, optimizer) as watched:
        for step in range(16):
            if step == 8:
                optimizer.commit()
            loss = loss_of(model)
            loss.backward()
            optimizer.step(surprise=loss)
    report = watched.report()
    assert report.problems == ()
    assert rows(report)["slow"] == (4, 4)
    assert rows(report)["key memories of slow"][1] >= 4


def test_a_wrong_period_is_caught():
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    report = run(model, optimizer, nl.trace(model, optimizer, schedule={"two": 64, "": 16}))
    assert len([p for p in report.problems if p.startswith("'two'")]) == 1
    problem = next(p for p in report.problems if p.startswith("'two'"))
    assert "declared every 64 tokens, and was updated 12 times instead of 3: every step" in problem
    assert not any("the rest" in p for p in report.problems)
    with pytest.raises(TraceError, match="every 64 tokens"):
        report.raise_for_problems()


def test_an_update_that_comes_too_rarely_is_caught():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = nl.trace(model, optimizer)
    with watched:
        for step in range(12):
            loss_of(model).backward()
            if step % 3:
                model.one.weight.grad = model.one.bias.grad = None
                for p in [*model.embedding.parameters(), *model.two.parameters()]:
                    p.grad = None
            optimizer.step()
            optimizer.zero_grad()
    assert any("only 4 times instead of 12" in p for p in watched.report().problems)


def test_a_frozen_level_is_caught():
    model = Model()
    optimizer = nested(model)
    with nl.trace(model, optimizer) as watched:
        for _ in range(12):
            loss_of(model).backward()
            for parameter in model.two.parameters():
                parameter.grad = None
            optimizer.step()
    problems = watched.report().problems
    assert any(
        p == "'slow' is frozen: declared every 64 tokens, due 3 times, never updated" for p in problems
    )


def test_a_level_whose_values_stay_is_caught():
    model = Model()
    optimizer = nested(model, lr=0.0)
    problems = run(model, optimizer, nl.trace(model, optimizer)).problems
    assert "'slow' is frozen: it was updated 3 times, and its values are as before" in problems


def test_a_parameter_updated_twice_per_step_is_caught():
    model = Model()
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    second = torch.optim.SGD(model.two.parameters(), lr=0.1)
    with nl.trace(model, first) as watched:
        for _ in range(5):
            loss_of(model).backward()
            first.step()
            second.step()  # a second optimizer has the same parameters, and nobody told the trace
    assert watched.report().problems == ("'weights' is updated twice per step, in 5 of 5 steps",)


def test_accumulated_passes_are_one_step():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.trace(model, optimizer) as watched:
        for _ in range(4):
            for _ in range(3):
                loss_of(model).backward()
            optimizer.step()
    report = watched.report()
    assert report.problems == ()
    assert (report.steps, report.tokens) == (4, 4 * 3 * 16)


def test_changes_by_hand_are_noted():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.trace(model, optimizer) as watched:
        for _ in range(3):
            loss_of(model).backward()
            optimizer.step()
            with torch.no_grad():
                model.one.bias.zero_()
    assert watched.report().problems == ()
    assert watched.report().notes == ("'weights' was changed 3 times by no optimizer",)


def test_what_should_not_change_and_does_is_caught():
    model = Model()
    model.two.requires_grad_(False)
    optimizer = torch.optim.SGD([model.one.weight], lr=0.1)
    with nl.trace(model, optimizer) as watched:
        loss_of(model).backward()
        torch.optim.SGD([model.one.weight], lr=0.1).step()
        stray = torch.optim.SGD([model.two.weight], lr=0.1)
        model.two.weight.grad = torch.ones_like(model.two.weight)
        stray.step()
    assert "'frozen' is not to be updated, and was once" in watched.report().problems


def test_buffers_taken_for_constants_are_held_to_it():
    class Counts(Model):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, ids: Tensor) -> Tensor:
            self.seen += 1
            return super().forward(ids)

    model = Counts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problems = run(model, optimizer, nl.trace(model, optimizer)).problems
    assert [p for p in problems if "'seen'" in p and "not known" in p] == list(problems)


def test_m3_reads_its_slow_memory_once_per_period():
    model = Model()
    optimizer = nl.optim.M3(model.named_parameters(), lr=1e-3, periods=(4,))
    report = run(model, optimizer, nl.trace(model, optimizer))
    assert report.problems == ()
    assert abs(rows(report)["slow momentum of weights"][1] - 3) <= 1


def test_periods_in_tokens_need_tokens():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def steps(**arguments):
        with nl.trace(model, optimizer, schedule={"": 64}, **arguments) as watched:
            for _ in range(8):
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
        return watched.report().problems

    assert "periods are declared in tokens, and nothing tells them: give trace(tokens=...)" in steps()
    assert steps(tokens=64) == ()
    assert any("8 times instead of 2" in p for p in steps(tokens=16))
    position = iter(range(64, 10_000, 64))
    assert steps(tokens=lambda: next(position)) == ()


def test_retrofitted_parts_are_seen():
    from tests.retrofitting.small import pretrained

    model = pretrained("llama")
    twin = nl.retrofit(model, [nl.Level("fast", 16), nl.Level("slow", 64)])
    optimizer = nl.NestedUnits(twin, tokens_per_step=16)
    ids = torch.arange(16).reshape(2, 8)
    with nl.trace(twin, optimizer) as watched:
        for _ in range(8):
            twin(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    report = watched.report()
    assert report.problems == ()
    assert rows(report)["slow"] == (2, 2)


def test_hooks_are_gone_afterwards_and_training_is_the_same_to_the_bit():
    def trained(traced: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Model()
        optimizer = nested(model)
        if traced:
            run(model, optimizer, nl.trace(model, optimizer))
            assert not model._forward_pre_hooks
        else:
            for _ in range(12):
                loss_of(model).backward()
                optimizer.step()
        return [p.detach() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(True), trained(False), strict=True))


def test_a_report_is_json():
    import json

    model = Model()
    optimizer = nested(model)
    report = run(model, optimizer, nl.trace(model, optimizer), steps=2)
    assert json.loads(json.dumps(report.to_json()))["steps"] == 2
