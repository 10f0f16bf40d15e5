"""Key memories: who has one, what the filtered update is, what it protects, when contexts are taken in."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nestlearn.levels import Level
from nestlearn.optim import KeyMemories, Nested
from nestlearn.optim.key_memories import find_sites
from tests.helpers import copy_tree, difference, random_tokens, relative_error, tiny_model
from tests.models.variants import CMS, FEW, Changes, over
from tests.optim.nets import TOKENS, batches, by_layer, loss_of, net, snapshot, train, two_levels, values

RATE = 0.1


def level(**changes: Any) -> Level:
    settings = {"name": "all", "period": TOKENS, "consolidate": True, "max_grad_norm": None, **changes}
    return Level(**settings)


# Who has one ------------------------------------------------------------------------------------------------


def check_sites(model: nn.Module, parameters: list[nn.Parameter]) -> None:
    found = [id(p) for site in find_sites(model, parameters) for p in site.parameters]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in parameters}


@over([*FEW, *CMS, {"tie_word_embeddings": False}])
def test_every_parameter_of_hope_has_exactly_one_site(changes: Changes) -> None:
    model = tiny_model(**changes)
    check_sites(model, list(model.parameters()))
    blocks = [p for name, p in model.named_parameters() if ".cms.blocks.0." in name]
    check_sites(model, blocks)


def test_odd_divisions_have_exactly_one_site() -> None:
    model = net()
    for keep in range(1, 2 ** len(list(model.parameters()))):
        check_sites(model, [p for i, p in enumerate(model.parameters()) if keep >> i & 1])
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Conv1d(4, 4, 1))
    shared[1].weight = shared[0].weight
    check_sites(shared, list(shared.parameters()))


def test_a_frozen_bias_is_left_out() -> None:
    model = net()
    model.first.bias.requires_grad_(False)
    check_sites(model, [p for p in model.parameters() if p.requires_grad])
    optimizer = Nested([level()], model)
    train(model, optimizer, batches(2))
    optimizer.commit()
    before = model.first.bias.clone()
    train(model, optimizer, batches(2))
    assert torch.equal(before, model.first.bias)


# What the update is -----------------------------------------------------------------------------------------


class Context:
    """Inputs of a linear layer and a loss that is linear in its outputs, so that gradients are known."""

    def __init__(
        self, seed: int, inputs: int, outputs: int, rank: int | None = None, count: int = 40
    ) -> None:
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, inputs, generator=g, dtype=torch.float64)
        if rank is not None:
            basis = torch.linalg.qr(torch.randn(inputs, rank, generator=g, dtype=torch.float64))[0]
            self.x = self.x @ basis @ basis.mT
        self.delta = torch.randn(count, outputs, generator=g, dtype=torch.float64) / count

    def step(self, model: nn.Module, optimizer: Nested, surprise: float = 1.0) -> None:
        (model(self.x) * self.delta).sum().backward()
        optimizer.step(tokens=TOKENS, surprise=surprise)


def normalised(vectors: Tensor) -> Tensor:
    """Second moment of the rows, in units of its mean diagonal."""
    moment = vectors.mT @ vectors
    return moment / moment.diagonal().mean()


def with_one(x: Tensor) -> Tensor:
    """The inputs with one more number, the one that a bias multiplies."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def change(model: nn.Module, optimizer: Nested, context: Context) -> dict[str, Tensor]:
    before = values(model)
    context.step(model, optimizer)
    return {name: value - before[name] for name, value in values(model).items()}


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).double()


