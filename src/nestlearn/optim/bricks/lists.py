"""Arithmetic on lists of tensors, with numbers that may be tensors (a learned rate).

Functions whose name ends in _ write into their first argument. With plain numbers they are one
``torch._foreach`` call; a tensor in place of a number stays in the graph, so that its gradient can be taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Tensors = list[Tensor]
Number = float | Tensor


def scale_(values: Tensors, factor: Number) -> None:
    """``values *= factor``."""
    torch._foreach_mul_(values, _number(factor))


def add_(values: Tensors, others: Sequence[Tensor], factor: Number = 1.0) -> None:
    """``values += factor * others``."""
    if isinstance(factor, Tensor):
        torch._foreach_add_(values, torch._foreach_mul(list(others), _number(factor)))
    else:
        torch._foreach_add_(values, list(others), alpha=factor)


def added(values: Sequence[Tensor], others: Sequence[Tensor], factor: Number = 1.0) -> Tensors:
    """``values + factor * others``, new tensors."""
    if isinstance(factor, Tensor):
        return list(torch._foreach_add(list(values), torch._foreach_mul(list(others), _number(factor))))
    return list(torch._foreach_add(list(values), list(others), alpha=factor))


def add_square_(values: Tensors, others: Tensors, factor: Number = 1.0) -> None:
    """``values += factor * others ** 2``, element by element."""
    if isinstance(factor, Tensor):
        add_(values, torch._foreach_mul(others, others), factor)
    else:
        torch._foreach_addcmul_(values, others, others, value=factor)


def blend_(values: Tensors, others: Sequence[Tensor], share: Number) -> None:
    """``values = (1 - share) * values + share * others``."""
    if isinstance(share, Tensor):
        add_(values, torch._foreach_sub(list(others), values), share)
    else:
        torch._foreach_lerp_(values, list(others), share)


def _number(factor: Number) -> Number:
    """A tensor of one element without dimensions, as ``torch._foreach`` wants it."""
    return factor.reshape(()) if isinstance(factor, Tensor) else factor


def powers(base: Number, exponents: Tensors) -> Tensors:
    """``base ** exponent`` for every exponent, in float64: 1 - 0.999 has four digits less than 0.999."""
    return [base ** exponent.double() for exponent in exponents]
