"""One chunk of a layer's memories: targets, gradients, writes and reads. Tokens are columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nestlearn.memory.bricks import features_backward, features_with_slope, unit_columns
from nestlearn.memory.decay import HeadDecay
from nestlearn.memory.functional import (
    activate,
    hidden_features_backward,
    inner_norm_backward,
    unit,
)
from nestlearn.memory.stack import Layer, Projected, Weights, project, shared
from nestlearn.memory.types import Streams
from nestlearn.memory.write import Change, write


class Fast(NamedTuple):
    """The fast weights of one layer, each ``[N, M, o, i]``, as in a memory's state."""

    running: Weights
    snapshot: Weights
    momentum: Weights

    @property
    def at_boundary(self) -> bool:
        """Whether the weights are their own snapshots (told by a tensor: graphs cannot compare tuples)."""
        return self.running[0] is self.snapshot[0]


def step(x: Streams, fast: Fast, layer: Layer) -> tuple[Weights, Weights, Tensor]:
    """Write and read one chunk, or a part of one (Eq. 83 to 93).

    Args:
        x: Streams ``[N, e, C]``.
        fast: State before the first token.
        layer: The layer.

    Returns:
        Running weights and momentum after the last token, and the reads ``[N, e, C]``.
    """
    memories = layer.memories(fast.snapshot)
    # Products with the running weights are known where these are the memories that made the gradients.
    shared_state = layer.base is None and fast.at_boundary
    projected = project(x, memories, layer)
    apply = _matrix if layer.rule.kind == "matrix" else _mlp
    return apply(projected, fast, memories, layer, shared_state)


def _surprise(p: Projected, outputs: Tensor | None, layer: Layer) -> Tensor:
    """Negative gradient of the inner loss by ``f(k)`` of every memory, ``[N, M, e, C]`` (Eq. 84, 85).

    Args:
        p: Keys, values and the memories' own targets.
        outputs: ``f(k)`` at the snapshot, ``[N, M, e, C]``; None where neither loss nor norm reads it.
        layer: The layer.
    """
    rule, main = layer.rule, p.value[:, None]
    targets = list(p.targets)
    if rule.main_target == "generated":
        main = targets.pop()
    if rule.unit_targets:
        targets = [unit_columns(target) for target in targets]
    count = len(rule.names) - 1
    target = torch.cat([*targets, main], dim=1) if targets else main
    if rule.objective == "l2":
        assert outputs is not None
        read = layer.normed(outputs, 0, None)
        if rule.main_residual:
            target = target - p.key[:, None] - read
        else:
            adds = torch.cat([p.key[:, None].expand(-1, count, -1, -1), torch.zeros_like(main)], dim=1)
            target = target - adds - read
    if layer.norm is not None:
        assert outputs is not None
        target = inner_norm_backward(outputs, layer.norm[0], target, dim=-2)
    return layer.scale * target


def _matrix(
    p: Projected, fast: Fast, memories: Weights, layer: Layer, same: bool
) -> tuple[Weights, Weights, Tensor]:
    """Matrix memories ``[N, M, e, e]``: one system for all, as they share the key."""
    rule, (running,), erase = layer.rule, fast.running, layer.rule.erase != "none"
    needed = rule.objective == "l2" or layer.norm is not None
    outputs = shared(memories[0], p.key) if needed or (same and erase) else None
    surprise = _surprise(p, outputs, layer).flatten(1, 2)
    flat, momentum = running.flatten(1, 2), _flat(fast.momentum[0] if rule.momentum else None)
    known = outputs.flatten(1, 2) if same and outputs is not None else None
    change = write(flat, momentum, p.key, surprise, p.decay, erase, known)
    if rule.causal_reads:
        rows = -p.key.shape[1]
        read = change.rows(rows).read(
            flat[:, rows:], None if momentum is None else momentum[:, rows:], p.query
        )
        if layer.base_main is not None:
            read = read + layer.base_main[0] @ p.query
    else:
        read = memories[0][:, -1] @ p.query
    after, speed = change.end(flat, momentum)
    sizes = running.shape[1:3]
    speeds = () if speed is None else (speed.unflatten(1, sizes),)
    return (after.unflatten(1, sizes),), speeds, _finish(read, p.query, layer)