@pytest.mark.parametrize(("strength", "output_strength"), [(0.1, 1.0), (0.01, 0.3), (3.0, 10.0)])
def test_the_linear_update_minimises_its_objective(strength: float, output_strength: float) -> None:
    """``argmin <U, G> + 1 / (2 eta) tr((I + D / mu) U (I + C / lambda) U^T)``, by a Kronecker product."""
    model = linear(6, 4)
    settings = {"optimizer": "sgd", "lr": RATE, "betas": (0.0, 0.9)}
    optimizer = Nested([level(strength=strength, output_strength=output_strength, **settings)], model)
    old, new = Context(1, 6, 4), Context(2, 6, 4)
    old.step(model, optimizer)
    optimizer.commit()
    got = change(model, optimizer, new)

    left = torch.eye(4).double() + normalised(old.delta) / output_strength
    right = torch.eye(7).double() + normalised(with_one(old.x)) / strength
    gradient = new.delta.mT @ with_one(new.x)
    expected = torch.linalg.solve(torch.kron(left, right), -RATE * gradient.flatten()).view(4, 7)
    found = torch.cat([got["weight"], got["bias"][:, None]], dim=1)
    assert relative_error(expected, found) < 1e-10

    def objective(update: Tensor) -> Tensor:
        return (update * gradient).sum() + (left @ update @ right * update).sum() / (2 * RATE)

    for seed in range(5):
        elsewhere = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert objective(found) < objective(found + 1e-3 * elsewhere)


@pytest.mark.parametrize("eigenbasis", [False, True])
def test_a_bias_is_a_column_whose_input_is_one(eigenbasis: bool) -> None:
    """The same layer without a bias, on inputs with one more number that is always one, learns the same."""
    settings: dict[str, Any] = {"optimizer": "sgd", "lr": RATE, "strength": 0.1, "eigenbasis": eigenbasis}
    biased, joined = linear(6, 4), nn.Linear(7, 4, bias=False).double()
    with torch.no_grad():
        joined.weight.copy_(torch.cat([biased.weight, biased.bias[:, None]], dim=1))
    optimizers = [Nested([level(**settings)], model) for model in (biased, joined)]
    for number in range(4):
        own = Context(number, 6, 4)
        for model, optimizer, x in zip((biased, joined), optimizers, (own.x, with_one(own.x)), strict=True):
            optimizer.zero_grad()
            (model(x) * own.delta).sum().backward()
            optimizer.step(tokens=TOKENS, surprise=1.0)
            if number == 1:
                optimizer.commit()
    torch.testing.assert_close(biased.weight, joined.weight[:, :-1])
    torch.testing.assert_close(biased.bias, joined.weight[:, -1])


def test_old_outputs_stay_where_only_the_bias_could_move_them() -> None:
    """Inputs of before and new ones have nothing in common but the constant."""
    model = linear(6, 4)
    settings = {"optimizer": "sgd", "lr": RATE, "strength": 1e-8, "output_strength": 1e9}
    optimizer = Nested([level(**settings)], model)
    old, new = Context(1, 6, 4), Context(2, 6, 4)
    old.x[:, 2:], new.x[:, :2] = 0.0, 0.0
    old.step(model, optimizer)
    optimizer.commit()
    before, untouched = model(old.x).detach(), model(new.x).detach()
    change(model, optimizer, new)
    assert relative_error(before, model(old.x).detach()) < 1e-5
    assert relative_error(untouched, model(new.x).detach()) > 1e-3


def test_moments_of_another_width_are_refused() -> None:
    states = []
    for inputs in (6, 9):
        model = linear(inputs, 4)
        optimizer = Nested([level()], model)
        Context(1, inputs, 4).step(model, optimizer)
        states.append((optimizer, optimizer.memories["all"].state_dict()))
    with pytest.raises(ValueError, match="moment of 10 inputs"):
        states[0][0].memories["all"].load_state_dict(states[1][1])


def test_a_gradient_that_is_missing_beside_another_is_zero() -> None:
    model = linear(6, 4)
    optimizer = Nested([level(optimizer="sgd", lr=RATE, eigenbasis=True)], model)
    Context(1, 6, 4).step(model, optimizer)
    optimizer.commit()
    (site,) = optimizer.memories["all"].sites
    gradient = torch.randn(4, 6).double()
    (weight, bias), (same, zero) = (site.rotate([gradient, own]) for own in (None, torch.zeros(4).double()))
    assert weight is not None and bias is not None and same is not None and zero is not None
    assert torch.equal(weight, same) and torch.equal(bias, zero)
    assert site.rotate([None, None]) == [None, None]


