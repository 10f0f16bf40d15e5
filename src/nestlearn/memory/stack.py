"""The memories of one layer as stacks of weights, and their reads. Tokens are columns, ``[N, channels, C]``."""

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
        fixed: ``log alpha`` of fixed retention, ``[N, 1, 1]``.
    """

    rule: MemoryRule
    gate_weight: Tensor
    gate_bias: Tensor
    scale: Tensor
    norm: tuple[Tensor, Tensor] | None
    base: Weights | None
    fixed: Tensor

    @classmethod
    def of(cls, p: MemoryParameters, rule: MemoryRule, batch: int) -> Layer:
        """Lay the parameters out for ``batch`` samples."""

        def each(part: Tensor) -> Tensor:
            return wide(part).transpose(0, 1).repeat(batch, *[1] * (part.dim() - 1))

        return cls(
            rule,
            each(p.gate_weight)[..., None],
            each(p.gate_bias)[..., None],
            each(p.write_scale)[..., None, None],
            None if p.norm is None else (each(p.norm[0])[..., None], each(p.norm[1])[..., None]),
            tuple(each(w) for w in p.weights) if rule.rest == "initial" else None,
            fixed_log_retention(p.write_scale.shape[1], wide(p.write_scale)).repeat(batch)[:, None, None],
        )

    def memories(self, fast: Weights) -> Weights:
        """The memories from their fast weights."""
        return fast if self.base is None else tuple(b + w for b, w in zip(self.base, fast, strict=True))

    def outputs(self, z: Tensor, weights: Weights, start: int, stop: int | None) -> Tensor:
        """``f(z)`` of the memories from ``start`` to ``stop``, ``[N, m, e, C]``, before their inner norm."""
        first = weights[-1][:, start:stop]
        linear = shared(first, z)
        if len(weights) == 1:
            return linear
        return weights[0][:, start:stop] @ self.features(linear)

    def features(self, linear: Tensor) -> Tensor:
        """``phi`` of every column."""
        if self.rule.features == "bounded":
            return features(linear, self.rule.activation)
        return hidden_features(linear, self.rule, -2)

    def normed(self, out: Tensor, start: int, stop: int | None) -> Tensor:
        """The memories' outputs behind their inner norms, if there are any."""
        if self.norm is None:
            return out
        return inner_norm(out, *(n[:, start:stop] for n in self.norm), dim=-2)

    def read(self, z: Tensor, weights: Weights, start: int, stop: int | None) -> Tensor:
        """``z + f(z)`` of the memories from ``start`` to ``stop``, ``[N, m, e, C]``."""
        return z[:, None] + self.normed(self.outputs(z, weights, start, stop), start, stop)


class Projected(NamedTuple):
    """What the memories are written with: key, value and query ``[N, e, C]`` and the gates."""

    key: Tensor
    value: Tensor
    query: Tensor
    decay: Decay


def shared(weights: Tensor, z: Tensor) -> Tensor:
    """``W z`` of stacked weights ``[N, m, o, i]`` with one input ``[N, i, C]``: ``[N, m, o, C]``."""
    return (weights.flatten(1, 2) @ z).unflatten(1, weights.shape[1:3])


def project(x: Streams, snapshot: Weights, layer: Layer) -> Projected:
    """Keys, values, queries and gates from the memories themselves (Eq. 83).

    Args:
        x: Streams ``[N, e, C]``.
        snapshot: The memories at their chunks' starts.
        layer: The layer.
    """
    rule, names = layer.rule, layer.rule.names
    readers = [name for name in ("key", "rate", "retention") if name in names]
    read = dict.fromkeys(("key", "rate", "retention", "momentum"), x.key)
    if readers:
        outputs = layer.read(x.key, snapshot, 0, len(readers))
        read.update(zip(readers, outputs.unbind(1), strict=True))
    value, query = x.value, x.query
    if "value" in names:
        i = names.index("value")
        value = layer.read(value, snapshot, i, i + 1)[:, 0]
    if "query" in names:
        i = names.index("query")
        query = layer.read(query, snapshot, i, i + 1)[:, 0]
    logits = {}
    for g, name in enumerate(rule.gate_names):
        product = read[name] * layer.gate_weight[:, g]
        logits[name] = layer.gate_bias[:, g] + (
            product if rule.gates == "channel" else product.sum(-2, keepdim=True)
        )
    return Projected(unit_columns(read["key"]), value, unit_columns(query), _decay(logits, x.key, layer))


def _decay(logits: dict[str, Tensor], like: Tensor, layer: Layer) -> Decay:
    """Learning rate, retention and momentum from their logits (SPEC 6.9)."""
    rule = layer.rule
    one = like.new_ones(like.shape[0], 1, like.shape[2])
    rate = rule.rate_max * torch.sigmoid(logits["rate"]) if rule.rate == "gated" else one
    if rule.retention == "gated":
        log_retention = F.logsigmoid(logits["retention"])
    else:
        log_retention = one * (layer.fixed if rule.retention == "fixed" else 0.0)
    if rule.gates == "channel":
        return ChannelDecay(rate, log_retention)
    log_momentum = None
    if rule.momentum:
        log_momentum = F.logsigmoid(logits["momentum"]) + torch.log(one.new_tensor(rule.momentum_max))
    return HeadDecay(rate, log_retention, log_momentum)


__all__ = ["Layer", "Projected", "Weights", "project", "shared"]
