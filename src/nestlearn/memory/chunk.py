"""Self-modifying Titans a chunk at a time: the parallel twin of :mod:`nestlearn.memory.naive`.

Inside a chunk every key, value, gate and gradient comes from the snapshot at its start, so a write is the
linear recurrence ``W_t = alpha_t W_{t-1} (I - eta_t k_t k_t^T / alpha_t) - eta_t g_t k_t^T`` with known
coefficients. One triangular system per chunk solves it exactly (SPEC 4.4). With ``gamma_t`` the product of
the first t retentions and ``u_t = -(W_{t-1} k_t + g_t)``:

    (I + L) U = -(G + diag(gamma_{t-1}) K W_0^T),   L[t, s] = (gamma_{t-1} / gamma_s) eta_s <k_t, k_s>, s < t
    W_t q = gamma_t W_0 q + sum_{s <= t} (gamma_t / gamma_s) eta_s <k_s, q> u_s

All memories share keys and gates, hence one system serves them all: they are stacked along the output axis.
Autograd differentiates through every write.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestlearn.memory.functional import (
    check_inputs,
    gelu,
    gelu_derivative,
    initial_state,
    join_pending,
    unit,
)
from nestlearn.memory.types import MemoryParameters, MemoryRule, MemoryState, Streams


class _Decay(NamedTuple):
    """Products of retentions and learning rates between the tokens of a chunk."""

    before: Tensor  # [..., C, 1], gamma_{t-1}
    until: Tensor  # [..., C, 1], gamma_t
    strict: Tensor  # [..., C, C], (gamma_{t-1} / gamma_s) eta_s for s < t, else 0
    inclusive: Tensor  # [..., C, C], (gamma_t / gamma_s) eta_s for s <= t, else 0
    end: Tensor  # [..., C, 1], (gamma_C / gamma_s) eta_s


def _decay(rate: Tensor, log_retention: Tensor) -> _Decay:
    """Ratios in log space, so that a small retention cannot divide by zero."""
    until = torch.cumsum(log_retention, -1)
    before = until - log_retention
    length = rate.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool, device=rate.device).triu()
    eta = rate[..., None, :]
    strict = (before[..., :, None] - until[..., None, :]).masked_fill(later, -torch.inf).exp() * eta
    inclusive = (until[..., :, None] - until[..., None, :]).masked_fill(later.triu(1), -torch.inf).exp() * eta
    end = (until[..., -1:] - until).exp() * rate
    return _Decay(before.exp()[..., None], until.exp()[..., None], strict, inclusive, end[..., None])


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
    """Delta gradient descent with weight decay over one chunk (Eq. 88, 121; SPEC 4.4).

    Same arguments and results as :func:`nestlearn.memory.naive.delta_write`.

    Args:
        weight: State before the first token, ``[..., o, i]``.
        keys: ``[..., T, i]``, unit length.
        gradients: Gradient of the inner loss by the output at the snapshot, ``[..., T, o]``.
        rate: ``eta_t >= 0``, ``[..., T]``.
        log_retention: ``log alpha_t <= 0``, ``[..., T]``.
        queries: ``[..., T, i]``, or None for no reads.
        erase: Whether the term ``eta k k^T`` is there.

    Returns:
        The state after the last token ``[..., o, i]`` and the reads ``[..., T, o]`` (or None).
    """
    decay = _decay(rate, log_retention)
    update = _updates(weight, keys, gradients, decay, erase)
    reads = None if queries is None else _read(weight, keys, update, decay, queries)
    return _end(weight, keys, update, decay), reads


def _updates(
    weight: Tensor, keys: Tensor, gradients: Tensor, decay: _Decay, erase: bool, outputs: Tensor | None = None
) -> Tensor:
    """``u_t`` of every token, ``[..., C, o]``; ``outputs`` is ``K W_0^T`` where it is known already."""
    if not erase:
        return -gradients
    outputs = keys @ weight.mT if outputs is None else outputs
    right = -torch.addcmul(gradients, decay.before, outputs)
    # The diagonal is not read: unitriangular.
    return torch.linalg.solve_triangular(
        decay.strict * (keys @ keys.mT), right, upper=False, unitriangular=True
    )


def _read(weight: Tensor, keys: Tensor, update: Tensor, decay: _Decay, queries: Tensor) -> Tensor:
    """``W_t q_t`` of every token, ``[..., C, o]``."""
    return torch.addcmul(
        (decay.inclusive * (queries @ keys.mT)) @ update, decay.until, queries @ weight.mT
    )


def _end(weight: Tensor, keys: Tensor, update: Tensor, decay: _Decay) -> Tensor:
    """The weight after the chunk."""
    return torch.addcmul(update.mT @ (decay.end * keys), decay.until[..., -1:, :], weight)


def self_modifying(
    streams: Streams,
    parameters: MemoryParameters,
    state: MemoryState | None,
    rule: MemoryRule,
) -> tuple[Tensor, MemoryState]:
    """Self-modifying Titans (Eq. 83 to 93), a chunk at a time.

    Same arguments and results as :func:`nestlearn.memory.naive.self_modifying`.

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
    step = _mlp_chunk if rule.kind == "mlp" else _matrix_chunk
    weights, reads = state.weights, []
    pieces = list(zip(*(s.split(rule.chunk_size, dim=2) for s in streams), strict=True))
    pending = Streams(*(s[:, :, :0] for s in streams))
    for piece in pieces:
        x = Streams(*piece)
        after, y = step(x, weights, parameters, rule)
        reads.append(y)
        if x.key.shape[2] == rule.chunk_size:
            weights = after
        else:
            pending = x
    return torch.cat(reads, dim=2)[:, :, -new:], MemoryState(weights, pending)