def test_very_large_strengths_protect_nothing() -> None:
    updates = []
    for consolidate in (True, False):
        model = linear(6, 4)
        strengths = {"strength": 1e9, "output_strength": 1e9}
        optimizer = Nested([level(optimizer="sgd", lr=RATE, consolidate=consolidate, **strengths)], model)
        Context(1, 6, 4).step(model, optimizer)
        if consolidate:
            optimizer.commit()
        updates.append(change(model, optimizer, Context(2, 6, 4))["weight"])
    assert relative_error(*updates) < 1e-6


def test_a_lone_parameter_moves_less_the_more_it_mattered() -> None:
    """The norm has a diagonal: no update grows or turns, and none but zero is stopped."""
    updates = {}
    for consolidate in (True, False):
        model = net()
        optimizer = Nested([level(optimizer="sgd", lr=RATE, consolidate=consolidate)], model)
        train(model, optimizer, batches(1))
        if consolidate:
            optimizer.commit()
        before = values(model)
        train(model, optimizer, batches(1, seed=3))
        updates[consolidate] = model.norm.weight.detach() - before["norm.weight"]
    ratio = updates[True] / updates[False]
    assert (ratio > 0).all()
    assert (ratio < 1).all()
    assert ratio.max() > 1.5 * ratio.min()


# What it protects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_outputs_on_the_old_inputs_hardly_move_and_new_directions_are_free(optimizer: str) -> None:
    old, new = Context(1, 16, 5, rank=4), Context(2, 16, 5)
    basis = torch.linalg.svd(old.x)[2][:4].mT  # what the old inputs span
    moved, free = {}, {}
    for consolidate in (True, False):
        model = linear(16, 5, bias=False)
        settings = {"optimizer": optimizer, "lr": RATE, "strength": 0.01, "output_strength": 1e9}
        nested = Nested([level(consolidate=consolidate, **settings)], model)
        old.step(model, nested)
        if consolidate:
            nested.commit()
        update = change(model, nested, new)["weight"]
        moved[consolidate] = (old.x @ update.mT).norm()
        free[consolidate] = update - update @ basis @ basis.mT
    assert moved[True] < 0.01 * moved[False]
    # AdamW's update is filtered as it is: in the free directions it is the plain one to the last digits.
    assert relative_error(free[False], free[True]) < 1e-6


def test_two_contexts_are_both_protected() -> None:
    old = [Context(seed, 16, 5, rank=4) for seed in (1, 2)]
    moved = {}
    for consolidate in (True, False):
        model = linear(16, 5, bias=False)
        settings = {"optimizer": "sgd", "lr": RATE, "strength": 0.01}
        nested = Nested([level(consolidate=consolidate, **settings)], model)
        for context in old:
            context.step(model, nested)
            if consolidate:
                nested.commit()
        update = change(model, nested, Context(3, 16, 5))["weight"]
        moved[consolidate] = [(context.x @ update.mT).norm() for context in old]
    for protected, plain in zip(moved[True], moved[False], strict=True):
        assert protected < 0.02 * plain


@pytest.mark.parametrize("eigenbasis", [False, True])
def test_with_the_mean_of_contexts_a_level_does_not_stiffen(eigenbasis: bool) -> None:
    """The same context again and again: the sum protects more each time, the mean as the first time."""
    found: dict[str, list[Tensor]] = {}
    for contexts in ("sum", "mean"):
        model = net()
        own = level(contexts=contexts, eigenbasis=eigenbasis, optimizer="sgd", lr=0.0)
        optimizer = Nested([own], model)
        for _ in range(3):
            train(model, optimizer, batches(2))
            optimizer.commit()
            (site,) = [s for s in optimizer.memories["all"].sites if model.first.weight in set(s.parameters)]
            found.setdefault(contexts, []).append(site.factors["input"].clone())
    torch.testing.assert_close(found["sum"][0], found["mean"][0])
    for factor in found["mean"][1:]:
        torch.testing.assert_close(factor, found["mean"][0], rtol=1e-3, atol=1e-4)

    def free(factor: Tensor) -> float:
        return float(factor.trace() if factor.dim() == 2 else factor.sum())

    assert free(found["sum"][0]) > free(found["sum"][1]) > free(found["sum"][2])


