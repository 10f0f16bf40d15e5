"""Self-modifying Titans token by token: the equations, to be held against the paper.

Nothing here is fast. :mod:`nestlearn.memory.chunk` computes the same with the same signatures; the tests
compare the two forward and backward. Equation numbers are those of arXiv 2512.24695.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nestlearn.memory.functional import (
    check_inputs,
    hidden_features,
    hidden_features_backward,
    initial_state,
    join_pending,
    unit,
)
from nestlearn.memory.types import MAIN, MemoryParameters, MemoryRule, MemoryState, Streams

Weights = Sequence[Tensor]


def delta_write(
    weight: Tensor,
    keys: Tensor,
    gradients: Tensor,
    rate: Tensor,
    log_retention: Tensor,
    queries: Tensor | None = None,
    *,
    erase: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Delta gradient descent with weight decay, one token after the other (Eq. 88, 121).

    ``W_t = W_{t-1} (alpha_t I - eta_t k_t k_t^T) - eta_t g_t k_t^T``; a read is ``W_t q_t``.

    Args:
        weight: State before the first token, ``[..., o, i]``.
        keys: ``[..., T, i]``, unit length.
        gradients: ``g_t``, gradient of the inner loss by the output at the snapshot, ``[..., T, o]``.
        rate: ``eta_t >= 0``, ``[..., T]``.
        log_retention: ``log alpha_t <= 0``, ``[..., T]``.
        queries: ``[..., T, i]``, or None for no reads.
        erase: Whether the term ``eta k k^T`` is there.

    Returns:
        The state after the last token ``[..., o, i]`` and the reads ``[..., T, o]`` (or None).
    """
    reads = []
    for t in range(keys.shape[-2]):
        k, g = keys[..., t, :], gradients[..., t, :]
        weight = _delta(weight, k, g, rate[..., t], log_retention[..., t].exp(), erase)
        if queries is not None:
            reads.append(_apply(weight, queries[..., t, :]))
    return weight, (torch.stack(reads, dim=-2) if queries is not None else None)


def self_modifying(
    streams: Streams,
    parameters: MemoryParameters,
    state: MemoryState | None,
    rule: MemoryRule,
) -> tuple[Tensor, MemoryState]:
    """Self-modifying Titans (Eq. 83 to 93), one token after the other.

    Args:
        streams: Inputs of the memories, each ``[B, H, T, e]``.
        parameters: Initial states, gates and write scales.
        state: State after the previous piece, or None at the start of a sequence.
        rule: Which memories there are and how they are written.

    Returns:
        Reads of the main memory ``[B, H, T, e]`` and the state after the last token.

    Raises:
        ValueError: If the state does not fit the parameters, the batch or the rule.
    """
    state = initial_state(parameters, streams) if state is None else state
    check_inputs(streams, parameters, state, rule)
    new, streams = streams.key.shape[2], join_pending(streams, state)
    snapshot = running = tuple(state.weights)
    start, reads = 0, []
    for t in range(streams.key.shape[2]):
        token = Streams(*(s[:, :, t] for s in streams))
        running, y = _token(token, snapshot, running, parameters, rule)
        reads.append(y)
        if (t + 1) % rule.chunk_size == 0:
            snapshot, start = running, t + 1
    pending = Streams(*(s[:, :, start:] for s in streams))
    return torch.stack(reads, dim=2)[:, :, -new:], MemoryState(snapshot, pending)


def _token(
    x: Streams, snapshot: Weights, running: Weights, p: MemoryParameters, rule: MemoryRule
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One token (streams ``[B, H, e]``): the new running weights and the read ``y_t [B, H, e]``."""
    index = {name: i for i, name in enumerate(rule.names)}

    def memory(name: str, z: Tensor, weights: Weights = snapshot) -> Tensor:
        out = _inner(z, [w[:, :, index[name]] for w in weights])
        return out if name == MAIN and not rule.main_adds_input else z + out

    # Eq. 83: everything that the write needs comes from the memories themselves.
    k = unit(memory("key", x.key))
    v = memory("value", x.value)
    eta = rule.rate_max * torch.sigmoid((memory("rate", x.key) * p.gate_weight[0]).sum(-1) + p.gate_bias[0])
    alpha = torch.sigmoid((memory("retention", x.key) * p.gate_weight[1]).sum(-1) + p.gate_bias[1])
    q = unit(memory("query", x.query) if rule.adaptive_query else x.query)

    written = list(running)
    for name, i in index.items():
        if name != MAIN and not rule.adaptive:
            continue
        # Eq. 84: every memory generates its own target.
        if name == MAIN:
            target = v + _inner(v, [w[:, :, i] for w in snapshot]) if rule.main_target == "generated" else v
        else:
            target = unit(memory(name, v)) if rule.unit_targets else memory(name, v)
        error = memory(name, k) - target if rule.objective == "l2" else -target
        error = p.write_scale[i][..., None] * error
        after = _write(
            [w[:, :, i] for w in snapshot], [w[:, :, i] for w in running], k, error, eta, alpha, rule
        )
        written = [_replace(w, i, a) for w, a in zip(written, after, strict=True)]
    return tuple(written), memory(MAIN, q, written if rule.causal_reads else snapshot)


def _inner(z: Tensor, weights: Weights) -> Tensor:
    """``W z`` or ``W1 phi(W2 z)`` (Eq. 89 without its input)."""
    if len(weights) == 1:
        return _apply(weights[0], z)
    return _apply(weights[0], hidden_features(_apply(weights[1], z)))


def _write(
    snapshot: Weights,
    running: Weights,
    k: Tensor,
    error: Tensor,
    eta: Tensor,
    alpha: Tensor,
    rule: MemoryRule,
) -> list[Tensor]:
    """Eq. 88 for each weight of one memory, with its own bounded input and the snapshot's gradient."""
    if len(snapshot) == 1:
        return [_delta(running[0], k, error, eta, alpha, rule.erase)]
    a = _apply(snapshot[1], k)
    hidden_error = hidden_features_backward(a, _apply(snapshot[0].mT, error))
    return [
        _delta(running[0], hidden_features(a), error, eta, alpha, rule.erase),
        _delta(running[1], k, hidden_error, eta, alpha, rule.erase),
    ]


def _delta(weight: Tensor, k: Tensor, g: Tensor, eta: Tensor, alpha: Tensor, erase: bool) -> Tensor:
    """``W (alpha I - eta k k^T) - eta g k^T`` (Eq. 88)."""
    step = g + (_apply(weight, k) if erase else 0.0)
    return alpha[..., None, None] * weight - eta[..., None, None] * step[..., :, None] * k[..., None, :]


def _apply(weight: Tensor, z: Tensor) -> Tensor:
    """``W z`` for ``[..., o, i]`` and ``[..., i]``."""
    return (weight * z[..., None, :]).sum(-1)


def _replace(stack: Tensor, i: int, value: Tensor) -> Tensor:
    """``stack [B, H, M, ...]`` with memory ``i`` replaced, out of place."""
    return torch.cat([stack[:, :, :i], value[:, :, None], stack[:, :, i + 1 :]], dim=2)


__all__ = ["delta_write", "self_modifying"]
