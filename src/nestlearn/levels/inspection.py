"""What levels a model and its optimizer have (Definitions 1 to 4, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from nestlearn.levels.description import Group
from nestlearn.levels.found import Found, place, place_memories, place_rest
from nestlearn.levels.gradients import Divide, describe, unwrapped
from nestlearn.levels.modules import guessed, suspicious
from nestlearn.levels.schedules import Schedule, division, tokens_per_step
from nestlearn.levels.system import Component, NestedSystem
from nestlearn.levels.transfers import transfers

Optimizers = Optimizer | Mapping[str, Optimizer] | None


def inspect(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    schedule: Schedule | None = None,
    title: str | None = None,
) -> NestedSystem:
    """The ordered levels of a model and its optimizer: who is updated by what, how often, knowing what.

    Components are the groups of parameters, the states of the optimizer, fast weights, recurrent states,
    attention, running statistics and key memories. Torch's modules and optimizers and this library's are
    known, transformers' by their classes; modules and optimizers can say what they keep
    (:mod:`nestlearn.levels.description`, :func:`nestlearn.levels.register`). What cannot be placed is listed.

    Layers of one kind are one component: the order of Definition 2 is that of updates, and the order of
    layers within a forward pass is none (docs/decisions.md).

    Args:
        model: Any module. Nothing is run and nothing changes.
        optimizer: What trains it, or several by name; None for a model that is only used, whose parameters
            have frequency 0.
        schedule: Tokens of one optimizer step, with which steps can be compared with periods in tokens; or
            the levels (the model's ``assign_level`` divides the parameters), or periods in tokens by
            beginnings of parameters' names (the longest that fits counts), as they are meant to be.
        title: Heading; by default the classes.

    Returns:
        The system; ``system.levels`` are ordered from fast to slow.

    Raises:
        ValueError: If the schedule does not fit the model or the optimizer.
        TypeError: If it is no model or no optimizer.
    """
    return look(model, optimizer, schedule=schedule, title=title)[0]


def look(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    schedule: Schedule | None = None,
    title: str | None = None,
) -> tuple[NestedSystem, Found]:
    """:func:`inspect`, and the tensors behind what it found."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a torch.nn.Module is needed, got {type(model).__name__}")
    optimizers = _named(optimizer)
    found = Found(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    divide = division(model, names, schedule)
    for prefix, member in optimizers.items():
        for group in describe(member, divide):
            place(found, group, names, prefix if len(optimizers) > 1 else "", member)
    found.tokens_per_step = tokens_per_step(found.groups.values(), list(optimizers.values()), schedule)
    if not optimizers and divide is not None:
        _declare(found, model, names, divide)
    place_rest(found, names, trained=bool(optimizers))
    place_memories(found)
    _remarks(found, model)
    by = (
        "" if not optimizers else f" trained by {' and '.join(type(o).__name__ for o in optimizers.values())}"
    )
    system = NestedSystem(
        title or f"{type(model).__name__}{by}",
        tuple(found.components.values()),
        transfers(found.components, found.groups, found.memories, found.holder, names.values()),
        found.tokens_per_step,
        tuple(found.unplaced),
        tuple(found.notes),
        _aliases(model, names),
    )
    return system, found


def _named(optimizer: Optimizers) -> dict[str, Optimizer]:
    if optimizer is None:
        return {}
    members = optimizer if isinstance(optimizer, Mapping) else {"": optimizer}
    return {name: unwrapped(member) for name, member in members.items()}


def _declare(found: Found, model: nn.Module, names: Mapping[int, str], divide: Divide) -> None:
    """Levels without an optimizer: the parameters at their periods."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for name, members, period in divide({"params": parameters}):
        group = Group(name, "the loss, by an optimizer that was not given", tuple(members))
        place(found, group.every(period, "token"), names)


def _remarks(found: Found, model: nn.Module) -> None:
    """What is not known, what is taken for constant, and what is declared but not so."""
    placed = {path for members in found.memories.values() for path, _ in members}
    suspects = {path: module for path, module in model.named_modules() if suspicious(module)}
    for path, module in suspects.items():
        others = placed | (set(suspects) - {path})
        if not any(_within(other, path) for other in others) and not any(_within(path, o) for o in placed):
            why = (
                f"a {type(module).__name__} may keep a state, and is not known: see nestlearn.levels.register"
            )
            found.unplaced.append((path or "the model itself", why))
    taken = sorted({type(m).__name__ for m in model.modules() if guessed(m)} & _attentive(found, model))
    if taken:
        found.notes.append(f"taken for softmax attention by their projections: {', '.join(taken)}")
    held = {tensor for component in found.components.values() for tensor in component.tensors}
    constants = [name for name, b in model.named_buffers() if b.is_floating_point() and name not in held]
    if constants:
        found.notes.append(f"{len(constants)} buffers are taken for constants: {_some(constants)}")
    declared = getattr(getattr(model, "config", None), "cms_periods", None)
    groups = list(found.groups.values())
    if declared and len(declared) > 1 and groups and all(group.unit == "step" for group in groups):
        found.notes.append(
            f"the configuration has blocks for periods of {', '.join(map(str, declared))} tokens; "
            "this optimizer updates all of them every step (nestlearn.optim.Nested would not)"
        )


def _aliases(model: nn.Module, names: Mapping[int, str]) -> tuple[tuple[str, str], ...]:
    """Further names of tied parameters."""
    every = model.named_parameters(remove_duplicate=False)
    return tuple((name, names[id(p)]) for name, p in every if names[id(p)] != name)


def _attentive(found: Found, model: nn.Module) -> set[str]:
    """Classes of the modules that were placed as attention."""
    placed = [path for members in found.memories.values() for path, m in members if m.kind == "attention"]
    return {type(model.get_submodule(path)).__name__ for path in placed}


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def parameters_of(system: NestedSystem) -> Iterator[Component]:
    """Components of parameters that are updated, fast to slow."""
    for level in system.levels:
        yield from (c for c in level.components if c.kind == "parameters" and c.period is not None)


def _within(path: str, outer: str) -> bool:
    return outer in {path, ""} or path.startswith(f"{outer}.")


__all__ = ["Optimizers", "inspect", "look", "parameters_of"]
