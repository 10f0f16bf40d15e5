"""The memories of one layer as stacks of weights, and their reads. Tokens are columns ``[N, i, C]``."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.memory.bricks import features, unit_columns
from nestlearn.memory.decay import ChannelDecay, Decay, HeadDecay
from nestlearn.memory.functional import fixed_log_retention, hidden_features, inner_norm, wide
from nestlearn.memory.rule import MemoryRule
from nestlearn.memory.types import MemoryParameters, Streams

Weights = tuple[Tensor, ...]


class Layer(NamedTuple):
    """A layer's parameters, laid out for every sample and head.

    Attributes:
        rule: How the memories are written.
        gate_weight: ``[N, G, e, 1]``.
        gate_bias: ``[N, G, 1 or e, 1]``.
        scale: ``[N, M, 1, 1]``.
        norm: Scale and shift of the inner norm, each ``[N, M, e, 1]``, or None.
        base: The memories' initial states ``[N, M, o, i]``, to which fast weights are added; None if these
            are the memories.
        base_main: The main memory's part of ``base``, ``[N, o, i]``.
        fixed: ``log alpha`` of fixed retention, ``[N, 1, 1]``.
    """

    rule: MemoryRule
    gate_weight: Tensor
    gate_bias: Tensor
    scale: Tensor
    norm: tuple[Tensor, Tensor] | None
    base: Weights | None
    base_main: Weights | None
    fixed: Tensor

    @classmethod
    def of(cls, p: MemoryParameters, rule: MemoryRule, batch: int) -> Layer:
        """Lay the parameters out for ``batch`` samples."""

        def each(part: Tensor) -> Tensor:
            return wide(part).transpose(0, 1).repeat(batch, *[1] * (part.dim() - 1))

        base = tuple(each(w) for w in p.weights) if rule.rest == "initial" else None
        return cls(
            rule,
            each(p.gate_weight)[..., None],
            each(p.gate_bias)[..., None],
            each(p.write_scale)[..., None, None],
            None if p.norm is None else (each(p.norm[0])[..., None], each(p.norm[1])[..., None]),
            base,
            None if base is None else tuple(w[:, -1] for w in base),
            fixed_log_retention(p.write_scale.shape[1], wide(p.write_scale)).repeat(batch)[:, None, None],
        )

    def memories(self, fast: Weights) -> Weights:
        """The memories from their fast weights."""
        return fast if self.base is None else tuple(b + w for b, w in zip(self.base, fast, strict=True))

    def outputs(self, z: Tensor, weights: Weights) -> Tensor:
        """``f(z)`` of some memories, ``[N, m, e, C]``, before their inner norm."""
        linear = shared(weights[-1], z)
        return linear if len(weights) == 1 else weights[0] @ self.features(linear)

    def features(self, linear: Tensor) -> Tensor:
        """``phi`` of every column."""
        if self.rule.features == "bounded":
            return features(linear, self.rule.activation)
        return hidden_features(linear, self.rule, -2)

    def normed(self, out: Tensor, start: int, stop: int | None) -> Tensor:
        """Outputs of the memories from ``start`` to ``stop`` behind their inner norms, if there are any."""
        if self.norm is None:
            return out
        scale, shift = self.norm
        return inner_norm(out, scale[:, start:stop], shift[:, start:stop], -2)


class Projected(NamedTuple):
    """What the memories are written with. Tensors are ``[N, e, C]``.

    Attributes:
        key: Unit length.
        value: What the main memory stores.
        query: Unit length.
        decay: Gates.
        targets: ``M(v)`` of the projection memories, and of the main memory if it generates its target, in
            stacking order, ``[N, m, e, C]`` each.
    """

    key: Tensor
    value: Tensor
    query: Tensor
    decay: Decay
    targets: list[Tensor]


def shared(weights: Tensor, z: Tensor) -> Tensor:
    """``W z`` of stacked weights ``[N, m, o, i]`` with one input ``[N, i, C]``: ``[N, m, o, C]``."""
    out: Tensor = (weights.flatten(1, 2) @ z).unflatten(1, weights.shape[1:3])
    return out


def project(x: Streams, memories: Weights, layer: Layer) -> Projected:
    """Keys, values, queries and gates from the memories themselves (Eq. 83), and own targets (Eq. 84).

    Args:
        x: Streams ``[N, e, C]``.
        memories: The memories at their chunks' starts, ``[N, M, o, i]``.
        layer: The layer.
    """
    names = layer.rule.names
    readers = [name for name in ("key", "rate", "retention") if name in names]
    groups = ["readers", *(name for name in names if name not in readers)]
    # Divided once: the gradients of slices would each be as large as the whole stack.
    parts = (w.split([len(readers)] + [1] * (len(groups) - 1), dim=1) for w in memories)
    apart = dict(zip(groups, zip(*parts, strict=True), strict=True))

    def read(name: str, z: Tensor) -> Tensor:
        start = 0 if name == "readers" else names.index(name)
        out = layer.outputs(z, apart[name])
        return z[:, None] + layer.normed(out, start, start + out.shape[1])

    width, targets = x.key.shape[-1], []
    value = read("value", x.value)[:, 0] if "value" in names else x.value
    at = dict.fromkeys(("key", "rate", "retention", "momentum"), x.key)
    if readers:
        # One product for both reads: at the key stream, and at the value for the memories' own targets.
        keys, own = read("readers", torch.cat([x.key, value], dim=-1)).split(width, dim=-1)
        at.update(zip(readers, keys.unbind(1), strict=True))
        targets.append(own)
    if "value" in names:
        targets.append(read("value", value))
    query = x.query
    if "query" in names:
        queries, own = read("query", torch.cat([x.query, value], dim=-1)).split(width, dim=-1)
        query = queries[:, 0]
        targets.append(own)
    if layer.rule.main_target == "generated":
        targets.append(read("main", value))
    decay = _decay(at, x.key, layer)
    return Projected(unit_columns(at["key"]), value, unit_columns(query), decay, targets)


def _decay(read: dict[str, Tensor], like: Tensor, layer: Layer) -> Decay:
    """Learning rate, retention and momentum from their memories' reads (SPEC 6.9)."""
    rule, logits = layer.rule, {}
    for g, name in enumerate(rule.gate_names):
        weight, bias = layer.gate_weight[:, g], layer.gate_bias[:, g]
        logits[name] = bias + (read[name] * weight if rule.gates == "channel" else weight.mT @ read[name])
    one = like.new_ones(like.shape[0], 1, like.shape[2])
    if rule.retention == "gated":
        log_retention = F.logsigmoid(logits["retention"])
    else:
        log_retention = one * (layer.fixed if rule.retention == "fixed" else 0.0)
    rate = one if rule.rate == "one" else rule.rate_max * torch.sigmoid(logits["rate"])
    if rule.rate == "bound":
        rate = rate * (1.0 + log_retention.exp()) / 2.0
    if rule.gates == "channel":
        return ChannelDecay(rate, log_retention)
    log_momentum = None
    if rule.momentum:
        log_momentum = F.logsigmoid(logits["momentum"]) + torch.log(one.new_tensor(rule.momentum_max))
    return HeadDecay(rate, log_retention, log_momentum)


__all__ = ["Layer", "Projected", "Weights", "project", "shared"]