def _gates(logits: Tensor, p: MemoryParameters, rule: MemoryRule) -> _Decay:
    """Learning rate and retention from their memories' read-out ``[B, H, C, 2]`` (SPEC 6.9)."""
    rate, retention = (logits + p.gate_bias.mT[:, None]).unbind(-1)
    return _decay(rule.rate_max * torch.sigmoid(rate), torch.nn.functional.logsigmoid(retention))


def _targets(own: Tensor, value: Tensor, rule: MemoryRule) -> Tensor:
    """Self-generated targets ``[B, H, M, C, e]`` from ``f(v)`` of the written memories (Eq. 84)."""
    main = own[:, :, -1:] + value[:, :, None] if rule.main_target == "generated" else value[:, :, None]
    if not rule.adaptive:
        return main
    projections = own[:, :, :-1] + value[:, :, None]
    return torch.cat([unit(projections) if rule.unit_targets else projections, main], dim=2)


def _errors(target: Tensor, output: Tensor, key: Tensor, p: MemoryParameters, rule: MemoryRule) -> Tensor:
    """Scaled gradient of the inner loss by each memory's output, ``[B, H, M, C, e]``."""
    written = target.shape[2]
    scale = p.write_scale[-written:].mT[:, :, None, None]
    if rule.objective == "dot":
        return -scale * target
    adds_input = torch.ones(written, 1, 1, dtype=key.dtype, device=key.device)
    if not rule.main_adds_input:
        adds_input[-1] = 0.0
    return scale * (output + adds_input * key[:, :, None] - target)


