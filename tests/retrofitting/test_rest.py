"""What is not in a feed-forward block may belong to a level too: attention, head, embedding of the tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import nestlearn as nl
from nestlearn.retrofitting import find_blocks
from nestlearn.retrofitting.parts import TokenSite
from tests.retrofitting.small import (
    ARCHITECTURES,
    by_adamw,
    pretrained,
    same,
    tokens,
    train,
    two_levels,
    weights,
)

every = pytest.mark.parametrize("name", ARCHITECTURES)


@every
def test_the_rest_belongs_to_the_level_that_is_named(name: str) -> None:
    """Every matrix but a table of positions learns then, exactly when its level is due; norms never do."""
    base = pretrained(name)
    model = nl.retrofit(base, two_levels(consolidate=True), rest="slow")
    optimizer, start = nl.NestedUnits(model), weights(base)
    inside = {slot.name for block in find_blocks(base) for p in block.projections for slot in p.slots}
    train(model, optimizer, 1)
    moved = {n for n, value in weights(model).items() if not torch.equal(value, start[n])}
    assert moved <= inside
    optimizer.commit()
    train(model, optimizer, 1, first=1)
    still = {n for n, p in model.named_parameters() if torch.equal(p, start[n]) and n not in inside}
    matrices = {n for n, p in base.named_parameters() if p.dim() == 2}
    assert matrices & still == {n for n in matrices if "wpe" in n or "embed_positions" in n}
    norms = {
        f"{n}.{key}" for n, m in base.named_modules() if "Norm" in type(m).__name__ for key in m._parameters
    }
    assert norms & set(start) <= still
    assert same(weights(base), start)


def test_a_tied_weight_is_the_rest_once() -> None:
    model = nl.retrofit(pretrained("llama, tied"), two_levels(), rest="fast")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    names = [name for own in nl.NestedUnits(model).parts.by_level.values() for name in own]
    assert names.count("model.embed_tokens.weight") == 1
    sites = nl.NestedUnits(model).parts.find_sites([model.model.embed_tokens.weight])
    assert [type(site).__name__ for site in sites] == ["TokenSite"]


def test_one_level_of_everything_is_adamw_on_all_but_norms() -> None:
    base = pretrained()
    model = nl.retrofit(base, [nl.Level("all", 64, lr=1e-2, max_grad_norm=None)], rest="all")
    train(model, nl.NestedUnits(model), 4)
    assert same(weights(model), by_adamw(base, [name for name, p in base.named_parameters() if p.dim() == 2]))


def token_site(model: Any, optimizer: Any) -> TokenSite:
    (site,) = optimizer.parts.find_sites([model.get_input_embeddings().weight])
    assert isinstance(site, TokenSite)
    return site


def test_a_tied_embedding_is_protected_as_an_output_layer() -> None:
    """Rows by the use of their token, once as an input and once as a prediction; directions by the states."""
    levels = two_levels(consolidate=True, strength=0.3, output_strength=0.7)
    model = nl.retrofit(pretrained("llama, tied"), levels, rest="fast")
    optimizer, batch = nl.NestedUnits(model), tokens()
    site = token_site(model, optimizer)
    states: list[torch.Tensor] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: states.append(args[0].detach()))
    logits = model(batch).logits
    logits.retain_grad()
    F.cross_entropy(logits.flatten(0, 1), batch.flatten()).backward()
    x, squares = states[0].flatten(0, 1), logits.grad.flatten(0, 1).square().sum(0)
    torch.testing.assert_close(site.fresh["output"], squares)
    torch.testing.assert_close(site.fresh["input"], x.mT @ x / len(x))
    for memory in optimizer.memories.values():
        memory.refresh()
    own = site.sensitivity()
    assert own is not None
    torch.testing.assert_close(own, (x.square().mean() * squares.mean()))
    site.commit(0.3, 0.7, common=own)
    used = torch.bincount(batch.flatten(), minlength=64).float()
    rows = 1 / (1 + used / used.mean() / 0.7) / (1 + squares / squares.mean() / 0.7)
    torch.testing.assert_close(site.factors["rows"], rows)
    update = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    c = x.mT @ x / len(x)
    expected = rows[:, None] * update @ torch.linalg.inv(torch.eye(32) + c / c.diagonal().mean() / 0.3)
    torch.testing.assert_close(site.filter([update])[0], expected, rtol=2e-2, atol=2e-2)


def test_an_embedding_of_its_own_is_protected_by_the_use_of_tokens() -> None:
    model = nl.retrofit(pretrained(), two_levels(consolidate=True), rest="fast")
    optimizer = nl.NestedUnits(model)
    site = token_site(model, optimizer)
    train(model, optimizer, 1)
    assert site.sensitivity() is None
    optimizer.commit()
    assert set(site.factors) == {"rows"}
    used = torch.bincount(tokens(seed=0).flatten(), minlength=64) > 0
    assert (site.factors["rows"][~used] == 1).all()
    assert (site.factors["rows"][used] < 1).all()


def test_the_rest_through_a_file_and_back(tmp_path: Any) -> None:
    from tests.continual.small import texts, tokenizer

    base = pretrained("llama, tied")
    learner = nl.Learner(base, tokenizer(), old=texts(4), context=16, batch_size=2)
    learner.learn(texts(20, seed=1), progress=False)
    assert learner.method.settings["rest"] == "fast"
    learner.save(tmp_path / "memory.safetensors")
    other = nl.Learner.load(base, tmp_path / "memory.safetensors", tokenizer())
    assert other.method.settings == learner.method.settings
    assert same(weights(other.model), weights(learner.model))
    assert not torch.equal(learner.model.lm_head.weight, base.lm_head.weight)
    learner.reset()
    assert same(weights(learner.model), weights(base))


def test_nothing_besides_the_blocks_is_an_error() -> None:
    blocks = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
    with pytest.raises(ValueError, match="no linear layer and no embedding besides its blocks"):
        nl.retrofit(torch.nn.ModuleDict({"mlp": blocks}), two_levels(), blocks=["mlp"], rest="fast")