def _mlp(
    p: Projected, fast: Fast, memories: Weights, layer: Layer, same: bool
) -> tuple[Weights, Weights, Tensor]:
    """MLP memories ``([N, M, e, h], [N, M, h, e])``: W2 shares the key, in W1 each has its own."""
    rule, (outer, inner), layers = layer.rule, fast.running, layer.rule.erase == "layers"
    assert isinstance(p.decay, HeadDecay)
    linear = shared(memories[1], p.key)
    phi, key, back = _hidden(linear, layer)
    needed = rule.objective == "l2" or layer.norm is not None
    outputs = memories[0] @ phi if needed or (same and layers and key is phi) else None
    surprise = _surprise(p, outputs, layer)
    hidden = back(memories[0].mT @ surprise).flatten(1, 2)

    flat, sizes = inner.flatten(1, 2), inner.shape[1:3]
    speed_out, speed_in = fast.momentum if rule.momentum else (None, None)
    known = linear.flatten(1, 2) if same else None
    change_in = write(flat, _flat(speed_in), p.key, hidden, p.decay, rule.erase != "none", known)
    known = outputs if same and key is phi else None
    change_out = write(outer, speed_out, key, surprise, p.decay.each(), layers, known)
    if rule.causal_reads:
        read = _mlp_read(p, change_in, change_out, fast, layer)
    else:
        read = layer.outputs(p.query, tuple(w[:, -1:] for w in memories))[:, 0]
    new_inner, speed_in = change_in.end(flat, _flat(speed_in))
    new_outer, speed_out = change_out.end(outer, speed_out)
    speeds: Weights = ()
    if speed_in is not None and speed_out is not None:
        speeds = (speed_out, speed_in.unflatten(1, sizes))
    return (new_outer, new_inner.unflatten(1, sizes)), speeds, _finish(read, p.query, layer)


def _hidden(linear: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Features at the key, the input that W1 is written with, and the gradient's way back through them."""
    rule = layer.rule
    if rule.features == "bounded":
        phi, scale, slope = features_with_slope(linear, rule.activation)
        return phi, phi, lambda gradient: features_backward(phi, scale, slope, gradient)
    phi = activate(linear, rule.activation)
    key = unit(phi, dim=-2) if rule.erase == "layers" else phi
    return phi, key, lambda gradient: hidden_features_backward(linear, gradient, rule, -2)


def _mlp_read(p: Projected, change_in: Change, change_out: Change, fast: Fast, layer: Layer) -> Tensor:
    """``f(q)`` of the main memory at the running state, ``[N, e, C]``."""
    outer, inner = (w[:, -1] for w in fast.running)
    speed_out, speed_in = (w[:, -1] for w in fast.momentum) if fast.momentum else (None, None)
    linear = change_in.rows(-inner.shape[1]).read(inner, speed_in, p.query)
    if layer.base_main is not None:
        linear = linear + layer.base_main[1] @ p.query
    middle = layer.features(linear)
    read = change_out.memory(-1, p.decay).read(outer, speed_out, middle)
    return read if layer.base_main is None else read + layer.base_main[0] @ middle


def _finish(read: Tensor, query: Tensor, layer: Layer) -> Tensor:
    """The main memory's output from ``f(q)``: inner norm and its input."""
    read = layer.normed(read[:, None], -1, None)[:, 0]
    return query + read if layer.rule.main_residual else read


def _flat(weights: Tensor | None) -> Tensor | None:
    """``[N, M, o, i]`` as ``[N, M o, i]``."""
    return None if weights is None else weights.flatten(1, 2)


__all__ = ["Fast", "step"]
