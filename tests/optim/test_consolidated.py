"""An optimizer that is kept out of earlier contexts."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestlearn import optim

INNER: dict[str, Any] = {
    "AdamW": torch.optim.AdamW,
    "M3": optim.M3,
    "Muon": optim.Muon,
    "DeltaMomentum": optim.DeltaMomentum,
    "default": None,
}


def made(model: nn.Module, inner: Any = None, **settings: Any) -> optim.Consolidated:
    """With the model's layers recorded."""
    chosen = {} if inner is None else {"inner": inner}
    return optim.Consolidated(model.parameters(), lr=0.01, model=model, **chosen, **settings)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> None:
    """Least squares."""
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def tasks() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two tasks over inputs in halves of the space that share one direction."""
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 64, 8, generator=g)
    first[:, 5:], second[:, :4] = 0.0, 0.0
    return first, torch.randn(64, 3, generator=g), second, torch.randn(64, 3, generator=g)


@pytest.mark.parametrize("name", INNER)
def test_nothing_changes_before_the_first_commit(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    other = copy.deepcopy(model)
    x, y, *_ = tasks()
    inner = INNER[name] or optim.PreconditionedMomentum
    learn(model, made(model, INNER[name]), x, y, 5)
    learn(other, inner(other.parameters(), lr=0.01), x, y, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", INNER)
def test_what_was_committed_is_kept_and_the_new_is_learned(name: str) -> None:
    losses = {}
    for commit in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(8, 3, bias=False)
        x1, y1, x2, y2 = tasks()
        optimizer = made(model, INNER[name], strength=1e-3, output_strength=1e3)
        learn(model, optimizer, x1, y1, 200)
        if commit:
            assert optimizer.commit()
        before = model(x1).detach()
        start = (model(x2) - y2).square().mean().item()
        learn(model, optimizer, x2, y2, 200)
        moved = (model(x1) - before).square().mean().item()
        losses[commit] = (moved, (model(x2) - y2).square().mean().item() / start)
    assert losses[True][0] < 0.1 * losses[False][0]
    assert losses[True][1] < 1.0


def test_the_update_is_the_closed_form() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 3, bias=False).double()
    x1, y1, x2, y2 = (value.double() for value in tasks())
    optimizer = made(model, torch.optim.SGD, strength=0.5, output_strength=0.25)
    learn(model, optimizer, x1, y1, 1)
    optimizer.commit()
    site = optimizer.memories.sites[0]
    optimizer.zero_grad()
    (model(x2) - y2).square().mean().backward()
    start, gradient = model.weight.detach().clone(), model.weight.grad
    assert gradient is not None
    c, d = site.kept["input"], site.kept["output"]
    optimizer.step()
    eye = torch.eye(8, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    left, right = torch.linalg.inv(eye[1] + d / 0.25), torch.linalg.inv(eye[0] + c / 0.5)
    torch.testing.assert_close(model.weight.detach(), start - 0.01 * left @ gradient @ right)


def test_a_copy_protects_and_records_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    x, y, *_ = tasks()
    optimizer = made(model)
    learn(model, optimizer, x, y, 3)
    optimizer.commit()
    twin = copy.deepcopy(optimizer)
    assert twin.memories.committed == 1
    assert not twin.memories.recording
    assert not twin.commit()


def test_closing_takes_the_hooks_off() -> None:
    model = nn.Linear(8, 3)
    optimizer = made(model)
    assert model._forward_hooks
    optimizer.close()
    assert not model._forward_hooks


@pytest.mark.parametrize("way", ["copied", "pickled"])
def test_a_model_with_key_memories_is_copied_and_pickled(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 3))
    optimizer = made(model)
    twin = copy.deepcopy(model) if way == "copied" else pickle.loads(pickle.dumps(model))
    twin(torch.arange(5)).sum().backward()
    assert not any(site.fresh for site in optimizer.memories.sites)
    model(torch.arange(5)).sum().backward()
    assert all(site.fresh for site in optimizer.memories.sites)


def test_hooks_on_the_state_are_called() -> None:
    model = nn.Linear(8, 3)
    optimizer, called = made(model), []
    optimizer.register_state_dict_pre_hook(called.append)
    optimizer.register_state_dict_post_hook(lambda own, state: {**state, "further": 1})
    assert {"consolidated", "further"} <= set(optimizer.state_dict())
    assert called == [optimizer]


def test_a_state_of_another_optimizer_is_refused() -> None:
    model = nn.Linear(8, 3)
    with pytest.raises(ValueError, match="consolidated"):
        made(model).load_state_dict(optim.M3(model.parameters()).state_dict())


def test_levels_take_any_optimizer() -> None:
    import nestlearn as nl

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    levels = [nl.Level("fast", 1, lr=0.01), nl.Level("slow", 4, lr=0.02)]
    nested = optim.Nested(
        levels,
        model,
        assign=lambda name, _: "slow" if name.startswith("0") else "fast",
        optimizers={"slow": lambda named, level: optim.M3(named, lr=level.lr)},
    )
    assert nested.param_groups[1]["periods"] == (10,)
    x, y, *_ = tasks()
    before = model[0].weight.detach().clone()
    for step in range(4):
        assert torch.equal(before, model[0].weight), step
        (model(x) - y).square().mean().backward()
        nested.step(tokens=1)
    assert not torch.equal(before, model[0].weight)
    with pytest.raises(ValueError, match="unknown levels"):
        optim.Nested(levels[:1], model, optimizers={"slow": lambda named, level: optim.M3(named)})
    with pytest.raises(ValueError, match="in one group"):
        optim.Nested(levels[:1], model, optimizers={"fast": lambda named, _: optim.M3(named[:1])})