def test_the_mean_of_contexts_survives_a_checkpoint() -> None:
    model, other = net(), net()
    optimizers = [Nested([level(contexts="mean")], own) for own in (model, other)]
    for _ in range(2):
        train(model, optimizers[0], batches(2))
        optimizers[0].commit()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    pairs = zip(*(own.memories["all"].sites for own in optimizers), strict=True)
    for site, loaded in pairs:
        for key, factor in site.factors.items():
            assert torch.equal(loaded.factors[key], factor)


def test_a_memory_that_was_cleared_protects_nothing() -> None:
    model = linear(6, 4)
    memory = KeyMemories(model, list(model.parameters()), level())
    for _ in range(2):
        model(torch.randn(8, 6, dtype=torch.float64)).square().sum().backward()
        memory.refresh()
        memory.commit()
    model(torch.randn(8, 6, dtype=torch.float64)).square().sum().backward()
    memory.refresh()
    assert memory.committed == 2 and memory.stored_bytes() > 0
    memory.clear()
    assert (memory.committed, memory.looks, memory.stored_bytes()) == (0, 0, 0)
    assert not memory.commit()
    before = [p.detach().clone() for p in model.parameters()]

    def step() -> None:
        for parameter in model.parameters():
            parameter.data += 1.0

    memory.filtered(step)
    for parameter, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old + 1.0)


def test_an_old_task_is_kept_while_a_new_one_is_learned() -> None:
    """End to end with AdamW: two regressions on inputs that overlap in part."""
    g = torch.Generator().manual_seed(0)
    tasks = []
    for columns in (slice(0, 4), slice(3, 6)):
        x = torch.zeros(64, 6)
        x[:, columns] = torch.randn(64, columns.stop - columns.start, generator=g)
        tasks.append((x, torch.tanh(x @ torch.randn(6, 3, generator=g))))
    rise, learned = {}, {}
    for consolidate in (True, False):
        model = net()
        optimizer = Nested(
            [level(lr=1e-2, consolidate=consolidate, strength=0.1, output_strength=1.0)], model
        )
        train(model, optimizer, [tasks[0]] * 120)
        with torch.no_grad():
            before = [loss_of(model, task).item() for task in tasks]
        if consolidate:
            optimizer.commit()
        train(model, optimizer, [tasks[1]] * 60)
        with torch.no_grad():
            after = [loss_of(model, task).item() for task in tasks]
        rise[consolidate], learned[consolidate] = after[0] - before[0], before[1] - after[1]
    assert learned[True] > 0.5 * learned[False] > 0
    assert rise[True] < 0.5 * rise[False]


def test_rows_of_tokens_that_were_used_move_less() -> None:
    """A tied embedding: damped by use on one side, by what its output layer reads on the other."""
    moved = {}
    for consolidate in (True, False):
        model = tiny_model(mixer="attention").train()
        level_ = Level("all", 20, consolidate=consolidate, optimizer="sgd", lr=0.1, output_strength=0.1)
        optimizer = Nested([level_], model, tokens_per_step=20)
        for step, limit in enumerate((25, 50)):  # the old context knows the first 25 tokens only
            tokens = random_tokens(2, 40, seed=step) % limit
            before = model.lm_head.weight.detach().clone()
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step(surprise=loss)
            if consolidate and step == 0:
                optimizer.commit()
        assert model.lm_head.weight is model.model.embed_tokens.weight
        moved[consolidate] = (model.lm_head.weight.detach() - before).norm(dim=1)
    ratio = moved[True] / moved[False]
    assert (ratio < 1).all()
    assert ratio[:25].mean() < 0.5 * ratio[25:].mean()


