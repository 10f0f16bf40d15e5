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
import torch.nn.functional as F
from torch import Tensor

from nestlearn.memory.functional import (
    check_inputs,
    hidden_features,
    hidden_features_backward,
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
    before = F.pad(until[..., :-1], (1, 0))
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
    update = _updates(keys, gradients, keys @ weight.mT, decay, erase)
    reads = None if queries is None else _read(weight, keys, update, decay, queries)
    return _end(weight, keys, update, decay), reads


def _updates(keys: Tensor, gradients: Tensor, outputs: Tensor, decay: _Decay, erase: bool) -> Tensor:
    """``u_t`` of every token, ``[..., C, o]``; ``outputs`` is ``K W_0^T``."""
    if not erase:
        return -gradients
    right = -torch.addcmul(gradients, decay.before, outputs)
    # The diagonal is not read: unitriangular.
    system = decay.strict * (keys @ keys.mT)
    # In float32 at least: the solve has no kernel for shorter types on every device.
    wide = torch.promote_types(right.dtype, torch.float32)
    update: Tensor = torch.linalg.solve_triangular(
        system.to(wide), right.to(wide), upper=False, unitriangular=True
    )
    return update.to(right.dtype)


def _read(weight: Tensor, keys: Tensor, update: Tensor, decay: _Decay, queries: Tensor) -> Tensor:
    """``W_t q_t`` of every token, ``[..., C, o]``."""
    return torch.addcmul((decay.inclusive * (queries @ keys.mT)) @ update, decay.until, queries @ weight.mT)


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
    batch, heads = streams.key.shape[:2]
    # Batch and heads are one axis N inside the loop: fewer and larger products, no transposes.
    weights = tuple(w.flatten(0, 1) for w in state.weights)
    gates = _Gates.of(parameters, batch)
    step = _mlp_chunk if rule.kind == "mlp" else _matrix_chunk
    reads, pending = [], Streams(*(s[:, :, :0].clone() for s in streams))
    for piece in zip(*(s.flatten(0, 1).split(rule.chunk_size, dim=1) for s in streams), strict=True):
        x = Streams(*piece)
        after, y = step(x, weights, gates, rule)
        reads.append(y)
        if x.key.shape[1] == rule.chunk_size:
            weights = after
        else:
            # Copies: a view would keep the whole piece alive with the session.
            pending = Streams(*(s.unflatten(0, (batch, heads)).clone() for s in x))
    y = torch.cat(reads, dim=1)[:, -new:].unflatten(0, (batch, heads))
    return y, MemoryState(tuple(w.unflatten(0, (batch, heads)) for w in weights), pending)


class _Gates(NamedTuple):
    """Gate parameters and write scales, repeated for every sample."""

    weight: Tensor  # [N, 2, e]
    bias: Tensor  # [N, 1, 2]
    scale: Tensor  # [N, 1, M, 1]

    @classmethod
    def of(cls, p: MemoryParameters, batch: int) -> _Gates:
        """Lay the layer's parameters out for ``batch`` samples."""
        return cls(
            p.gate_weight.transpose(0, 1).repeat(batch, 1, 1),
            p.gate_bias.mT.repeat(batch, 1)[:, None],
            p.write_scale.mT.repeat(batch, 1)[:, None, :, None],
        )

    def decay(self, logits: Tensor, rule: MemoryRule) -> _Decay:
        """Learning rate and retention from their memories' read-out ``[N, C, 2]`` (SPEC 6.9)."""
        rate, retention = (logits + self.bias).unbind(-1)
        return _decay(rule.rate_max * torch.sigmoid(rate), F.logsigmoid(retention))


def _gradients(
    own: Tensor, outputs: Tensor, key: Tensor, value: Tensor, gates: _Gates, rule: MemoryRule
) -> Tensor:
    """Gradient of the inner loss by the output of each written memory, ``[N, C, M, e]`` (Eq. 84, 85).

    Args:
        own: ``f(v)`` of the memories that generate a target, ``[N, C, M or M - 1, e]``.
        outputs: ``f(k)`` of the written memories, ``[N, C, M, e]``.
        key: ``[N, C, e]``.
        value: ``[N, C, e]``.
        gates: Write scales.
        rule: Objective and targets.
    """
    value = value[:, :, None]
    count, projections = outputs.shape[2], outputs.shape[2] - 1
    scale = gates.scale[:, :, -count:]
    if rule.main_target == "generated":
        own, main = own.split([projections, 1], dim=2)
        main = value + main
    else:
        main = value
    target = own + value
    if rule.unit_targets:
        target = unit(target)
    target = torch.cat([target, main], dim=2) if projections else main
    if rule.objective == "dot":
        return -scale * target
    if rule.main_adds_input:
        return scale * (outputs + key[:, :, None] - target)
    if projections:
        return scale * (
            outputs + F.pad(key[:, :, None].expand(-1, -1, projections, -1), (0, 0, 0, 1)) - target
        )
    return scale * (outputs - target)


def _matrix_chunk(
    x: Streams, weights: tuple[Tensor, ...], gates: _Gates, rule: MemoryRule
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One chunk of matrix memories ``([N, M, e, e],)``: new weights and reads ``[N, C, e]``."""
    weight = weights[0].flatten(1, 2)  # [N, M e, e]
    e = weight.shape[-1]
    parts = weight.split(e, dim=1)  # one split: its backward is one concatenation
    # The gates read M_eta(x) and M_alpha(x) through one vector each: fold it into the matrices.
    rate, retention = gates.weight.split(1, dim=1)
    folded = [rate + rate @ parts[2], retention + retention @ parts[3]]
    read, logits = (x.key @ torch.cat([parts[0], *folded], dim=1).mT).split([e, 2], dim=-1)
    key, decay = unit(x.key + read), gates.decay(logits, rule)
    value = torch.baddbmm(x.value, x.value, parts[1].mT)
    query = unit(torch.baddbmm(x.query, x.query, parts[4].mT) if rule.adaptive_query else x.query)

    split = len(parts) - 1
    projections, main = weight.split([split * e, e], dim=1)
    written = weight if rule.adaptive else main
    generating = (
        written if rule.main_target == "generated" else (projections if rule.adaptive else main[:, :0])
    )
    outputs = key @ written.mT
    gradients = _gradients(
        (value @ generating.mT).unflatten(-1, (-1, e)),
        outputs.unflatten(-1, (-1, e)),
        key,
        value,
        gates,
        rule,
    ).flatten(2)
    update = _updates(key, gradients, outputs, decay, rule.erase)
    after = _end(written, key, update, decay)
    if not rule.adaptive:
        after = torch.cat([projections, after], dim=1)
    reads = _read(main, key, update[..., -e:], decay, query) if rule.causal_reads else query @ main.mT
    return (after.unflatten(1, (-1, e)),), reads


def _mlp_chunk(
    x: Streams, weights: tuple[Tensor, ...], gates: _Gates, rule: MemoryRule
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One chunk of MLP memories ``([N, M, e, h], [N, M, h, e])``: new weights and reads ``[N, C, e]``."""
    outer, inner = weights
    h = inner.shape[2]
    outers, inners = outer.unbind(1), inner.unbind(1)

    def read(z: Tensor, memory: int) -> Tensor:
        return torch.baddbmm(z, hidden_features(z @ inners[memory].mT), outers[memory].mT)

    rate, retention = gates.weight.split(1, dim=1)
    linear = x.key @ torch.cat([inners[0], inners[2], inners[3]], dim=1).mT
    hidden = hidden_features(linear.unflatten(-1, (3, h))).unbind(-2)
    logits = x.key @ gates.weight.mT + torch.cat(
        [hidden[1] @ (rate @ outers[2]).mT, hidden[2] @ (retention @ outers[3]).mT], dim=-1
    )
    key, decay = unit(torch.baddbmm(x.key, hidden[0], outers[0].mT)), gates.decay(logits, rule)
    value = read(x.value, 1)
    query = unit(read(x.query, 4) if rule.adaptive_query else x.query)

    kept = 0 if rule.adaptive else len(outers) - 1
    w1, w2 = (outer, inner) if rule.adaptive else (outer[:, kept:], inner[:, kept:])
    flat = w2.flatten(1, 2)  # [N, M h, e]
    linear = key @ flat.mT  # [N, C, M h]
    linear_each = linear.unflatten(-1, (-1, h)).transpose(1, 2)  # [N, M, C, h]
    hidden_key = hidden_features(linear_each)
    outputs = hidden_key @ w1.mT  # [N, M, C, e]
    hidden_value = hidden_features((value @ flat.mT).unflatten(-1, (-1, h)).transpose(1, 2))
    own = (hidden_value @ w1.mT).transpose(1, 2)
    if rule.main_target == "value":
        own = own[:, :, :-1]
    errors = _gradients(own, outputs.transpose(1, 2), key, value, gates, rule).transpose(1, 2)
    back = hidden_features_backward(linear_each, errors @ w1).transpose(1, 2).flatten(2)

    # W2 shares the key: one system for all memories. In W1 each memory has hidden keys of its own.
    each = _Decay(*(d[:, None] for d in decay))
    update_in = _updates(key, back, linear, decay, rule.erase)
    update_out = _updates(hidden_key, errors, outputs, each, rule.erase)
    new_inner = _end(flat, key, update_in, decay).unflatten(1, (-1, h))
    new_outer = _end(w1, hidden_key, update_out, each)
    if kept:
        new_inner = torch.cat([inner[:, :kept], new_inner], dim=1)
        new_outer = torch.cat([outer[:, :kept], new_outer], dim=1)
    if not rule.causal_reads:
        return (new_outer, new_inner), read(query, -1)
    middle = hidden_features(_read(inners[-1], key, update_in[..., -h:], decay, query))
    last = _read(outers[-1], hidden_key[:, -1], update_out[:, -1], decay, middle)
    return (new_outer, new_inner), query + last
