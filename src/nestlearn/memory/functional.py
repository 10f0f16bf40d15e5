"""Small maps and checks that both twins use. They work along ``dim``: -1 for rows, -2 for columns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.memory.rule import Activation, MemoryRule
from nestlearn.memory.types import MemoryParameters, MemoryState, Streams

UNIT_EPS = 1e-6
NORM_EPS = 1e-6
_SQRT_2_OVER_PI = 0.7978845608028654
_CUBIC = 0.044715


def unit(x: Tensor, eps: float = UNIT_EPS, dim: int = -1) -> Tensor:
    """``x`` scaled to length one along an axis; a zero vector stays zero and has a gradient."""
    return x * torch.rsqrt(x.square().sum(dim, keepdim=True) + eps)


def activate(x: Tensor, kind: Activation) -> Tensor:
    """``sigma(x)``; GELU in its tanh form."""
    if kind == "silu":
        return F.silu(x)
    return F.relu(x) if kind == "relu" else F.gelu(x, approximate="tanh")


def activation_derivative(x: Tensor, kind: Activation) -> Tensor:
    """``sigma'(x)``, element by element."""
    if kind == "relu":
        return (x > 0).to(x.dtype)
    if kind == "silu":
        p = torch.sigmoid(x)
        return torch.addcmul(p, x * p, 1.0 - p)
    square = x * x
    tanh = torch.tanh(_SQRT_2_OVER_PI * x * (1.0 + _CUBIC * square))
    slope = _SQRT_2_OVER_PI * (1.0 + 3.0 * _CUBIC * square)
    return 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope


def activation_curvature(x: Tensor, kind: Activation) -> Tensor:
    """``sigma''(x)``, element by element."""
    if kind == "relu":
        return torch.zeros_like(x)
    if kind == "silu":
        p, slope = torch.sigmoid(x), activation_derivative(x, kind)
        return p + slope - 2.0 * p * slope
    square = x * x
    tanh = torch.tanh(_SQRT_2_OVER_PI * x * (1.0 + _CUBIC * square))
    slope = _SQRT_2_OVER_PI * (1.0 + 3.0 * _CUBIC * square)
    bend = 6.0 * _SQRT_2_OVER_PI * _CUBIC * x
    sech = 1.0 - tanh * tanh
    return sech * (slope + 0.5 * x * (bend - 2.0 * tanh * slope * slope))


def hidden_features(linear: Tensor, rule: MemoryRule, dim: int = -1) -> Tensor:
    """Features ``phi`` of an MLP memory from ``W2 z`` (Eq. 89).

    ``"bounded"`` features ``s / sqrt(1 + |s|^2)`` are shorter than one and so is their Jacobian by ``s``,
    which keeps both layers' writes bounded at any learning rate (docs/decisions.md); for small ``s`` they are
    the ``"plain"`` ones, ``s = sigma(W2 z)``.
    """
    s = activate(linear, rule.activation)
    return unit(s, 1.0, dim) if rule.features == "bounded" else s


def hidden_features_backward(linear: Tensor, gradient: Tensor, rule: MemoryRule, dim: int = -1) -> Tensor:
    """Gradient by ``linear`` from the gradient by :func:`hidden_features`, closed form."""
    if rule.features == "bounded":
        s = activate(linear, rule.activation)
        scale = torch.rsqrt(1.0 + s.square().sum(dim, keepdim=True))
        phi = s * scale
        gradient = scale * (gradient - phi * (phi * gradient).sum(dim, keepdim=True))
    return gradient * activation_derivative(linear, rule.activation)


def inner_norm(output: Tensor, scale: Tensor, shift: Tensor, dim: int = -1) -> Tensor:
    """LayerNorm of a memory's output (TTT, MIRAS)."""
    return _standardise(output, dim)[0] * scale + shift


def inner_norm_backward(output: Tensor, scale: Tensor, gradient: Tensor, dim: int = -1) -> Tensor:
    """Gradient by ``output`` from the gradient by :func:`inner_norm`, closed form."""
    z, deviation = _standardise(output, dim)
    inner = gradient * scale
    along = (inner * z).mean(dim, keepdim=True)
    return (inner - inner.mean(dim, keepdim=True) - z * along) / deviation


def fixed_log_retention(heads: int, like: Tensor) -> Tensor:
    """``log(1 - 2^(-5-h))`` of each head h, ``[H]``: the retention of RetNet."""
    return torch.log1p(-(2.0 ** (-5.0 - torch.arange(heads, device=like.device, dtype=like.dtype))))


