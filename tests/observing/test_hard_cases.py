"""Programs that a watcher easily misreads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nestlearn as nl
from nestlearn.observing import Diagnostics, read_run
from nestlearn.observing.diary import SAMPLES, sketch
from nestlearn.reporting.status import status


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor | None = None) -> float:
    loss = model(torch.randn(8, 4) if x is None else x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_fused_optimizers_write_without_a_new_version(kind):
    model = nn.Linear(4, 4)
    optimizer = kind(model.parameters(), lr=1e-2, fused=True)
    with nl.trace(model, optimizer) as watched:
        for _ in range(4):
            step(model, optimizer)
    assert watched.report().problems == ()
    with Diagnostics(model, optimizer, schedule=1) as diagnostics:
        loss = step(model, optimizer)
        assert "update_ratio" in diagnostics.record(1, loss)[0]["weights"]


class ByData(torch.optim.Optimizer):
    """Writes into ``.data``, as much code does."""

    def __init__(self, params) -> None:
        super().__init__(params, {})

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=-0.1)


def test_optimizers_that_write_into_data():
    model = nn.Linear(4, 4)
    optimizer = ByData(model.parameters())
    with nl.trace(model, optimizer) as watched:
        for _ in range(4):
            step(model, optimizer)
    assert watched.report().problems == ()


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train(training)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.trace(model, optimizer) as watched:
        for _ in range(4):
            step(model, optimizer)
    assert watched.report().problems == ()


def test_a_sketch_sees_all_columns():
    weights = torch.zeros(2048, 2048)
    assert float(sketch([weights]).norm()) == 0
    weights[:, 1:] = 1.0
    assert float(sketch([weights]).norm()) == pytest.approx(float(weights.norm()), rel=0.05)
    weights = torch.zeros(SAMPLES, 4)
    for column in range(4):
        weights.zero_()
        weights[:, column] = 1.0
        assert float(sketch([weights]).norm()) == pytest.approx(SAMPLES**0.5, rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_a_large_embedding_that_learns_a_few_rows_is_not_frozen(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(20_000, 8), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.trace(model, optimizer, schedule={"0": 16, "": 16}) as watched:
        for _ in range(3):
            step(model, optimizer, torch.randint(20_000, (16,)))
    assert watched.report().problems == ()


def test_two_optimizers_that_take_turns():
    maker, judge = nn.Linear(4, 4), nn.Linear(4, 1)
    model = nn.ModuleDict({"maker": maker, "judge": judge})
    one, two = torch.optim.Adam(maker.parameters()), torch.optim.Adam(judge.parameters())
    with nl.trace(model, {"maker": one, "judge": two}) as watched:
        for _ in range(6):
            judge(maker(torch.randn(8, 4)).detach()).mean().backward()
            two.step()
            two.zero_grad()
            (-judge(maker(torch.randn(8, 4)))).mean().backward()
            one.step()
            one.zero_grad()
    report = watched.report()
    assert report.problems == ()
    assert report.steps == 6


def test_closures_that_run_the_model_inside_a_step():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).square().mean() + model.weight.square().sum()
        loss.backward()
        return loss

    with nl.trace(model, optimizer) as watched:
        for _ in range(3):
            optimizer.step(closure)
    report = watched.report()
    assert report.problems == ()
    assert report.notes == ()
    assert {row.name: row.updates for row in report.rows}["weights"] == 3


def test_parts_of_a_model_that_are_called_by_themselves():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.trace(model, optimizer) as watched:
        model(torch.randn(2, 4))
        for _ in range(5):
            model[1](model[0](torch.randn(8, 4))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert watched.report().problems == ()
    assert watched.report().steps == 5


def test_an_accelerated_loop(tmp_path):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    bare = nn.Linear(4, 4)
    model, optimizer = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=0.1))
    with nl.observe(model, optimizer, tmp_path) as run, nl.trace(model, optimizer) as watched:
        for _ in range(3):
            loss = model(torch.randn(8, 4)).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            run.step(loss)
    assert watched.report().problems == ()
    assert len(read_run(tmp_path)["diagnostics"]["weights"]["drift"]) == 3


def test_gradients_of_two_optimizers_are_taken_in_once():
    parts = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
    optimizers = {str(i): torch.optim.SGD(part.parameters(), lr=0.0) for i, part in enumerate(parts)}
    with Diagnostics(parts, optimizers, schedule=1) as diagnostics:
        for value in (1.0, 3.0):
            for part, optimizer in zip(parts, optimizers.values(), strict=True):
                part.weight.grad = torch.full((1, 1), value)
                optimizer.step()
            diagnostics.record(1, 1.0)
    means = [diary.state_dict()["gradient"].item() for diary in diagnostics._diaries.values()]
    assert means == pytest.approx([0.9 * 1.0 + 0.1 * 3.0] * 2)


def test_a_run_that_diverges_can_be_read(tmp_path):
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with nl.observe(model, optimizer, tmp_path) as run:
        for _ in range(4):
            run.step(step(model, optimizer))
        run.evaluate({"x": float("inf"), "y": 1.0})
        run.evaluate({"x": 1.0})
    document = read_run(tmp_path)
    assert [alarm["kind"] for alarm in document["alarms"]].count("diverged") == 1
    assert document["tasks"][0]["name"] == "y"
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    broken = {"name": "z", "measure": "", "lower_is_better": True, "points": [[0, float("nan")], [1, 2.0]]}
    assert status({**document, "tasks": [broken]}) is not None


def test_contexts_by_name_where_no_key_memory_tells_them(tmp_path):
    model = nn.Linear(4, 4)
    optimizer = nl.optim.Nested([nl.Level("all", 8)], model, tokens_per_step=8)
    with nl.observe(model, optimizer, tmp_path) as run:
        for stage in ("one", "two"):
            run.stage(stage)
            for _ in range(3):
                run.step(step(model, optimizer))
    assert len(read_run(tmp_path)["diagnostics"]["all"]["agreement"]) == 3


def test_sparse_gradients_that_come_and_go():
    model = nn.ModuleDict({name: nn.Embedding(8, 4, sparse=True) for name in "ab"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Diagnostics(model, optimizer, schedule=1) as diagnostics:
        for count in range(1, 5):
            used = "ab" if count % 2 else "a"
            sum(model[name](torch.tensor([1, 2])).sum() for name in used).backward()
            optimizer.step()
            optimizer.zero_grad()
            assert "update_ratio" in diagnostics.record(count, 1.0)[0]["weights"]


def test_an_optimizer_that_has_run_before_has_not_slept(tmp_path):
    model = nn.Linear(4, 4)
    optimizer = nl.optim.Nested([nl.Level("all", 8)], model, tokens_per_step=8)
    for _ in range(10):
        step(model, optimizer)
    with nl.observe(model, optimizer, tmp_path) as run:
        assert run.step(step(model, optimizer)) == []


def test_sleep_is_told_in_steps_where_nothing_tells_tokens(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    groups = [{"params": model[name].parameters(), "name": name} for name in "ab"]
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    alarms = []
    with nl.observe(model, optimizer, tmp_path) as run:
        for _ in range(8):
            model["a"](torch.randn(2, 4)).sum().backward()
            optimizer.step()
            alarms += run.step(1.0)
    assert [(a.level, a.kind) for a in alarms] == [("b", "idle")]


def test_weights_that_start_at_zero_or_are_set_by_hand():
    model = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with Diagnostics(model, optimizer, schedule=1) as diagnostics:
        model.weight.grad = torch.ones(4, 4)
        optimizer.step()
        assert "drift" not in diagnostics.record(1, 1.0)[0]["weights"]
        model.load_state_dict({"weight": torch.ones(4, 4)})
        optimizer.step()
        values, alarms = diagnostics.record(2, 1.0)
    assert values["weights"]["update_ratio"] == pytest.approx(1e-4, rel=1e-3)
    assert [alarm for alarm in alarms if alarm.kind == "rewrites"] == []


def test_a_resumed_run_has_every_evaluation_once(tmp_path):
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nl.observe(model, optimizer, tmp_path) as run:
        run.step(step(model, optimizer))
        state = run.state_dict()
        run.evaluate({"x": 1.0})
    with nl.observe(model, optimizer, tmp_path, state=state) as run:
        run.evaluate({"x": 1.0})
    assert read_run(tmp_path)["tasks"][0]["points"] == [[1, 1.0]]


def test_a_foreign_state_leaves_the_folder_as_it_was(tmp_path):
    model, other = nn.Linear(4, 4), nn.Linear(2, 2)
    with nl.observe(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path, title="mine") as run:
        state = run.state_dict()
    before = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="another model"):
        nl.observe(other, torch.optim.SGD(other.parameters(), lr=0.1), tmp_path, state=state)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == before
