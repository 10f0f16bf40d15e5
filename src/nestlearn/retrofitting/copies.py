"""Copies of a model that share what they do not change."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def sharing_copy(model: M, own: Collection[str]) -> M:
    """A copy with parameters of its own where they are named, and the model's frozen memory elsewhere.

    Neither can change the other through its own parameters; flags and gradients are not shared.

    Args:
        model: The model.
        own: Names of the parameters that the copy shall have to itself; they need gradients.

    Raises:
        ValueError: For a name that the model does not have, or one of a quantised weight.
    """
    parameters = dict(model.named_parameters())
    if unknown := set(own) - set(parameters):
        raise ValueError(f"{type(model).__name__} has no parameters {sorted(unknown)}")
    for name in own:
        if not parameters[name].is_floating_point():
            raise ValueError(
                f"{name} is quantised ({parameters[name].dtype}) and cannot learn: load it in float"
            )
    memo: dict[int, Any] = {}
    for name, parameter in parameters.items():
        value = parameter.detach()
        memo[id(parameter)] = (
            nn.Parameter(value.clone()) if name in own else nn.Parameter(value, requires_grad=False)
        )
    twin = copy.deepcopy(model, memo)
    for parameter in twin.parameters():
        parameter.grad = None
    return twin
