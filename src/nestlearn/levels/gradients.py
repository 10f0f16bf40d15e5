"""The memories inside optimizers: torch's own by a table, others by what they say or by their state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nestlearn.levels.description import Group, Kind, Named, State

Settings = Mapping[str, Any]
#: Divides a group: maps its settings to names, parameters, and periods in tokens.
Divide = Callable[[Settings], list[tuple[str, list[Tensor], int]]]
#: Numbers that an optimizer keeps of a parameter of this shape.
Size = Callable[[Tensor], int]


@dataclass(frozen=True)
class Kept:
    """One kind of state that an optimizer keeps.

    Attributes:
        name: In a system.
        keys: Entries of ``optimizer.state[parameter]`` that it is made of.
        objective: What it minimises (SPEC 2.2, 2.7).
        when: Whether a group with these settings has it.
        size: Numbers kept of a parameter.
        needs: Other states whose new value its update needs.
        after: Whether its update needs the new weights.
        read: Whether the update of the weights reads its new value.
        context: What it compresses.
        period: Updates of the group between two of its own.
        kind: ``"optimizer_state"`` or ``"accumulator"``.
    """

    name: str
    keys: tuple[str, ...]
    objective: str
    when: Callable[[Settings], bool] = lambda _: True
    size: Size = Tensor.numel
    needs: tuple[str, ...] = ()
    after: bool = False
    read: bool = True
    context: str = "gradients"
    period: int = 1
    kind: Kind = "optimizer_state"


def _factored(parameter: Tensor) -> int:
    """Numbers of a row and a column per matrix."""
    count, shape = parameter.numel(), parameter.shape
    return count if len(shape) < 2 else count // shape[-1] + count // shape[-2]


_DOT = "⟨m, -g⟩ with decay (Eq. 34)"
_SQUARES = "||m ⊙ g - P||² (Eq. 101), P the root of the squares"
_MOMENTUM = Kept("momentum", ("exp_avg",), _DOT)
_SECOND = Kept("squares", ("exp_avg_sq",), _SQUARES)
_LARGEST = Kept(
    "largest squares",
    ("max_exp_avg_sq",),
    "the largest of the squares so far",
    when=lambda group: bool(group.get("amsgrad")),
    needs=("squares",),
)
_ADAM = (_MOMENTUM, _SECOND, _LARGEST)
_ADADELTA = (
    Kept("squares", ("square_avg",), _SQUARES),
    Kept("changes", ("acc_delta",), "mean square of the updates", needs=("squares",), read=False),
)
_RMSPROP = (
    Kept("squares", ("square_avg",), _SQUARES),
    Kept("mean", ("grad_avg",), _DOT, when=lambda group: bool(group["centered"])),
    Kept(
        "momentum",
        ("momentum_buffer",),
        "⟨m, -P g⟩ with decay (Eq. 46)",
        when=lambda group: group["momentum"] > 0,
        needs=("squares", "mean"),
    ),
)
_RPROP = (
    Kept("last gradient", ("prev",), "||m - g||², one step at full rate", read=False),
    Kept("step sizes", ("step_size",), "agreement of two gradients' signs"),
)
_ADAFACTOR = (
    Kept(
        "squares",
        ("row_var", "col_var", "variance"),
        "||m ⊙ g - P||² (Eq. 101), P of rank one for matrices",
        size=_factored,
    ),
)
_AVERAGE = Kept("average", ("ax",), "||a - W||², a mean over steps", after=True, context="the weights")
_HISTORY = Kept(
    "history",
    ("old_dirs", "old_stps", "ro", "prev_flat_grad", "d", "H_diag", "al"),
    "the secant equations of the last steps",
    size=lambda _: 0,
)
_MUON = (Kept("momentum", ("momentum_buffer",), "⟨m, -g⟩ with decay, read through Newton-Schulz (Eq. 42)"),)
_SGD = (Kept("momentum", ("momentum_buffer",), _DOT, when=lambda group: group["momentum"] > 0),)

#: What torch's optimizers keep. Counters are clocks, not memories.
TORCH: dict[str, tuple[Kept, ...]] = {
    "Adadelta": _ADADELTA,
    "Adafactor": _ADAFACTOR,
    "Adagrad": (Kept("squares", ("sum",), "||m ⊙ g - P||² (Eq. 104), a sum that never decays"),),
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "Adamax": (_MOMENTUM, Kept("largest", ("exp_inf",), "the largest gradient of late, which fades")),
    "ASGD": (_AVERAGE,),
    "LBFGS": (_HISTORY,),
    "Muon": _MUON,
    "NAdam": _ADAM,
    "RAdam": (_MOMENTUM, _SECOND),
    "RMSprop": _RMSPROP,
    "Rprop": _RPROP,
    "SGD": _SGD,
    "SparseAdam": (_MOMENTUM, _SECOND),
}


def describe(optimizer: Optimizer, divide: Divide | None = None) -> tuple[Group, ...]:
    """The groups of an optimizer, with the memories that it keeps for each.

    Args:
        optimizer: Any. It is asked for ``nested_groups()``, or for ``nested_states(settings)`` of a group,
            which returns :class:`Kept` ones; otherwise the table of torch's optimizers is looked up.
        divide: Divides a group's parameters further: maps its settings to names, parameters and periods in
            tokens.

    Raises:
        TypeError: If it is no optimizer.
        ValueError: If an optimizer with levels of its own is to be divided.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"a torch.optim.Optimizer is needed, got {type(optimizer).__name__}")
    optimizer = unwrapped(optimizer)
    own = getattr(optimizer, "nested_groups", None)
    if own is not None:
        if divide is not None:
            raise ValueError(f"{type(optimizer).__name__} has periods of its own: leave out the schedule's")
        return tuple(own())
    groups = []
    for index, settings in enumerate(optimizer.param_groups):
        kept = _known(optimizer, settings)
        if divide is None:
            groups.append(_group(optimizer, group_name(optimizer, index), settings, kept))
            continue
        for name, parameters, period in divide(settings):
            part = _group(optimizer, name, {**settings, "params": parameters}, kept)
            groups.append(part.every(period, "token"))
    return tuple(groups)


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside accelerate's wrapper, which keeps nothing of its own."""
    inner = getattr(optimizer, "optimizer", None)
    wraps = type(optimizer).__module__.startswith("accelerate.")
    return unwrapped(inner) if wraps and isinstance(inner, Optimizer) else optimizer


