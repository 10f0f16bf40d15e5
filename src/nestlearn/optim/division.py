"""Who belongs to which level, and what updates it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nestlearn.levels import Level
from nestlearn.optim.preconditioned import PreconditionedMomentum

Assignment = Callable[[str, nn.Parameter], str]
Named = list[tuple[str, nn.Parameter]]
#: Makes the optimizer of a level from its named parameters.
Maker = Callable[[Named, Level], Optimizer]


def divide(
    levels: tuple[Level, ...], model: nn.Module, assign: Assignment | None
) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Named trainable parameters of every level, each parameter once.

    Args:
        levels: The levels.
        model: Model whose parameters are divided.
        assign: Maps name and parameter to a level's name; None asks the model's ``assign_level``.

    Raises:
        ValueError: If nobody says where a parameter belongs, a level is unknown, or one stays empty.
    """
    known = {level.name for level in levels}
    own = getattr(model, "assign_level", None)
    named: dict[str, list[tuple[str, nn.Parameter]]] = {level.name: [] for level in levels}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if assign is not None:
            chosen = assign(name, parameter)
        elif len(levels) == 1:
            chosen = levels[0].name
        elif own is not None:
            chosen = own(name, levels)
        else:
            raise ValueError(
                f"{type(model).__name__} does not say which level its parameters belong to: pass assign="
            )
        if chosen not in known:
            raise ValueError(f"parameter {name} was assigned to level {chosen!r}; there are {sorted(known)}")
        named[chosen].append((name, parameter))
    for level_name, members in named.items():
        if not members:
            raise ValueError(f"level {level_name!r} has no parameters")
    return named


def level_optimizer(level: Level, named: Named, make: Maker | None = None) -> Optimizer:
    """The optimizer of a level over named parameters: torch's own by the level's settings, or a given one.

    Raises:
        ValueError: If a given one does not have exactly the level's parameters, in one group.
    """
    if make is not None:
        made = make(named, level)
        groups = made.param_groups
        if len(groups) != 1 or {id(p) for p in groups[0]["params"]} != {id(p) for _, p in named}:
            raise ValueError(f"the optimizer of level {level.name!r} must have its parameters in one group")
        return made
    if level.optimizer == "damped_adam":
        return PreconditionedMomentum(
            named, level.lr, level.betas, damping=1.0, weight_decay=level.weight_decay, nonfinite="ignore"
        )
    if level.optimizer == "sgd":
        return torch.optim.SGD(named, lr=level.lr, momentum=level.betas[0], weight_decay=level.weight_decay)
    return torch.optim.AdamW(named, lr=level.lr, betas=level.betas, weight_decay=level.weight_decay)


def refuse_basis(optimizer: Optimizer) -> None:
    """Refuse an optimizer that cannot work in an eigenbasis, because it reads more than gradients.

    Raises:
        ValueError: It decays weights, or measures change on the keys of a layer.
    """
    refuse_decay(optimizer.param_groups)
    if getattr(optimizer, "keys", None) is not None:
        raise ValueError(
            f"{type(optimizer).__name__} reads the keys of its layers, which are not in the eigenbasis: "
            "leave out one of the two"
        )


def refuse_decay(groups: Iterable[Mapping[str, Any]]) -> None:
    """Refuse groups whose weights would decay in an eigenbasis.

    Raises:
        ValueError: One of them has weight decay.
    """
    if any(group.get("weight_decay") for group in groups):
        raise ValueError("with eigenbasis weight_decay must be 0: it would decay in another basis")
