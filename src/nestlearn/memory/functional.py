"""Small maps used by both twins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nestlearn.memory.types import MemoryParameters, MemoryRule, MemoryState, Streams

_SQRT_2_OVER_PI = 0.7978845608028654
_CUBIC = 0.044715


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """``x`` scaled to length one along its last axis; a zero vector stays zero and has a gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU, the hidden activation of MLP memories."""
    return F.gelu(x, approximate="tanh")


def hidden_features(linear: Tensor) -> Tensor:
    """Hidden features ``phi = s / sqrt(1 + |s|^2)`` with ``s = gelu(linear)`` of an MLP memory.

    They are shorter than one and so is their Jacobian by ``s``, which keeps both layers' writes bounded at
    any learning rate (docs/decisions.md); for small ``s`` they are the paper's ``sigma(W2 z)``.
    """
    s = gelu(linear)
    return s * torch.rsqrt(1.0 + s.square().sum(-1, keepdim=True))


def hidden_features_backward(linear: Tensor, gradient: Tensor) -> Tensor:
    """Gradient by ``linear`` from the gradient by :func:`hidden_features`, closed form."""
    s = gelu(linear)
    scale = torch.rsqrt(1.0 + s.square().sum(-1, keepdim=True))
    phi = s * scale
    along = (phi * gradient).sum(-1, keepdim=True)
    return scale * (gradient - phi * along) * gelu_derivative(linear)


def gelu_derivative(x: Tensor) -> Tensor:
    """Derivative of :func:`gelu`, element by element."""
    square = x * x
    tanh = torch.tanh(_SQRT_2_OVER_PI * x * (1.0 + _CUBIC * square))
    inner = _SQRT_2_OVER_PI * (1.0 + 3.0 * _CUBIC * square)
    return 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner


def initial_state(parameters: MemoryParameters, streams: Streams) -> MemoryState:
    """The state before the first token: meta-learned weights for every sample, nothing pending.

    Args:
        parameters: The layer's memory parameters.
        streams: Any piece of the sequence; gives batch, heads, width, device and type.

    Returns:
        A state whose weights are views ``[B, H, M, ...]`` of the parameters.
    """
    batch = streams.key.shape[0]
    weights = tuple(w.transpose(0, 1).expand(batch, *w.transpose(0, 1).shape) for w in parameters.weights)
    return MemoryState(weights, Streams(*(s[:, :, :0] for s in streams)))


def join_pending(streams: Streams, state: MemoryState) -> Streams:
    """The unfinished chunk's tokens followed by the new ones, each ``[B, H, P + T, e]``."""
    if state.pending.key.shape[2] == 0:
        return streams
    return Streams(*(torch.cat(pair, dim=2) for pair in zip(state.pending, streams, strict=True)))


def check_inputs(
    streams: Streams, parameters: MemoryParameters, state: MemoryState, rule: MemoryRule
) -> None:
    """Refuse a state or streams that do not belong to these parameters.

    Raises:
        ValueError: Naming the shape that was found and the shape that was expected.
    """
    batch, heads, _, width = streams.key.shape
    for name, stream in streams._asdict().items():
        if stream.shape != streams.key.shape:
            raise ValueError(f"{name} stream is {tuple(stream.shape)}, key stream {tuple(streams.key.shape)}")
    if len(state.weights) != len(parameters.weights):
        raise ValueError(
            f"memory state has {len(state.weights)} weights, this layer's memories "
            f"{len(parameters.weights)}: a state belongs to one configuration"
        )
    for weight, start in zip(state.weights, parameters.weights, strict=True):
        expected = (batch, heads, len(rule.names), *start.shape[2:])
        if tuple(weight.shape) != expected:
            raise ValueError(
                f"memory state is {tuple(weight.shape)} but this layer and batch need {expected}: "
                "a state belongs to one configuration and one batch size"
            )
    pending = state.pending.key.shape
    if pending[0] != batch or pending[1] != heads or pending[3] != width or pending[2] >= rule.chunk_size:
        raise ValueError(
            f"pending tokens are {tuple(pending)}; expected ({batch}, {heads}, < {rule.chunk_size}, {width})"
        )