def initial_state(parameters: MemoryParameters, streams: Streams, rule: MemoryRule) -> MemoryState:
    """The state before the first token: meta-learned weights for every sample, or no change to them.

    Args:
        parameters: The layer's memory parameters.
        streams: Any piece of the sequence; gives batch and device.
        rule: Where the memories rest, and whether there is a momentum.

    Returns:
        A state whose weights are ``[B, H, M, ...]``, at least float32.
    """
    batch = streams.key.shape[0]
    weights = tuple(
        wide(w).transpose(0, 1).expand(batch, w.shape[1], w.shape[0], *w.shape[2:])
        for w in parameters.weights
    )
    if rule.rest == "initial":
        weights = tuple(torch.zeros_like(w) for w in weights)
    else:
        # Copies: an optimizer's step in place must not change a session that has begun.
        weights = tuple(w.clone() for w in weights)
    momentum = tuple(torch.zeros_like(w) for w in weights) if rule.momentum else ()
    return MemoryState(weights, weights, momentum, torch.zeros(batch, dtype=torch.long))


def wide(x: Tensor) -> Tensor:
    """``x`` in at least float32: memories are kept and written in it, whatever the layer's type."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_inputs(
    streams: Streams, parameters: MemoryParameters, state: MemoryState, rule: MemoryRule
) -> None:
    """Refuse a state or streams that do not belong to these parameters.

    Raises:
        ValueError: Naming the shape, type or non-finite number that was found and what was expected.
    """
    batch, heads, _, width = streams.key.shape
    for name, stream in streams._asdict().items():
        if stream.shape != streams.key.shape:
            raise ValueError(f"{name} stream is {tuple(stream.shape)}, key stream {tuple(streams.key.shape)}")
        if not stream.is_floating_point():
            raise ValueError(f"{name} stream is {stream.dtype}: memories read floating-point numbers")
    _check_finite(streams)
    count, dtype = len(parameters.weights), torch.promote_types(streams.key.dtype, torch.float32)
    if parameters.weights[0].shape[1] != heads or parameters.gate_weight.shape[2] != width:
        raise ValueError(
            f"streams have {heads} heads of width {width}, the parameters "
            f"{parameters.weights[0].shape[1]} of {parameters.gate_weight.shape[2]}"
        )
    groups = {"weights": state.weights, "snapshot": state.snapshot, "momentum": state.momentum}
    for name, tensors in groups.items():
        expected_count = count if name != "momentum" or rule.momentum else 0
        if len(tensors) != expected_count:
            raise ValueError(
                f"memory state has {len(tensors)} {name} tensors, this layer {expected_count}: a state "
                "belongs to one configuration"
            )
        for tensor, start in zip(tensors, parameters.weights, strict=False):
            expected = (batch, heads, len(rule.names), *start.shape[2:])
            if tuple(tensor.shape) != expected or tensor.dtype != dtype:
                raise ValueError(
                    f"memory state has {name} {tuple(tensor.shape)} of {tensor.dtype} but this layer and "
                    f"batch need {expected} of {dtype}: a state belongs to one configuration and one batch"
                )
    largest = max(rule.chunk_sizes)
    position = state.position
    tracing = torch.compiler.is_compiling()  # there are no values to look at
    if tuple(position.shape) != (batch,) or not (
        tracing or bool(((position >= 0) & (position < largest)).all())
    ):
        raise ValueError(
            f"memory state is at positions {position.tolist()}; expected {batch} of them in [0, {largest})"
        )


def _check_finite(streams: Streams) -> None:
    """Refuse NaN and infinity, which a memory would never forget.

    On the CPU only: elsewhere the processor would have to wait for the answer. One sum tells that all numbers
    are finite; where it is not, because of one of them or by overflow, they are looked at one by one.
    """
    if streams.key.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if bool(torch.isfinite(sum(stream.detach().sum() for stream in streams))):  # type: ignore[arg-type]
        return
    for name, stream in streams._asdict().items():
        bad = stream.detach()[~torch.isfinite(stream)]
        if bad.numel():
            raise ValueError(
                f"{name} stream holds {bad[0].item()} ({bad.numel()} numbers are not finite): a memory would "
                "never forget it; its state is unchanged"
            )


def _standardise(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    centred = x - x.mean(dim, keepdim=True)
    deviation = torch.sqrt(centred.square().mean(dim, keepdim=True) + NORM_EPS)
    return centred / deviation, deviation
