"""Memories stay bounded at the ends of the gates' ranges, whatever the keys."""

from __future__ import annotations

import pytest
import torch

from nestlearn.memory import MemoryParameters, MemoryRule, Streams, chunk
from nestlearn.memory.functional import hidden_features, hidden_features_backward

HEADS, WIDTH = 2, 16


def largest_weight(
    rule: MemoryRule, rate_bias: float, retention_bias: float, same_direction: bool
) -> list[float]:
    """Largest absolute weight after each quarter of 2,048 tokens of twice normal size."""
    g = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=g)

    memories = len(rule.names)
    weights = (
        (0.1 * randn(memories, HEADS, WIDTH, WIDTH),)
        if rule.kind == "matrix"
        else (0.1 * randn(memories, HEADS, WIDTH, WIDTH), randn(memories, HEADS, WIDTH, WIDTH) / 4)
    )
    bias = torch.tensor([[rate_bias], [retention_bias]]).expand(2, HEADS)
    parameters = MemoryParameters(weights, torch.zeros(2, HEADS, WIDTH), bias, torch.ones(memories, HEADS))
    direction, state, largest = randn(1, HEADS, 1, WIDTH), None, []
    for _ in range(4):
        streams = Streams(
            *(2 * (direction * same_direction + 0.3 * randn(1, HEADS, 512, WIDTH)) for _ in range(3))
        )
        _, state = chunk.self_modifying(streams, parameters, state, rule)
        largest.append(max(w.abs().max().item() for w in state.weights))
    return largest


@pytest.mark.parametrize("kind", ["matrix", "mlp"])
@pytest.mark.parametrize("objective", ["l2", "dot"])
@pytest.mark.parametrize("chunk_size", [1, 16])
@pytest.mark.parametrize("same_direction", [True, False])
@pytest.mark.parametrize("retention_bias", [4.0, 20.0])
@torch.no_grad()
def test_full_learning_rate_keeps_the_state_bounded(
    kind, objective, chunk_size, same_direction, retention_bias
):
    rule = MemoryRule(kind=kind, objective=objective, chunk_size=chunk_size)
    largest = largest_weight(rule, 8.0, retention_bias, same_direction)
    # A growing mode is past 1e30 by the second quarter. With l2, full rate and full retention the eigenvalue
    # along a key is -1: such a memory walks at random, which is slow.
    limit = 2000 if objective == "l2" and retention_bias == 20.0 else 200
    assert all(value < limit for value in largest), largest


def test_hidden_features_are_shorter_than_one_and_their_gradient_is_exact():
    x = (5 * torch.randn(7, 6, dtype=torch.float64)).requires_grad_()
    features = hidden_features(x)
    assert (features.norm(dim=-1) < 1).all()
    gradient = torch.randn_like(features)
    (expected,) = torch.autograd.grad(features, x, gradient)
    assert torch.allclose(hidden_features_backward(x.detach(), gradient), expected, atol=1e-12)