def test_only_the_consolidating_level_is_filtered() -> None:
    runs = []
    for consolidate in (True, False):
        model = net()
        fast = Level("fast", TOKENS, lr=1e-2)
        slow = Level("slow", TOKENS, lr=1e-2, consolidate=consolidate)
        optimizer = Nested([fast, slow], model, assign=by_layer)
        train(model, optimizer, batches(2))
        if consolidate:
            optimizer.commit()
        train(model, optimizer, batches(1, seed=1))
        runs.append(values(model))
    for name in runs[0]:
        assert torch.equal(runs[0][name], runs[1][name]) is not name.startswith("second"), name


# When contexts are taken in ---------------------------------------------------------------------------------


def test_until_a_commit_it_is_the_plain_optimizer_bit_for_bit() -> None:
    runs = []
    for consolidate in (True, False):
        model = net()
        train(model, Nested(two_levels(consolidate=consolidate), model, assign=by_layer), batches(10))
        runs.append(values(model))
    assert difference(*runs) is None


def test_a_surprise_commits_and_a_steady_stream_does_not() -> None:
    model = net()
    optimizer = Nested([level()], model)
    losses = [3.0 * 0.99**i for i in range(20)]
    train(model, optimizer, batches(20), surprises=losses)
    assert optimizer.surprises == []
    assert optimizer.memories["all"].committed == 0
    train(model, optimizer, batches(1), surprises=[losses[-1] * 2])
    assert optimizer.surprises == [20 * TOKENS]
    assert optimizer.memories["all"].committed == 1
    train(model, optimizer, batches(20), surprises=[losses[-1] * 2] * 20)
    assert optimizer.memories["all"].committed == 1


def test_what_is_kept_at_a_surprise_is_the_finished_context() -> None:
    """The surprising batch itself belongs to the new context."""
    old, new = Context(1, 16, 5, rank=4), Context(2, 16, 5, rank=4)
    model = linear(16, 5, bias=False)
    optimizer = Nested([level(optimizer="sgd", lr=RATE, strength=1e-3, output_strength=1e9)], model)
    for _ in range(12):
        old.step(model, optimizer, surprise=1.0)
    before = values(model)["weight"]
    new.step(model, optimizer, surprise=2.0)
    assert optimizer.surprises == [12 * TOKENS]
    update = values(model)["weight"] - before
    plain = -RATE * new.delta.mT @ new.x
    assert (old.x @ update.mT).norm() < 0.01 * (old.x @ plain.mT).norm()  # protected from this very step on
    assert (new.x @ update.mT).norm() > 0.5 * (new.x @ plain.mT).norm()


def test_commit_by_hand() -> None:
    model = net()
    optimizer = Nested(two_levels(consolidate=True), model, assign=by_layer)
    train(model, optimizer, batches(4))
    optimizer.commit()
    assert [memory.committed for memory in optimizer.memories.values()] == [1, 1]
    assert optimizer.surprises == [4 * TOKENS]


def test_commit_with_nothing_seen_keeps_nothing() -> None:
    model = net()
    optimizer = Nested([level()], model)
    optimizer.commit()
    assert optimizer.memories["all"].committed == 0
    train(model, optimizer, batches(2))  # still the plain optimizer
    reference = net()
    train(reference, Nested([level(consolidate=False)], reference), batches(2))
    assert difference(values(reference), values(model)) is None


@pytest.mark.parametrize("refresh", [1, 2, 4])
def test_the_context_is_looked_at_on_the_clock(refresh: int) -> None:
    """Step 1, and then every step that follows a multiple of ``refresh``."""
    model, recorded, before = net(), [], [None]
    optimizer = Nested([level(refresh=refresh * TOKENS)], model)

    def look(_: int) -> None:
        now = copy_tree(optimizer.memories["all"].state_dict()["sites"])
        recorded.append(difference(before[-1], now) is not None)
        before.append(now)

    train(model, optimizer, batches(9), after=look)
    assert recorded == [step % refresh == 0 for step in range(9)]


