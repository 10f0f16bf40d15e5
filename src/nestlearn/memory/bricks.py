"""Differentiable bricks of the chunk form with derivatives by hand.

Composed of single operations each would keep several tensors of its input's size for the backward pass and
touch memory three times as often; the products in between are few. Tokens are columns: tensors are
``[..., channels, C]``. All are checked by ``gradcheck``.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nestlearn.memory.functional import (
    UNIT_EPS,
    activate,
    activation_curvature,
    activation_derivative,
)
from nestlearn.memory.rule import Activation

#: Influences between two tokens below this are dropped. Far beneath the precision of sums with a token's own
#: influence, which is one, they would only become denormal numbers, which make products many times slower.
NEGLIGIBLE = 1e-18


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of columns, ``[..., 1, C]``."""
    return (a * b).sum(-2, keepdim=True)


def _shorten_backward(y: Tensor, scale: Tensor, gradient: Tensor) -> Tensor:
    """Gradient by ``x`` of ``y = x / sqrt(eps + |x|^2)``; ``scale`` is the inverse root."""
    return torch.addcmul(gradient, y, _dot(y, gradient), value=-1).mul_(scale)


class _Unit(Function):
    """``x / sqrt(eps + |x|^2)`` by columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(_dot(x, x) + eps)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        return _shorten_backward(y, scale, gradient), None


class _Features(Function):
    """``unit(sigma(a), 1)`` where only the features are needed."""

    @staticmethod
    def forward(ctx: Any, linear: Tensor, kind: Activation) -> Tensor:
        s = activate(linear, kind)
        scale = torch.rsqrt(_dot(s, s) + 1.0)
        phi = s.mul_(scale)
        ctx.save_for_backward(linear, phi, scale)
        ctx.kind = kind
        return phi

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        linear, phi, scale = ctx.saved_tensors
        return _activation_backward(linear, _shorten_backward(phi, scale, gradient), ctx.kind), None


class _FeaturesWithSlope(Function):
    """``unit(sigma(a), 1)``, its scale and ``sigma'(a)``, from one evaluation of the activation."""

    @staticmethod
    def forward(ctx: Any, linear: Tensor, kind: Activation) -> tuple[Tensor, Tensor, Tensor]:
        if kind == "silu":
            saved = torch.sigmoid(linear)
            s = linear * saved
            slope = torch.addcmul(s + saved, s, saved, value=-1)
        else:
            saved, s, slope = linear, activate(linear, kind), activation_derivative(linear, kind)
        scale = torch.rsqrt(_dot(s, s) + 1.0)
        phi = s.mul_(scale)
        ctx.save_for_backward(saved, phi, scale, slope)
        ctx.kind = kind
        return phi, scale, slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_phi: Tensor, by_scale: Tensor, by_slope: Tensor) -> tuple[Tensor, None]:
        saved, phi, scale, slope = ctx.saved_tensors
        # d scale / d s = -scale^2 phi
        along = _dot(phi, by_phi).add_(by_scale * scale)
        by_s = torch.addcmul(by_phi, phi, along, value=-1).mul_(scale)
        if ctx.kind == "silu":  # sigma'' = p + sigma' - 2 p sigma' with p = sigmoid(a)
            curvature = torch.addcmul(saved + slope, saved, slope, value=-2)
        else:
            curvature = activation_curvature(saved, ctx.kind)
        return by_s.mul_(slope).addcmul_(by_slope, curvature), None


