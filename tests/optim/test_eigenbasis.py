"""An optimizer in the eigenbasis of the key memories: what it computes, and what stays as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestlearn.levels import Level
from nestlearn.optim import Consolidated, DeltaGradientDescent, KeyRecorder, Nested
from nestlearn.optim.spectra import eigen, inverse, turn

WIDE, NARROW, ROWS = 8, 3, 32


def moment(size: int, seed: int = 0) -> Tensor:
    x = torch.randn(4 * size, size, generator=torch.Generator().manual_seed(seed)).double()
    x *= torch.logspace(0, -2, size)
    return x.mT @ x / len(x)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(ROWS, WIDE, generator=generator).double() * torch.logspace(0, -1, WIDE),
        torch.randn(ROWS, NARROW, generator=generator).double(),
    )


def backward(model: nn.Module, seed: int) -> Tensor:
    x, y = batch(seed)
    loss: Tensor = (model(x) - y).square().mean()
    loss.backward()
    return loss.detach()


def nested(model: nn.Module, **settings: Any) -> Nested:
    given: dict[str, Any] = {"lr": 0.01, "consolidate": True, "max_grad_norm": None, "strength": 0.1}
    return Nested([Level("all", ROWS, **{**given, **settings})], model)


def learn(model: nn.Module, optimizer: Nested, seeds: range) -> None:
    for seed in seeds:
        loss = backward(model, seed)
        optimizer.step(tokens=ROWS, surprise=1.0 + 0.0 * loss)  # only commit() ends a context


def linear(seed: int = 0, bias: bool = True) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(WIDE, NARROW, bias=bias).double()


# The algebra ------------------------------------------------------------------------------------------------


def test_the_basis_gives_the_moment_and_its_inverse() -> None:
    own = moment(WIDE)
    values, vectors = eigen(own)
    torch.testing.assert_close(vectors @ (values[:, None] * vectors.mT), own)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(WIDE).double())
    filtered = vectors @ ((1.0 / (1.0 + values / 0.3))[:, None] * vectors.mT)
    torch.testing.assert_close(filtered, inverse(own, 0.3))


def test_the_sign_of_an_eigenvector_is_not_up_to_the_machine() -> None:
    _, vectors = eigen(moment(WIDE))
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


def test_a_moment_without_rank_has_a_basis() -> None:
    values, vectors = eigen(torch.zeros(4, 4))
    assert values.tolist() == [0.0] * 4
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(4))


def test_turning_there_and_back_is_nothing() -> None:
    bases = {"input": eigen(moment(WIDE))[1], "output": eigen(moment(NARROW, 1))[1]}
    own = torch.randn(NARROW, WIDE).double()
    turned = turn(own, bases)
    assert not torch.allclose(turned, own)
    torch.testing.assert_close(turned.norm(), own.norm())
    torch.testing.assert_close(turn(turned, bases, back=True), own)


# The update -------------------------------------------------------------------------------------------------


def test_the_update_is_adam_in_the_basis_times_the_filter() -> None:
    model = linear(bias=False)
    optimizer = nested(model, eigenbasis=True, output_strength=0.2, betas=(0.9, 0.95))
    learn(model, optimizer, range(3))
    optimizer.commit()
    (site,) = optimizer.memories["all"].sites
    (c, into), (d, out) = eigen(site.kept["input"]), eigen(site.kept["output"])
    m = v = torch.zeros(NARROW, WIDE).double()
    for count, seed in enumerate(range(10, 14), start=1):
        before = model.weight.detach().clone()
        loss = backward(model, seed)
        assert model.weight.grad is not None
        turned = out.mT @ model.weight.grad @ into
        m, v = 0.9 * m + 0.1 * turned, 0.95 * v + 0.05 * turned.square()
        step = (m / (1 - 0.9**count)) / ((v / (1 - 0.95**count)).sqrt() + 1e-8)
        damped = step / (1 + d / 0.2)[:, None] / (1 + c / 0.1)
        optimizer.step(tokens=ROWS, surprise=1.0 + 0.0 * loss)
        torch.testing.assert_close(model.weight.detach(), before - 0.01 * out @ damped @ into.mT)


def test_gradient_descent_is_the_same_with_and_without() -> None:
    results = []
    for eigenbasis in (False, True):
        model = linear()
        optimizer = nested(model, eigenbasis=eigenbasis, optimizer="sgd", lr=0.1)
        learn(model, optimizer, range(3))
        optimizer.commit()
        # Momentum starts anew with a context there, so it does here.
        optimizer._inner["all"].state.clear()
        learn(model, optimizer, range(10, 16))
        results.append(model)
    for one, other in zip(*(model.parameters() for model in results), strict=True):
        torch.testing.assert_close(one, other)


def test_adam_is_another_one_with_it() -> None:
    results = []
    for eigenbasis in (False, True):
        model = linear()
        optimizer = nested(model, eigenbasis=eigenbasis)
        learn(model, optimizer, range(3))
        optimizer.commit()
        learn(model, optimizer, range(10, 12))
        results.append(model.weight.detach())
    assert not torch.allclose(*results, rtol=1e-3)


def test_before_anything_is_kept_it_is_the_ordinary_optimizer() -> None:
    results = []
    for eigenbasis in (False, True):
        model = linear()
        learn(model, nested(model, eigenbasis=eigenbasis), range(4))
        results.append(model.weight.detach())
    assert torch.equal(*results)


def test_what_the_past_used_does_not_drown_what_it_did_not() -> None:
    """Adam scales by the larger part of a gradient, which is filtered away; in the basis both are scaled."""
    old = torch.ones(WIDE).double() / WIDE**0.5
    new = torch.tensor([1.0, -1.0] * (WIDE // 2)).double() / WIDE**0.5
    learned = {}
    for eigenbasis in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(WIDE, 1, bias=False).double()
        optimizer = nested(model, eigenbasis=eigenbasis, strength=1e-3, output_strength=1e9)
        for x in (old, 100.0 * old + new):
            before = new @ model.weight[0].detach()
            loss = model(x.expand(ROWS, WIDE)).square().mean()
            loss.backward()
            optimizer.step(tokens=ROWS, surprise=1.0 + 0.0 * loss.detach())
            optimizer.commit()
        learned[eigenbasis] = float((new @ model.weight[0].detach() - before).abs())
    assert learned[True] > 10.0 * learned[False]


# State ------------------------------------------------------------------------------------------------------


def test_going_on_from_a_saved_state_is_exact() -> None:
    model = linear()
    optimizer = nested(model, eigenbasis=True)
    learn(model, optimizer, range(3))
    optimizer.commit()
    learn(model, optimizer, range(3, 6))
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    learn(model, optimizer, range(6, 9))
    other = linear(seed=1)
    other.load_state_dict(weights)
    resumed = nested(other, eigenbasis=True)
    resumed.load_state_dict(state)
    learn(other, resumed, range(6, 9))
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_new_context_starts_the_optimizer_anew() -> None:
    model = linear()
    optimizer = nested(model, eigenbasis=True)
    learn(model, optimizer, range(3))
    assert optimizer._inner["all"].state
    optimizer.commit()
    assert not optimizer._inner["all"].state


def test_consolidated_gives_the_gradients_back() -> None:
    model = linear()
    optimizer = Consolidated(model.named_parameters(), model=model, eigenbasis=True)
    for seed in range(2):
        backward(model, seed)
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.commit()
    assert not optimizer.inner.state
    backward(model, 5)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    optimizer.step()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


def test_weights_of_sixteen_bits_are_updated() -> None:
    model = linear().bfloat16()
    optimizer = nested(model, eigenbasis=True)
    for seed in range(4):
        x, y = (value.bfloat16() for value in batch(seed))
        loss = (model(x) - y).square().mean()
        loss.backward()
        before = model.weight.detach().clone()
        optimizer.step(tokens=ROWS, surprise=1.0 + 0.0 * loss.detach())
        if seed == 1:
            optimizer.commit()
        assert not torch.equal(model.weight, before)


def two() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}).double()


def use(model: nn.ModuleDict, optimizer: Nested, *names: str) -> None:
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)).double()
    loss = sum((model[name](x).square().mean() for name in names), torch.zeros(()))
    loss.backward()
    optimizer.step(tokens=ROWS, surprise=1.0 + 0.0 * loss.detach())


def test_a_layer_that_the_saved_state_does_not_know_learns_freely() -> None:
    model = two()
    optimizer = nested(model, eigenbasis=True)
    use(model, optimizer, "a")
    optimizer.commit()
    early = copy.deepcopy(optimizer.state_dict())
    use(model, optimizer, "a", "b")
    optimizer.commit()
    optimizer.load_state_dict(early)
    before = model["b"].weight.detach().clone()
    use(model, optimizer, "b")
    assert 0.0 < float((model["b"].weight.detach() - before).abs().max()) < 0.02


def test_a_basis_is_saved_and_not_found_anew() -> None:
    """Of nearly equal eigenvalues another machine has other vectors; here they are turned by hand."""
    model = linear()
    optimizer = nested(model, eigenbasis=True)
    learn(model, optimizer, range(3))
    optimizer.commit()
    state = copy.deepcopy(optimizer.state_dict())
    (saved,) = state["memories"]["all"]["sites"]
    saved["bases"]["input"] *= -1.0
    optimizer.load_state_dict(state)
    (site,) = optimizer.memories["all"].sites
    assert torch.equal(site.bases["input"], saved["bases"]["input"])
    torch.testing.assert_close(site.factors["input"], 1.0 / (1.0 + saved["spectra"]["input"] / 0.1))


def test_an_error_in_a_step_changes_neither_weights_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("rotate", "filter"):
        model = two()
        optimizer = Consolidated(model.named_parameters(), model=model, eigenbasis=True)
        for _ in range(2):
            optimizer.zero_grad()
            sum(model[name](torch.ones(2, 4).double()).square().mean() for name in model).backward()
            if not optimizer.memories.committed:
                optimizer.step()
                optimizer.commit()
        last = optimizer.memories.sites[-1]

        def fail(_: list[Tensor]) -> list[Tensor]:
            raise MemoryError

        monkeypatch.setattr(last, broken, fail)
        weights = copy.deepcopy(model.state_dict())
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        with pytest.raises(MemoryError):
            optimizer.step()
        assert all(torch.equal(weights[name], p) for name, p in model.state_dict().items())
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            assert torch.equal(p.grad, gradient)


def test_the_basis_of_every_kind_of_site() -> None:
    """Rotated, filtered and rotated back is the filter of the weights' own basis."""
    torch.manual_seed(0)
    embedding, head = nn.Embedding(20, 4), nn.Linear(4, 20, bias=False)
    head.weight = embedding.weight
    tied = nn.Sequential(embedding, nn.Linear(4, 4), head)
    tokens = torch.randint(20, (5, 7))
    found: dict[bool, Any] = {}
    for eigenbasis in (False, True):
        optimizer = nested(tied, eigenbasis=eigenbasis, lr=0.0)
        for _ in range(2):
            loss = tied(tokens).square().mean()
            loss.backward()
            optimizer.step(tokens=ROWS, surprise=1.0 + 0.0 * loss.detach())
        optimizer.commit()
        found[eigenbasis] = optimizer.memories["all"].sites
        optimizer.close()
    assert {type(site).__name__ for site in found[True]} == {"EmbeddingSite", "LinearSite"}
    for dense, rotated in zip(found[False], found[True], strict=True):
        updates = [torch.randn_like(p) for p in dense.parameters]
        expected = dense.filter(updates)
        for got, wanted, own in zip(rotated.filter(rotated.rotate(updates)), expected, updates, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(wanted, own, rtol=1e-2)


# Edges -----------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    with pytest.raises(ValueError, match="set consolidate=True"):
        Level("all", 1, eigenbasis=True)
    with pytest.raises(ValueError, match=r"weight_decay must be 0, got 0\.1"):
        Level("all", 1, consolidate=True, eigenbasis=True, weight_decay=0.1)
    model = linear()
    with pytest.raises(ValueError, match="weight_decay must be 0"):
        Consolidated(model.parameters(), model=model, inner=torch.optim.AdamW, eigenbasis=True)


@pytest.mark.parametrize("eigenbasis", [False, True])
def test_a_bias_behind_many_outputs_and_an_input_without_a_batch(eigenbasis: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1025)  # more outputs than have a whole matrix
    optimizer = nested(model, eigenbasis=eigenbasis, strength=1e-3, output_strength=1e-3)
    moved = []
    for _ in range(2):
        loss = model(torch.ones(4)).square().mean()
        loss.backward()
        before = model.bias.detach().clone()
        optimizer.step(tokens=ROWS, surprise=1.0 + 0.0 * loss.detach())
        optimizer.commit()
        moved.append(float((model.bias.detach() - before).norm()))
    assert 0.0 < moved[1] < 0.5 * moved[0]


def test_what_reads_more_than_gradients_is_refused() -> None:
    model = linear()
    decaying = {"all": lambda named, level: torch.optim.AdamW(named, lr=level.lr)}  # decays by 0.01
    with pytest.raises(ValueError, match="weight_decay must be 0"):
        Nested([Level("all", 1, consolidate=True, eigenbasis=True)], model, optimizers=decaying)
    optimizer = Consolidated(model.parameters(), model=model, eigenbasis=True)
    with pytest.raises(ValueError, match="weight_decay must be 0"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "weight_decay": 0.1})
    decayed = copy.deepcopy(optimizer.state_dict())
    decayed["param_groups"][0]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match="weight_decay must be 0"):
        optimizer.load_state_dict(decayed)
    keys = KeyRecorder(model)
    with pytest.raises(ValueError, match="DeltaGradientDescent reads the keys"):
        Consolidated(model.parameters(), model=model, inner=DeltaGradientDescent, keys=keys, eigenbasis=True)


def test_a_state_in_another_basis_is_refused() -> None:
    model = linear()
    plain = nested(model)
    learn(model, plain, range(2))
    with pytest.raises(ValueError, match=r"made with eigenbasis=False, level 'all' has True"):
        nested(model, eigenbasis=True).load_state_dict(plain.state_dict())