def _known(optimizer: Optimizer, settings: Settings) -> tuple[Kept, ...] | None:
    says = getattr(optimizer, "nested_states", None)
    if says is not None:
        return tuple(says(settings))
    return TORCH.get(type(optimizer).__name__) if type(optimizer).__module__.startswith("torch.") else None


def group_name(optimizer: Optimizer, index: int) -> str:
    """What a parameter group is called: by its own name, or its number if there are several."""
    settings = optimizer.param_groups[index]
    return str(settings.get("name") or ("weights" if len(optimizer.param_groups) == 1 else f"group {index}"))


def kept_states(optimizer: Optimizer, settings: Settings, kept: Iterable[Kept]) -> tuple[State, ...]:
    """States of one group, from what kinds of state its optimizer keeps."""
    tensors = [p for p in settings["params"] if isinstance(p, Tensor)]
    there = [entry for entry in kept if entry.when(settings)]
    names = {entry.name for entry in there}
    return tuple(
        State(
            entry.name,
            entry.objective,
            entry.context,
            live=lambda entry=entry: list(_live(optimizer, tensors, entry.keys)),  # type: ignore[misc]
            bytes=_bytes(optimizer, tensors, entry),
            period=entry.period,
            kind=entry.kind,
            needs=tuple(name for name in entry.needs if name in names),
            after=entry.after,
            read=entry.read,
        )
        for entry in there
    )


def _group(optimizer: Optimizer, name: str, settings: Settings, kept: tuple[Kept, ...] | None) -> Group:
    rule = type(optimizer).__name__
    found = _found(optimizer, settings)
    unknown: tuple[tuple[str, str], ...] = ()
    if kept is None:
        why = (
            f"{rule} does not say what it keeps, its name is all that is known of it"
            if found
            else f"{rule} is not known and has no state yet: take a step, then look again"
        )
        unknown = tuple((f"{rule}.{key}", why) for key in found) or ((rule, why),)
        kept = tuple(Kept(key, (key,), "not known", size=lambda _: 0) for key in found)
    else:
        known = {key for entry in kept for key in entry.keys}
        unknown = tuple((f"{rule}.{key}", "not known of it") for key in found if key not in known)
    return Group(
        name,
        f"the loss, by {rule}",
        tuple(settings["params"]),
        states=kept_states(optimizer, settings, kept),
        unknown=unknown,
    )


def _found(optimizer: Optimizer, settings: Settings) -> list[str]:
    """Entries of the state that hold more than a number."""
    keys: dict[str, None] = {}
    for parameter in settings["params"]:
        for key, value in optimizer.state.get(parameter, {}).items():
            number = isinstance(value, Tensor) and value.dim() == 0  # a counter, or a switch
            if isinstance(value, Tensor | list) and not number:
                keys[key] = None
    return list(keys)


def _live(
    optimizer: Optimizer, tensors: Iterable[Tensor], keys: Iterable[str]
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a state as they are now, by their place."""
    for index, parameter in enumerate(tensors):
        state = optimizer.state.get(parameter, {})
        for key in keys:
            value = state.get(key)
            values = value if isinstance(value, list) else [value]
            for entry in values:
                if isinstance(entry, Tensor):
                    yield f"{index}.{key}", entry


def _bytes(optimizer: Optimizer, tensors: list[Tensor], entry: Kept) -> int:
    """Bytes of a state: what there is, or what there will be after the first step."""
    live: Named = list(_live(optimizer, tensors, entry.keys))
    if live:
        return sum(value.numel() * value.element_size() for _, value in live)
    return sum(entry.size(p) * p.element_size() for p in tensors if _trained(p))


def _trained(parameter: Tensor) -> bool:
    return parameter.requires_grad or parameter.grad is not None


def is_torch_optimizer(name: str) -> bool:
    """Whether torch has an optimizer of this name, for which there is a table."""
    return name in TORCH and hasattr(torch.optim, name)


__all__ = ["TORCH", "Divide", "Kept", "describe", "group_name", "is_torch_optimizer", "kept_states"]