@pytest.mark.parametrize("mode", ["no_grad", "eval and no_grad", "inference_mode"])
def test_evaluation_is_not_recorded(mode: str) -> None:
    def evaluate(model: nn.Module) -> None:
        guard = torch.inference_mode() if mode == "inference_mode" else torch.no_grad()
        training = model.training
        with guard:
            if mode.startswith("eval"):
                model.eval()
            loss_of(model, batches(1, seed=7)[0])
        model.train(training)

    runs = []
    for evaluated in (True, False):
        model = net()
        optimizer = Nested([level()], model)
        for step, batch in enumerate(batches(8)):
            if evaluated:
                evaluate(model)
            train(model, optimizer, [batch], after=(lambda _, m=model: evaluate(m)) if evaluated else None)
            if step == 3:
                optimizer.commit()
        runs.append(snapshot(model, optimizer))
    assert difference(*runs) is None


def test_generation_is_not_recorded() -> None:
    runs = []
    for generating in (True, False):
        model = tiny_model().train()
        optimizer = Nested([Level("all", 18, consolidate=True)], model, tokens_per_step=18)
        for step in range(4):
            if generating:
                model.generate(random_tokens(1, 4), max_new_tokens=2, do_sample=False)
            tokens = random_tokens(2, 9, seed=step)
            loss = model.train()(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step(surprise=loss)
            if step == 1:
                optimizer.commit()
        runs.append(snapshot(model, optimizer))
    assert difference(*runs) is None


def test_no_example_is_stored_and_the_size_does_not_grow() -> None:
    model = net()
    optimizer = Nested([level()], model)
    sizes = []
    for context in range(5):
        train(model, optimizer, batches(10, seed=context))
        optimizer.commit()
        train(model, optimizer, batches(1, seed=context))
        state = optimizer.memories["all"].state_dict()
        sizes.append(
            sum(t.numel() for site in state["sites"] for part in site.values() for t in part.values())
        )
    assert len(set(sizes)) == 1


def test_recording_changes_no_gradient() -> None:
    gradients = []
    for consolidate in (True, False):
        model = net()
        Nested([level(consolidate=consolidate)], model)
        loss_of(model, batches(1)[0]).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert difference(*gradients) is None


# Hooks ------------------------------------------------------------------------------------------------------


def hooks(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks)
        + len(m._forward_pre_hooks)
        + len(m._backward_hooks)
        + len(m._backward_pre_hooks)
        for m in model.modules()
    )


@over([{}, {"tie_word_embeddings": False}])
def test_detach_removes_all_hooks(changes: Changes) -> None:
    model = tiny_model(**changes).train()
    memories = KeyMemories(model, model.parameters(), level())
    assert hooks(model) > 0
    memories.detach()
    assert hooks(model) == 0
    tokens = random_tokens(1, 9)
    model(tokens, labels=tokens).loss.backward()
    memories.detach()  # twice does no harm


def test_without_consolidation_there_are_no_hooks() -> None:
    model = net()
    optimizer = Nested(two_levels(), model, assign=by_layer)
    assert hooks(model) == 0
    assert optimizer.memories == {}


def test_a_copy_of_the_model_is_not_recorded() -> None:
    """Training a copy by itself leaves the original's key memories alone."""
    runs = []
    for copied in (True, False):
        model = net()
        optimizer = Nested([level()], model)
        if copied:
            loss_of(copy.deepcopy(model), batches(1, seed=5)[0]).backward()
        train(model, optimizer, batches(1))
        optimizer.commit()
        runs.append(snapshot(model, optimizer))
    assert difference(*runs) is None


def test_a_foreign_state_is_refused() -> None:
    memories = KeyMemories(net(), net().parameters(), level())
    with pytest.raises(ValueError, match="key memories"):
        memories.load_state_dict({"recording": True, "committed": 0, "sites": []})
