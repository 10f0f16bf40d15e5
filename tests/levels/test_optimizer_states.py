"""What is said of optimizers' memories, held against what they keep."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nestlearn as nl
from nestlearn.levels.gradients import TORCH, describe
from nestlearn.levels.inspection import look

TORCH_CASES = [
    ("Adadelta", {}),
    ("Adafactor", {}),
    ("Adagrad", {}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "foreach": False}),
    ("Adamax", {}),
    ("ASGD", {}),
    ("Muon", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Rprop", {}),
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
]
OURS = [
    ("Momentum", {}),
    ("Muon", {}),
    ("DeltaMomentum", {}),
    ("FeatureMomentum", {}),
    ("PreconditionedMomentum", {}),
    ("PreconditionedMomentum", {"preconditioner": "kronecker"}),
    ("M3", {}),
    ("M3", {"mode": "paper", "periods": (4, 16), "slow_betas": (0.5, 0.5), "weights": (0.1, 0.1)}),
    ("DeepMomentum", {}),
    ("DeltaGradientDescent", {}),
]


def small(*, matrices: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=not matrices)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 6)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(("room", "name", "settings"), [
    *((torch.optim, name, settings) for name, settings in TORCH_CASES),
    *((nl.optim, name, settings) for name, settings in OURS),
])  # fmt: skip
def test_the_table_names_every_state_and_its_size(room, name, settings):
    model = small(matrices=name == "Muon" and room is torch.optim)
    optimizer = getattr(room, name)(list(model.named_parameters()), lr=1e-3, **settings)
    before = nl.inspect(model, optimizer)
    step(model, optimizer)
    after, found = look(model, optimizer)
    assert after.unplaced == before.unplaced == ()
    assert {c.name: c.bytes for c in before.components} == {c.name: c.bytes for c in after.components}
    kept = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    clocks = {0} if name != "DeepMomentum" else set()
    shown = [t for c in after.components if c.kind != "parameters" for _, t in found.live(c.name)]
    assert {id(t) for t in shown} >= {id(t) for t in kept if t.dim() not in clocks}
    assert len({id(t) for t in shown}) == len(shown), "a tensor belongs to one memory"


def test_every_optimizer_of_torch_is_in_the_table():
    there = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and kind is not torch.optim.Optimizer
    }
    assert there == set(TORCH)
    tested = {name for name, _ in TORCH_CASES}
    assert there - tested == {"LBFGS", "SparseAdam"}, "both below"


def test_lbfgs_and_sparse_adam():
    model = small()
    history = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> torch.Tensor:
        history.zero_grad()
        loss = model(torch.ones(5, 6)).square().mean()
        loss.backward()
        return loss

    history.step(closure)
    system = nl.inspect(model, history)
    assert system.unplaced == ()
    assert system["history of weights"].bytes > 0
    table = nn.Embedding(5, 3, sparse=True)
    sparse = torch.optim.SparseAdam(table.parameters())
    table(torch.tensor([1])).sum().backward()
    sparse.step()
    assert nl.inspect(table, sparse).unplaced == ()


def test_states_come_after_what_they_need():
    model = small()
    average = nl.inspect(model, torch.optim.ASGD(model.parameters()))
    assert average.level_of("weights").index < average.level_of("average of weights").index
    changes = nl.inspect(model, torch.optim.Adadelta(model.parameters()))
    assert [set(level.names) for level in changes.levels] == [
        {"squares of weights"},
        {"changes of weights", "weights"},  # the step reads the old changes, and writes the new ones after it
    ]
    kinds = {t.kind for t in changes.transfers if t.source == "changes of weights"}
    assert kinds == {"parametric"}


class Foreign(torch.optim.Optimizer):
    """An optimizer that nobody knows."""

    def __init__(self, params) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("trace", torch.zeros_like(parameter)).add_(parameter.grad)
                parameter.sub_(state["trace"], alpha=0.1)


def test_an_unknown_optimizer_is_listed_and_not_guessed_at():
    model = small()
    optimizer = Foreign(model.parameters())
    before = nl.inspect(model, optimizer)
    assert [name for name, _ in before.unplaced] == ["Foreign"]
    assert "take a step" in before.unplaced[0][1]
    step(model, optimizer)
    after = nl.inspect(model, optimizer)
    assert [name for name, _ in after.unplaced] == ["Foreign.trace"]
    assert after["trace of weights"].objective == "not known"
    assert after["trace of weights"].bytes == 4 * 28


def test_nested_levels_keep_their_optimizers_pace():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    levels = [nl.Level("fast", 8, consolidate=True), nl.Level("slow", 32)]
    optimizer = nl.optim.Nested(
        levels,
        model,
        assign=lambda name, _: "fast" if name.startswith("0") else "slow",
        tokens_per_step=8,
        optimizers={"slow": lambda named, level: nl.optim.M3(named, lr=level.lr, periods=(5,))},
    )
    system = nl.inspect(model, optimizer)
    assert system["slow momentum of slow"].period == 5 * 32
    assert system["slow momentum of slow"].unit == "token"
    assert system["key memories of fast"].bytes == 0
    for _ in range(3):
        loss = model(torch.randn(8, 6)).square().mean()
        loss.backward()
        optimizer.step(surprise=loss)
    found = look(model, optimizer)[1]
    assert found.components["key memories of fast"].bytes == optimizer.memories["fast"].stored_bytes() > 0
    assert len(found.live("running sum of slow")) == 2
    assert system.tokens_per_step == 8


def test_consolidated_has_key_memories():
    model = small()
    optimizer = nl.optim.Consolidated(model.named_parameters(), lr=1e-3, model=model)
    step(model, optimizer)
    system = nl.inspect(model, optimizer)
    assert system["key memories of weights"].bytes == optimizer.memories.stored_bytes() > 0
    assert [set(level.names) for level in system.levels] == [
        {"squares of weights"},
        {"momentum of weights", "key memories of weights"},
        {"weights"},
    ]


def test_a_wrapped_optimizer_is_looked_into():
    from accelerate import Accelerator

    model = small()
    optimizer = Accelerator(cpu=True).prepare_optimizer(torch.optim.AdamW(model.parameters()))
    assert type(optimizer).__name__ == "AcceleratedOptimizer"
    system = nl.inspect(model, optimizer)
    assert system.unplaced == ()
    assert system["weights"].objective == "the loss, by AdamW"


def test_only_optimizers_are_described():
    with pytest.raises(TypeError, match="Linear"):
        describe(small())  # type: ignore[arg-type]
