"""Self-modifying Titans in one compiled function: the twin of :mod:`nestlearn.memory.chunk` on processors.

The same equations for the rules that Hope uses by default. Only states at chunks' starts are kept for the
backward pass, every one or every ``rule.checkpoint_chunks``-th.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nestlearn.memory import native
from nestlearn.memory.functional import fixed_log_retention, wide
from nestlearn.memory.rule import PROJECTIONS, MemoryRule
from nestlearn.memory.schedule import advance
from nestlearn.memory.types import MemoryParameters, MemoryState, Streams

#: Widths must be multiples of this.
_LANES = 16
#: What the compiled form knows.
_KNOWN: dict[str, tuple[object, ...]] = {
    "inner_norm": (False,),
    "main_residual": (False,),
    "objective": ("dot",),
    "causal_reads": (True,),
    "unit_targets": (True,),
    "main_target": ("value",),
    "momentum": (False,),
    "rate": ("bound", "gated"),
    "retention": ("gated", "fixed", "none"),
    "gates": ("head",),
    "backprop_chunks": (None,),
}
#: The same by kind of memory.
_KNOWN_OF: dict[str, dict[str, tuple[object, ...]]] = {
    "mlp": {"activation": ("silu",), "features": ("bounded",), "erase": ("layers",)},
    "matrix": {"erase": ("layers", "input")},
}


class _Memories(Function):
    """Reads and states of :func:`run`; the first two arguments are what is no tensor."""

    @staticmethod
    def forward(ctx: Any, settings: tuple[Any, ...], keep: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        *results, saved = torch.ops.nestlearn.self_modifying_forward(tensors, *settings, keep)
        ctx.settings = settings
        ctx.save_for_backward(saved, *tensors)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, *tensors = ctx.saved_tensors
        given = [gradient.contiguous() for gradient in gradients]
        by = torch.ops.nestlearn.self_modifying_backward(tensors, saved, given, *ctx.settings)
        return (None, None, *by)


def supports(streams: Streams, state: MemoryState, parameters: MemoryParameters, rule: MemoryRule) -> bool:
    """Whether :func:`run` can compute this.

    Args:
        streams: ``[B, H, T, e]``.
        state: Checked already.
        parameters: The layer's.
        rule: How the memories are written.
    """
    if torch.compiler.is_compiling():
        return False
    ages = state.position.tolist()
    widths = parameters.weights[0].shape[-2:]
    return (
        streams.key.device.type == "cpu"
        and all(getattr(rule, name) in known for name, known in (_KNOWN | _KNOWN_OF[rule.kind]).items())
        and parameters.norm is None
        and "query" not in rule.adaptive
        and rule.chunk_sizes[0] == rule.chunk_sizes[1]
        and len(set(ages)) == 1
        and streams.key.shape[2] > 0
        and not any(width % _LANES for width in widths)
        and native.available()
    )


def run(
    streams: Streams, parameters: MemoryParameters, state: MemoryState, rule: MemoryRule
) -> tuple[Tensor, MemoryState]:
    """Reads ``[B, H, T, e]`` and the state after the last token (Eq. 83 to 93).

    The same as :func:`nestlearn.memory.chunk.self_modifying`, which calls this where it can.

    Args:
        streams: Inputs of the memories, each ``[B, H, T, e]``.
        parameters: Initial states, gates and write scales.
        state: State before the first token.
        rule: One that :func:`supports` accepts.
    """
    batch, heads, length, _ = streams.key.shape
    position = int(state.position[0])
    base = [wide(w).contiguous() for w in parameters.weights]
    if rule.rest == "zero":
        base = [w.new_empty(0) for w in base]
    running = [w.flatten(0, 1).contiguous() for w in state.weights]
    # At a boundary every memory has a new snapshot: the running weights.
    held = (
        [w.flatten(0, 1).contiguous() for w in state.snapshot] if position else [w.detach() for w in running]
    )
    weights = [base, running, held]
    if rule.kind == "matrix":
        weights = [[w[0].new_empty(0), *w] for w in weights]
    tensors = [
        *(_columns(wide(s)) for s in streams),
        *(part for group in weights for part in group),
        *_gates(parameters, rule),
        wide(parameters.write_scale).contiguous(),
    ]
    places = [rule.names.index(name) if name in rule.names else -1 for name in PROJECTIONS]
    settings = (
        places,
        rule.rate == "bound",
        rule.retention == "gated",
        rule.rate_max,
        position,
        rule.chunk_size,
        max(1, rule.checkpoint_chunks),
    )
    # Known here only: inside of a function there is never a graph.
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    with torch.autocast(streams.key.device.type, enabled=False):
        y, *states = _Memories.apply(settings, keep, *tensors)  # type: ignore[no-untyped-call]
    y = y.transpose(1, 2).to(streams.key.dtype)
    after, before = (
        [w.unflatten(0, (batch, heads)) for w in pair if w.numel()] for pair in (states[:2], states[2:])
    )
    written = tuple(after)
    boundary = (position + length) % rule.chunk_size == 0
    snapshot = written if boundary else tuple(before) or state.snapshot
    return y, MemoryState(written, snapshot, (), advance(state.position, length, rule))


def _gates(parameters: MemoryParameters, rule: MemoryRule) -> tuple[Tensor, Tensor]:
    """Read-outs ``[2, H, e]`` and biases ``[2, H]`` of rate and retention.

    Where retention is not gated, its bias is the logarithm itself.
    """
    weight, bias = wide(parameters.gate_weight), wide(parameters.gate_bias)[..., 0]
    if rule.retention != "gated":
        fixed = (
            fixed_log_retention(bias.shape[1], bias)
            if rule.retention == "fixed"
            else torch.zeros_like(bias[0])
        )
        weight = torch.cat([weight, torch.zeros_like(weight)])
        bias = torch.cat([bias, fixed[None]])
    return weight.contiguous(), bias.contiguous()


def _columns(stream: Tensor) -> Tensor:
    """``[B, H, T, e]`` as ``[B, H, e, T]`` with tokens side by side, as the convolution leaves them."""
    columns = stream.mT
    return columns if columns.stride(-1) == 1 or columns.shape[-1] == 1 else columns.contiguous()


__all__ = ["run", "supports"]