class _FeaturesBackward(Function):
    """``scale (g - phi <phi, g>) sigma'``: the gradient of an inner loss through the features."""

    @staticmethod
    def forward(ctx: Any, phi: Tensor, scale: Tensor, slope: Tensor, g: Tensor) -> Tensor:
        along = _dot(phi, g)
        ctx.save_for_backward(phi, scale, slope, g, along)
        return torch.addcmul(g, phi, along, value=-1).mul_(scale).mul_(slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        phi, scale, slope, g, along = ctx.saved_tensors
        inner = torch.addcmul(g, phi, along, value=-1)  # before the scale and the slope
        by_inner = gradient * slope
        by_scale = _dot(by_inner, inner)
        by_slope = inner.mul_(scale).mul_(gradient)
        by_inner.mul_(scale)
        turned = _dot(phi, by_inner)
        by_phi = (by_inner * along).addcmul_(g, turned).neg_()
        by_g = by_inner.addcmul_(phi, turned, value=-1)
        return by_phi, by_scale, by_slope, by_g


class _Solve(Function):
    """``R (I + L)^{-1}`` for strictly upper triangular ``L [..., C, C]`` and rows ``R [..., o, C]``.

    The inverse serves the forward and the backward pass, and a product is faster than a solve.
    """

    @staticmethod
    def forward(ctx: Any, upper: Tensor, right: Tensor) -> Tensor:
        inverse = _unit_inverse(upper)
        solution = right @ inverse
        ctx.save_for_backward(inverse, solution)
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        inverse, solution = ctx.saved_tensors
        by_right = gradient @ inverse.mT
        return (solution.mT @ by_right).triu_(1).neg_(), by_right


class _Delta(Function):
    """One chunk of delta gradient descent: the system of :mod:`nestlearn.memory.write` and its end."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        keys: Tensor,
        step: Tensor,
        inclusive: Tensor,
        until: Tensor,
        outputs: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        gram = keys.mT @ keys
        before, carry, end = _parts(inclusive, until)
        inverse = _unit_inverse(shift(inclusive) * gram)
        known = weight @ keys if outputs is None else outputs
        change = torch.addcmul(step, before, known, value=-1) @ inverse
        after = _plus_product(carry * weight, change, (end * keys).mT)
        ctx.save_for_backward(weight, keys, inclusive, until, gram, inverse, known, change)
        ctx.known = outputs is not None
        return change, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_change: Tensor, by_after: Tensor) -> tuple[Tensor | None, ...]:
        weight, keys, inclusive, until, gram, inverse, known, change = ctx.saved_tensors
        before, carry, end = _parts(inclusive, until)
        by_carry = _dot(weight, by_after).sum(-1, keepdim=True)
        by_scaled = by_after.mT @ change
        by_change = _plus_product(by_change.clone(), by_after, end * keys)
        by_step = by_change @ inverse.mT
        by_known = torch.mul(by_step, before).neg_()
        by_before = _dot(by_step, known).neg_()
        by_system = (change.mT @ by_step).triu_(1).neg_()
        by_strict = _like(by_system * gram, inclusive)
        by_gram = by_system.mul_(shift(inclusive))
        by_end = _dot(by_scaled, keys)
        by_keys = by_scaled.mul_(end)
        by_keys = _plus_product(_plus_product(by_keys, keys, by_gram), keys, by_gram.mT)
        by_weight = carry * by_after
        if not ctx.known:
            by_keys = _plus_product(by_keys, weight.mT, by_known)
            by_weight = _plus_product(by_weight, by_known, keys.mT)
        by_inclusive = torch.cat([by_strict[..., 1:], _like(by_end, until).mT], dim=-1)
        by_until = torch.cat([_like(by_before, until)[..., 1:], _like(by_carry, until[..., :1])], dim=-1)
        return by_weight, by_keys, by_step, by_inclusive, by_until, by_known if ctx.known else None


def shift(pairs: Tensor) -> Tensor:
    """A pair matrix ``[..., C, C]`` for readers one token earlier: strictly upper triangular."""
    return F.pad(pairs[..., :-1], (1, 0))


def _parts(inclusive: Tensor, until: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``gamma_{t-1}``, ``gamma_C`` and ``eta_s gamma_C / gamma_s``, rows ``[..., 1, C]`` or one column."""
    return F.pad(until[..., :-1], (1, 0), value=1.0), until[..., -1:], inclusive[..., -1:].mT


def _unit_inverse(upper: Tensor) -> Tensor:
    eye = torch.eye(upper.shape[-1], dtype=upper.dtype, device=upper.device).expand_as(upper)
    inverse = torch.linalg.solve_triangular(upper, eye, upper=True, unitriangular=True)
    return F.hardshrink(inverse, NEGLIGIBLE)


def _plus_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``total + a @ b``, in place: one pass over memory instead of two."""
    if not total.is_contiguous():
        return total + a @ b
    total.flatten(0, -3).baddbmm_(a.flatten(0, -3), b.flatten(0, -3))
    return total


def _like(x: Tensor, like: Tensor) -> Tensor:
    """Summed over the axes along which ``like`` was broadcast."""
    for axis, size in enumerate(like.shape):
        if size == 1 and x.shape[axis] != 1:
            x = x.sum(axis, keepdim=True)
    return x


def _activation_backward(linear: Tensor, gradient: Tensor, kind: Activation) -> Tensor:
    if kind == "silu":
        return cast(Tensor, torch.ops.aten.silu_backward(gradient, linear))
    if kind == "gelu":
        return cast(Tensor, torch.ops.aten.gelu_backward(gradient, linear, approximate="tanh"))
    return gradient * activation_derivative(linear, kind)


def unit_columns(x: Tensor) -> Tensor:
    """:func:`nestlearn.memory.functional.unit` of every column."""
    y: Tensor = _Unit.apply(x, UNIT_EPS)  # type: ignore[no-untyped-call]
    return y


def features(linear: Tensor, kind: Activation) -> Tensor:
    """Bounded features of every column of ``W2 Z``, ``[..., h, C]``."""
    phi: Tensor = _Features.apply(linear, kind)  # type: ignore[no-untyped-call]
    return phi


def features_with_slope(linear: Tensor, kind: Activation) -> tuple[Tensor, Tensor, Tensor]:
    """Bounded features, their scale ``[..., 1, C]`` and ``sigma'(linear)``."""
    phi, scale, slope = _FeaturesWithSlope.apply(linear, kind)  # type: ignore[no-untyped-call]
    return phi, scale, slope


def features_backward(phi: Tensor, scale: Tensor, slope: Tensor, gradient: Tensor) -> Tensor:
    """Gradient by ``linear`` from the gradient by the features."""
    back: Tensor = _FeaturesBackward.apply(phi, scale, slope, gradient)  # type: ignore[no-untyped-call]
    return back


def solve(upper: Tensor, right: Tensor) -> Tensor:
    """``R (I + L)^{-1}``; of ``L`` only the entries above the diagonal are read."""
    solution: Tensor = _Solve.apply(upper, right)  # type: ignore[no-untyped-call]
    return solution


def delta(
    weight: Tensor, keys: Tensor, step: Tensor, inclusive: Tensor, until: Tensor, outputs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Change and end of one chunk with the erase and one learning rate and retention a token.

    Args:
        weight: Before the chunk, ``[..., o, i]``.
        keys: ``[..., i, C]``.
        step: ``-g_t``, ``[..., o, C]``.
        inclusive: ``eta_s gamma_t / gamma_s`` for s <= t, else 0, ``[..., C, C]``; may be broadcast.
        until: ``gamma_t``, ``[..., 1, C]``; may be broadcast.
        outputs: ``weight @ keys`` if it is known.

    Returns:
        ``u_t`` of every token ``[..., o, C]`` and the weight after the chunk.
    """
    change, after = _Delta.apply(weight, keys, step, inclusive, until, outputs)  # type: ignore[no-untyped-call]
    return change, after


__all__ = [
    "delta",
    "features",
    "features_backward",
    "features_with_slope",
    "shift",
    "solve",
    "unit_columns",
]
