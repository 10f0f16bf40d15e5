"""Self-modifying Titans token by token: the equations, to be held against the paper.

Nothing here is fast. :mod:`nestlearn.memory.chunk` computes the same with the same signatures; the tests
compare the two forward and backward. Equation numbers are those of arXiv 2512.24695.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nestlearn.memory.functional import (
    activate,
    check_inputs,
    fixed_log_retention,
    hidden_features,
    hidden_features_backward,
    initial_state,
    inner_norm,
    inner_norm_backward,
    unit,
    wide,
)
from nestlearn.memory.rule import MAIN, MemoryRule
from nestlearn.memory.schedule import advance, pieces, refresh
from nestlearn.memory.types import MemoryParameters, MemoryState, Streams

Weights = Sequence[Tensor]


class Gates(NamedTuple):
    """Learning rate, retention and momentum of one token, each ``[B, H, 1]`` or ``[B, H, e]``."""

    rate: Tensor
    retention: Tensor
    momentum: Tensor | None


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
        gates = Gates(rate[..., t, None], log_retention[..., t, None].exp(), None)
        weight, _ = _delta(weight, None, keys[..., t, :], gradients[..., t, :], gates, erase)
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
    state = initial_state(parameters, streams, rule) if state is None else state
    check_inputs(streams, parameters, state, rule)
    running, snapshot, momentum, position = state
    token = _Token(parameters, rule)
    start, reads = 0, []
    for piece in pieces(position.tolist(), streams.key.shape[2], rule):
        for t in range(start, start + piece.length):
            x = Streams(*(wide(s[:, :, t]) for s in streams))
            running, momentum, y = token(x, snapshot, running, momentum)
            reads.append(y)
        start += piece.length
        snapshot = refresh(snapshot, running, piece, rule)
        if piece.cut:
            snapshot, running, momentum = (
                tuple(w.detach() for w in g) for g in (snapshot, running, momentum)
            )
    y = torch.stack(reads, dim=2).to(streams.key.dtype)
    return y, MemoryState(running, snapshot, momentum, advance(position, start, rule))


class _Token:
    """One token of one layer."""

    def __init__(self, parameters: MemoryParameters, rule: MemoryRule) -> None:
        self.rule = rule
        self.p = MemoryParameters(
            *(None if part is None else _wide(part) for part in parameters)  # type: ignore[arg-type]
        )
        self.index = {name: i for i, name in enumerate(rule.names)}
        self.base = [w.transpose(0, 1) for w in self.p.weights] if rule.rest == "initial" else None

    def __call__(
        self, x: Streams, snapshot: Weights, running: Weights, momentum: Weights
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Streams ``[B, H, e]``: the new running weights and momentum and the read ``y_t [B, H, e]``."""
        snapshot = self.memories(snapshot)
        # Eq. 83: everything that the write needs comes from the memories themselves.
        k = unit(self.read("key", x.key, snapshot))
        v = self.read("value", x.value, snapshot)
        q = unit(self.read("query", x.query, snapshot))
        gates = self.gates(x, snapshot)
        weights, speeds = [], []
        for name, i in self.index.items():
            at = [w[:, :, i] for w in snapshot]
            error = self.p.write_scale[i][..., None] * self.error(name, k, v, snapshot)
            after = self.write(
                at, [w[:, :, i] for w in running], [w[:, :, i] for w in momentum], k, error, gates
            )
            weights.append([w for w, _ in after])
            speeds.append([s for _, s in after])
        new = tuple(torch.stack(w, dim=2) for w in zip(*weights, strict=True))
        speed = tuple(torch.stack(s, dim=2) for s in zip(*speeds, strict=True)) if momentum else ()
        return new, speed, self.read(MAIN, q, self.memories(new) if self.rule.causal_reads else snapshot)

    def memories(self, fast: Weights) -> Weights:
        """The memories from their fast weights: themselves, or the initial states changed by them."""
        return fast if self.base is None else [b + w for b, w in zip(self.base, fast, strict=True)]

    def read(self, name: str, z: Tensor, weights: Weights) -> Tensor:
        """``M(z)``; a projection that is no memory leaves its stream as it is."""
        if name not in self.index:
            return z
        i = self.index[name]
        out = self.normed(_inner(z, [w[:, :, i] for w in weights], self.rule), i)
        return out if name == MAIN and not self.rule.main_residual else z + out

    def normed(self, out: Tensor, i: int) -> Tensor:
        """The memory's output behind its inner norm, if there is one."""
        return out if self.p.norm is None else inner_norm(out, self.p.norm[0][i], self.p.norm[1][i])

    def gates(self, x: Streams, snapshot: Weights) -> Gates:
        """Learning rate, retention and momentum, read out of their memories (SPEC 6.9)."""
        rule, logits = self.rule, {}
        for g, name in enumerate(rule.gate_names):
            product = self.read(name, x.key, snapshot) * self.p.gate_weight[g]
            logit = product if rule.gates == "channel" else product.sum(-1, keepdim=True)
            logits[name] = logit + self.p.gate_bias[g]
        one = x.key.new_ones(*x.key.shape[:2], 1)
        retention = {"gated": None, "none": one, "fixed": None}[rule.retention]
        if rule.retention == "gated":
            retention = torch.sigmoid(logits["retention"])
        elif rule.retention == "fixed":
            retention = one * fixed_log_retention(x.key.shape[1], x.key).exp()[:, None]
        assert retention is not None
        rate = one
        if rule.rate != "one":
            rate = rule.rate_max * torch.sigmoid(logits["rate"])
        if rule.rate == "bound":
            rate = rate * (1.0 + retention) / 2.0
        return Gates(
            rate,
            retention,
            rule.momentum_max * torch.sigmoid(logits["momentum"]) if rule.momentum else None,
        )

    def error(self, name: str, k: Tensor, v: Tensor, snapshot: Weights) -> Tensor:
        """Gradient of the inner loss by ``f(k)``; every memory generates its own target (Eq. 84, 85)."""
        rule, i = self.rule, self.index[name]
        if name == MAIN:
            own = _inner(v, [w[:, :, i] for w in snapshot], rule)
            target = v + self.normed(own, i) if rule.main_target == "generated" else v
        else:
            target = self.read(name, v, snapshot)
            target = unit(target) if rule.unit_targets else target
        error = self.read(name, k, snapshot) - target if rule.objective == "l2" else -target
        if self.p.norm is None:
            return error
        out = _inner(k, [w[:, :, i] for w in snapshot], rule)
        return inner_norm_backward(out, self.p.norm[0][i], error)

    def write(
        self,
        snapshot: Weights,
        running: Weights,
        momentum: Weights,
        k: Tensor,
        error: Tensor,
        gates: Gates,
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Eq. 88 for each weight of one memory, with its own input and the snapshot's gradient."""
        rule = self.rule
        speed: Sequence[Tensor | None] = momentum or [None] * len(running)
        if len(snapshot) == 1:
            return [_delta(running[0], speed[0], k, error, gates, rule.erase != "none")]
        a = _apply(snapshot[1], k)
        hidden_error = hidden_features_backward(a, _apply(snapshot[0].mT, error), rule)
        phi = hidden_features(a, rule)
        if rule.features == "plain" and rule.erase == "layers":
            phi = unit(activate(a, rule.activation))
        return [
            _delta(running[0], speed[0], phi, error, gates, rule.erase == "layers"),
            _delta(running[1], speed[1], k, hidden_error, gates, rule.erase != "none"),
        ]


def _inner(z: Tensor, weights: Weights, rule: MemoryRule) -> Tensor:
    """``W z`` or ``W1 phi(W2 z)`` (Eq. 89 without its input)."""
    if len(weights) == 1:
        return _apply(weights[0], z)
    return _apply(weights[0], hidden_features(_apply(weights[1], z), rule))


def _delta(
    weight: Tensor, momentum: Tensor | None, k: Tensor, g: Tensor, gates: Gates, erase: bool
) -> tuple[Tensor, Tensor | None]:
    """``W (alpha I - eta k k^T) - eta g k^T`` (Eq. 88), or with ``S`` for the last term."""
    columns = gates.rate * k  # per channel: eta * k, element by element
    kept = gates.retention[..., None, :] * weight
    if erase:
        kept = kept - _apply(weight, k)[..., :, None] * columns[..., None, :]
    step = g[..., :, None] * columns[..., None, :]
    if momentum is None:
        return kept - step, None
    assert gates.momentum is not None
    momentum = gates.momentum[..., None] * momentum - step
    return kept + momentum, momentum


def _apply(weight: Tensor, z: Tensor) -> Tensor:
    """``W z`` for ``[..., o, i]`` and ``[..., i]``."""
    return (weight * z[..., None, :]).sum(-1)


def _wide(part: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return wide(part) if isinstance(part, Tensor) else tuple(wide(t) for t in part)


__all__ = ["delta_write", "self_modifying"]
