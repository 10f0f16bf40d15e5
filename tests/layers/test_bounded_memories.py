"""No sequence of keys makes a memory grow without bound, whatever its gates."""

from __future__ import annotations

import math

import pytest
import torch

from nestlearn.memory import MemoryParameters, MemoryRule, Streams, chunk

WIDTH, CHUNK, LENGTH = 8, 16, 2048


@pytest.mark.parametrize(("rate", "retention"), [(0.0, 4.0), (4.0, 8.0), (20.0, 20.0), (20.0, -20.0)])
@pytest.mark.parametrize("objective", ["dot"])  # l2 grows here: docs/decisions.md
@pytest.mark.parametrize("kind", ["matrix", "mlp"])
@torch.no_grad()
def test_keys_that_turn_half_around_in_every_chunk(
    kind: str, objective: str, rate: float, retention: float
) -> None:
    """Keys in a plane, for which the product P of a chunk's erases ``I - eta k k^T`` turns a vector around.

    The objective l2 takes ``W k`` away twice: in the erase, and in the gradient at the chunk's start. What is
    left of ``W`` after a chunk is ``W (2 P - I)``, whose eigenvalues reach from 1 to -3; with one of the two
    it is ``W P``, which never grows.
    """
    rule = MemoryRule(kind=kind, objective=objective, chunk_size=CHUNK)  # type: ignore[arg-type]
    g, memories = torch.Generator().manual_seed(0), len(rule.names)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g) / WIDTH**0.5

    square = (memories, 1, WIDTH, WIDTH)
    weights = (0.1 * randn(*square),) if kind == "matrix" else (0.1 * randn(*square), randn(*square))
    scale = torch.full((memories, 1), 0.1)  # as a new layer has them
    scale[-1] = 1.0
    parameters = MemoryParameters(
        weights, torch.zeros(2, 1, WIDTH), torch.tensor([[rate], [retention]]), scale
    )
    angle = torch.arange(LENGTH) % CHUNK * math.pi / CHUNK
    key = torch.zeros(1, 1, LENGTH, WIDTH)
    key[..., 0], key[..., 1] = angle.cos(), angle.sin()
    value = torch.randn(1, 1, LENGTH, WIDTH, generator=g)
    reads, state = chunk.self_modifying(Streams(key, value, key), parameters, None, rule)
    assert torch.isfinite(reads).all()
    assert max(w.abs().max().item() for w in state.weights) < 1e3