def _matrix_chunk(
    x: Streams, weights: tuple[Tensor, ...], p: MemoryParameters, rule: MemoryRule
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One chunk of matrix memories: new weights and reads ``[B, H, C, e]``."""
    (weight,) = weights  # [B, H, M, e, e]
    batch, heads, memories, e, _ = weight.shape
    length = x.key.shape[2]
    # The gates read M_eta(x) and M_alpha(x) through one vector each: fold it into the matrix.
    readout = p.gate_weight.transpose(0, 1)  # [H, 2, e]
    folded = (readout[:, :, None] @ weight[:, :, 2:4]).squeeze(-2) + readout  # [B, H, 2, e]
    at_key = x.key @ torch.cat([weight[:, :, 0], folded], dim=2).mT
    key = unit(x.key + at_key[..., :e])
    decay = _gates(at_key[..., e:], p, rule)
    value = x.value + x.value @ weight[:, :, 1].mT
    query = unit(x.query + x.query @ weight[:, :, 4].mT if rule.adaptive_query else x.query)

    first = 0 if rule.adaptive else memories - 1
    stacked = weight[:, :, first:].reshape(batch, heads, -1, e)  # [B, H, M e, e]

    def split(flat: Tensor) -> Tensor:
        return flat.view(batch, heads, length, -1, e).transpose(2, 3)  # [B, H, M, C, e]

    generated = memories if rule.main_target == "generated" else memories - 1
    own = split(value @ weight[:, :, first:generated].reshape(batch, heads, -1, e).mT)
    if generated < memories:
        own = torch.cat([own, value[:, :, None]], dim=2)
    outputs = key @ stacked.mT
    errors = _errors(_targets(own, value, rule), split(outputs), key, p, rule)
    gradients = errors.transpose(2, 3).reshape(batch, heads, length, -1)
    update = _updates(stacked, key, gradients, decay, rule.erase, outputs)
    after = _end(stacked, key, update, decay).view(batch, heads, -1, e, e)
    if first:
        after = torch.cat([weight[:, :, :first], after], dim=2)
    main = weight[:, :, -1]
    reads = _read(main, key, update[..., -e:], decay, query) if rule.causal_reads else query @ main.mT
    return (after,), reads


def _mlp_chunk(
    x: Streams, weights: tuple[Tensor, ...], p: MemoryParameters, rule: MemoryRule
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One chunk of two-layer memories: new weights and reads ``[B, H, C, e]``."""
    outer, inner = weights  # [B, H, M, e, h], [B, H, M, h, e]
    batch, heads, memories, e, h = outer.shape

    def forward(z: Tensor, memory: slice) -> Tensor:
        return gelu(z[:, :, None] @ inner[:, :, memory].mT) @ outer[:, :, memory].mT

    hidden = gelu(x.key[:, :, None] @ inner[:, :, [0, 2, 3]].mT)
    readout = p.gate_weight.transpose(0, 1)[:, :, :, None]  # [H, 2, e, 1]
    logits = (x.key[:, :, None] @ readout + hidden[:, :, 1:] @ (outer[:, :, 2:4].mT @ readout)).squeeze(-1)
    key = unit(x.key + hidden[:, :, 0] @ outer[:, :, 0].mT)
    decay = _gates(logits.mT, p, rule)
    value = x.value + forward(x.value, slice(1, 2))[:, :, 0]
    query = unit(x.query + forward(x.query, slice(4, 5))[:, :, 0] if rule.adaptive_query else x.query)

    first = 0 if rule.adaptive else memories - 1
    outer_w, inner_w = outer[:, :, first:], inner[:, :, first:]
    generated = forward(value, slice(first, memories))
    linear = (key @ inner_w.flatten(2, 3).mT).unflatten(-1, (-1, h)).transpose(2, 3)  # [B, H, M, C, h]
    hidden = gelu(linear)
    errors = _errors(_targets(generated, value, rule), hidden @ outer_w.mT, key, p, rule)
    hidden_errors = (errors @ outer_w) * gelu_derivative(linear)
    hidden_keys = unit(hidden)

    # W2: keys are shared, one system for all memories. W1: each memory has its own hidden keys.
    flat = inner_w.flatten(2, 3)
    update_in = _updates(
        flat, key, hidden_errors.transpose(2, 3).flatten(3), decay, rule.erase, linear.transpose(2, 3).flatten(3)
    )
    each = _Decay(*(d[:, :, None] for d in decay))
    update_out = _updates(outer_w, hidden_keys, errors, each, rule.erase)
    new_inner = _end(flat, key, update_in, decay).unflatten(2, (-1, h))
    new_outer = _end(outer_w, hidden_keys, update_out, each)
    if first:
        new_inner = torch.cat([inner[:, :, :first], new_inner], dim=2)
        new_outer = torch.cat([outer[:, :, :first], new_outer], dim=2)
    if not rule.causal_reads:
        return (new_outer, new_inner), query + forward(query, slice(memories - 1, memories))[:, :, 0]
    middle = gelu(_read(inner[:, :, -1], key, update_in[..., -h:], decay, query))
    return (new_outer, new_inner), query + _read(
        outer[:, :, -1], hidden_keys[:, :, -1], update_out[:, :, -1], decay, middle
    )
