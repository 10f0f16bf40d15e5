"""Low-rank factors in a classifier: what learns, what stays, and what is computed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nestlearn.continual.classification import LowRank, Ordinary, adam, run_stream, sgd
from tests.continual.classification.test_methods import CLASSES, SIZE, blobs, network, stream


def deep(seed: int = 0) -> nn.Sequential:
    """A name that ends as the head's does, and another that ends as a hidden layer's."""
    torch.manual_seed(seed)
    inner = nn.Sequential(nn.Linear(SIZE, 12), nn.Tanh(), nn.Linear(12, 12))
    return nn.Sequential(inner, nn.LayerNorm(12), nn.Linear(12, CLASSES))


def learned(method: LowRank) -> dict[str, torch.Tensor]:
    return {name: p for name, p in method.network.named_parameters() if p.requires_grad}


def test_a_method_learns_a_task_leaves_its_input_and_repeats() -> None:
    results = []
    for seed in (0, 0, 1):
        own = stream()
        model = network()
        state = torch.get_rng_state()
        method = LowRank(model, adam(1e-2), rank=4, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert method.network is model
        before = own.tasks[0].splits["train"].inputs.clone()
        record = run_stream(method, own)
        assert torch.equal(own.tasks[0].splits["train"].inputs, before)
        assert record.matrix[0][0] > 0.9
        assert record.stored_bytes == 0
        results.append(method.scores(before))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_at_first_nothing_is_added() -> None:
    x = blobs()["test"].inputs
    before = deep()(x)
    assert torch.equal(LowRank(deep()).scores(x), before)


def test_factors_and_the_head_learn_and_nothing_else() -> None:
    method = LowRank(deep(), adam(1e-2), rank=3)
    sizes = {name: tuple(p.shape) for name, p in learned(method).items()}
    assert sizes == {
        "0.0.lora_A.default.weight": (3, SIZE),
        "0.0.lora_B.default.weight": (12, 3),
        "0.2.lora_A.default.weight": (3, 12),
        "0.2.lora_B.default.weight": (12, 3),
        "2.weight": (CLASSES, 12),
        "2.bias": (CLASSES,),
    }
    before = {name: p.detach().clone() for name, p in method.network.named_parameters()}
    run_stream(method, stream())
    for name, p in method.network.named_parameters():
        assert torch.equal(p, before[name]) is (name not in sizes), name


def test_a_head_is_not_taken_for_a_hidden_layer_by_its_name() -> None:
    """The head's name, 2.0, ends as the hidden layer's."""
    own = nn.Sequential(nn.Linear(SIZE, 5), nn.Tanh(), nn.Sequential(nn.Linear(5, CLASSES)))
    assert list(learned(LowRank(own))) == [
        "0.lora_A.default.weight",
        "0.lora_B.default.weight",
        "2.0.weight",
        "2.0.bias",
    ]


def test_scores_are_those_of_the_adapted_network() -> None:
    """The equation, with the factors that were learned."""
    method = LowRank(network(), adam(1e-2), rank=2, scale=3.0)
    run_stream(method, stream())
    p = {name: value.detach() for name, value in method.network.named_parameters()}
    product = p["0.lora_B.default.weight"] @ p["0.lora_A.default.weight"]
    assert torch.linalg.matrix_rank(product) == 2
    weight = network()[0].weight.detach() + 3.0 * product  # type: ignore[index]
    x = blobs()["test"].inputs
    hidden = (x @ weight.T + p["0.base_layer.bias"]).tanh()
    torch.testing.assert_close(method.scores(x), hidden @ p["2.weight"].T + p["2.bias"], rtol=1e-4, atol=1e-4)


def test_the_heads_first_step_is_that_of_ordinary_learning() -> None:
    data = blobs()["train"]
    method, plain = LowRank(network(), sgd(0.1)), Ordinary(network(), sgd(0.1))
    for own in (method, plain):
        own.learn(data.inputs, data.classes)
    theirs = dict(plain.network.named_parameters())
    for name in ("2.weight", "2.bias"):
        assert torch.equal(learned(method)[name], theirs[name])


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"LoRA needs peft: pip install 'nestlearn\[baselines\]'"):
        LowRank(network())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRank(network(), rank=0), "rank must be at least 1, got 0"),
        (lambda: LowRank(network(), scale=0.0), "scale must be positive, got 0.0"),
        (lambda: LowRank(nn.Linear(SIZE, CLASSES)), "a head are needed, got 1 linear layers"),
    ],
)
def test_values_outside_their_range(make: Callable[[], LowRank], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
