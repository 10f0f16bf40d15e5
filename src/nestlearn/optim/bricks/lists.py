"""Arithmetic on lists of tensors, with numbers that may be tensors (a learned rate).

Functions whose name ends in _ write into their first argument, often after it was used: to differentiate
through them, call them within :func:`differentiable_bricks`. Each is one ``torch._foreach`` call, or goes
tensor by tensor where something needs a gradient: several of those calls have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

Tensors = list[Tensor]
Number = float | Tensor


def differentiable_bricks() -> AbstractContextManager[object]:
    """Save copies of tensors for the backward pass, because what was used is overwritten."""
    return torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved)


def _in_graph(*lists: Sequence[Tensor]) -> bool:
    """Whether anything has to be differentiated."""
    return torch.is_grad_enabled() and any(value.requires_grad for own in lists for value in own)


def number(factor: Number) -> Number:
    """A tensor of one element without dimensions, so that it broadcasts to a tensor that has none."""
    return factor.reshape(()) if isinstance(factor, Tensor) else factor


def scale_(values: Tensors, factor: Number) -> None:
    """``values *= factor``."""
    if not (isinstance(factor, Tensor) or _in_graph(values)):
        if values and values[0].dtype == torch.bfloat16 and values[0].device.type == "cpu":
            # There the list product rounds the number itself to the values' dtype.
            for value in values:
                value.mul_(factor)
        else:
            torch._foreach_mul_(values, factor)
        return
    for value in values:
        value.mul_(number(factor))


def add_(values: Tensors, others: Sequence[Tensor], factor: Number = 1.0) -> None:
    """``values += factor * others``."""
    if not (isinstance(factor, Tensor) or _in_graph(values, others)):
        torch._foreach_add_(values, list(others), alpha=factor)
        return
    for value, other in zip(values, others, strict=True):
        value.add_(other * number(factor))


def added(values: Sequence[Tensor], others: Sequence[Tensor], factor: Number = 1.0) -> Tensors:
    """``values + factor * others``, new tensors."""
    if not (isinstance(factor, Tensor) or _in_graph(values, others)):
        return list(torch._foreach_add(list(values), list(others), alpha=factor))
    return [value + other * number(factor) for value, other in zip(values, others, strict=True)]


def add_square_(values: Tensors, others: Tensors, factor: Number = 1.0) -> None:
    """``values += factor * others ** 2``, element by element."""
    if not (isinstance(factor, Tensor) or _in_graph(values, others)):
        torch._foreach_addcmul_(values, others, others, value=factor)
        return
    for value, other in zip(values, others, strict=True):
        value.add_(other.square() * number(factor))


def blend_(values: Tensors, others: Sequence[Tensor], share: Number) -> None:
    """``values = (1 - share) * values + share * others``."""
    if not (isinstance(share, Tensor) or _in_graph(values, others)):
        torch._foreach_lerp_(values, list(others), share)
        return
    for value, other in zip(values, others, strict=True):
        value.add_((other - value) * number(share))


def blended(values: Tensors, others: Tensors, share: Number) -> Tensors:
    """``(1 - share) * values + share * others``, new tensors."""
    if not (isinstance(share, Tensor) or _in_graph(values, others)):
        return list(torch._foreach_lerp(values, others, share))
    return [value + (other - value) * number(share) for value, other in zip(values, others, strict=True)]


def divided(values: Tensors, others: Tensors) -> Tensors:
    """``values / others``, new tensors."""
    if not _in_graph(values, others):
        return list(torch._foreach_div(values, others))
    return [value / other for value, other in zip(values, others, strict=True)]


def roots(values: Tensors) -> Tensors:
    """``sqrt(values)``, new tensors; zero has no derivative, and gets none."""
    if not _in_graph(values):
        return list(torch._foreach_sqrt(values))
    return [torch.where(v > 0, v, torch.ones_like(v)).sqrt() * (v > 0) for v in values]


def lengths(values: Tensors) -> Tensors:
    """``||value||`` of each, scalars."""
    if not values:
        return []
    return [v.norm() for v in values] if _in_graph(values) else list(torch._foreach_norm(values))


def powers(base: Number, exponents: Tensors) -> Tensors:
    """``base ** exponent`` for every exponent, in float64: 1 - 0.999 has four digits less than 0.999."""
    return [base ** exponent.double() for exponent in exponents]
