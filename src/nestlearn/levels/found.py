"""What an inspection has found so far: components, and the tensors behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nestlearn.levels.description import Group, Memory, Named, State
from nestlearn.levels.modules import walk
from nestlearn.levels.system import Component


@dataclass
class Found:
    """A system, and the tensors behind it.

    Attributes:
        components: By name.
        groups: The optimizers' groups by the name of their parameters' component.
        memories: Memories over tokens by the name of their component, each with its module's path.
        holder: Component of every parameter of the model, by its name.
        unplaced: See :class:`~nestlearn.levels.system.NestedSystem`.
        notes: Likewise.
        tokens_per_step: Likewise.
        owners: The optimizer of every group and its states, by component.
    """

    model: nn.Module
    components: dict[str, Component] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    memories: dict[str, list[tuple[str, Memory]]] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)
    unplaced: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tokens_per_step: int | None = None
    owners: dict[str, Optimizer] = field(default_factory=dict)

    def state(self, name: str) -> State | None:
        """The state of an optimizer behind a component; None if it is something else."""
        for group_name, group in self.groups.items():
            for state in group.states:
                if state_name(state, group_name) == name:
                    return state
        return None

    def live(self, name: str) -> Named:
        """The tensors of a component as they are now; none for what lives within a sequence."""
        if name in self.groups:
            group = self.groups[name]
            return list(zip(self.components[name].tensors, group.tensors, strict=False))
        if state := self.state(name):
            return state.live()
        if name in self.memories:
            held = [(path, tensor) for path, memory in self.memories[name] for tensor in memory.tensors]
            return [
                (f"{path}.{tensor}", getattr(self.model.get_submodule(path), tensor)) for path, tensor in held
            ]
        parameters = dict(self.model.named_parameters())
        return [(tensor, parameters[tensor]) for tensor in self.components[name].tensors]

    def gradients(self, name: str) -> list[Tensor | None]:
        """Gradients of a group's tensors, before a step."""
        group = self.groups[name]
        if group.gradients is not None:
            return group.gradients()
        return [tensor.grad for tensor in group.tensors]

    def add(self, component: Component) -> str:
        """Keep a component under a name that is free, which is returned."""
        name = self.free(component.name)
        self.components[name] = component if name == component.name else _renamed(component, name)
        return name

    def free(self, name: str) -> str:
        """A name that no component has: this one, or with a number."""
        taken, count = name, 1
        while taken in self.components:
            count += 1
            taken = f"{name} {count}"
        return taken


def state_name(state: State, group: str) -> str:
    """What the component of a group's state is called."""
    return f"{state.name} of {group}"


def place(
    found: Found, group: Group, names: Mapping[int, str], prefix: str = "", owner: Optimizer | None = None
) -> None:
    """A group's parameters and states as components.

    Parameters that do not want a gradient are left to the frozen ones: an optimizer passes over them.
    """
    name = found.free(f"{prefix} {group.name}".strip())
    chosen = _chosen(found, group, names, name)
    if not chosen and group.tensors:
        return
    tensors, labels = [tensor for tensor, _ in chosen], [label for _, label in chosen]
    states = {state.name: state_name(state, name) for state in group.states}
    found.components[name] = Component(
        name,
        "parameters",
        group.rule,
        "batches of the stream",
        group.period,
        group.unit,
        sum(t.numel() for t in tensors),
        sum(t.numel() * t.element_size() for t in tensors),
        tuple(labels),
        needs=tuple(states[state.name] for state in group.states if state.read and not state.after),
    )
    found.groups[name] = Group(**{**vars(group), "tensors": tuple(tensors)})
    held = labels if group.covers is None else [names[id(t)] for t in group.covers if id(t) in names]
    found.holder.update(dict.fromkeys(held, name))
    found.unplaced += list(group.unknown)
    for state in group.states:
        found.add(_state(state, group, name, states))
    if owner is not None:
        found.owners.update(dict.fromkeys((name, *states.values()), owner))


def _chosen(found: Found, group: Group, names: Mapping[int, str], own: str) -> list[tuple[Tensor, str]]:
    """The tensors of a group that are the model's, are trained, and are in no other group."""
    chosen = []
    for index, tensor in enumerate(group.tensors):
        label = group.names[index] if group.names is not None else names.get(id(tensor))
        if label is None:
            why = "the optimizer has this tensor, and the model has not"
            found.unplaced.append((f"{own}[{index}]", why))
        elif group.covers is None and label in found.holder:
            found.unplaced.append((label, f"in {found.holder[label]} already, and in {own} again"))
        elif tensor.requires_grad or tensor.grad is not None:
            chosen.append((tensor, label))
    return chosen


def _state(state: State, group: Group, holder: str, states: Mapping[str, str]) -> Component:
    unit = state.unit or group.unit
    period = state.period if state.unit else state.period * group.period
    needs = tuple(states[other] for other in state.needs) + ((holder,) if state.after else ())
    return Component(
        state_name(state, holder),
        state.kind,
        state.objective,
        f"{state.context} of {holder}" if state.context == "gradients" else state.context,
        period,
        unit,
        bytes=state.bytes,
        tensors=tuple(name for name, _ in state.live()),
        needs=needs,
    )


def place_rest(found: Found, names: Mapping[int, str], *, trained: bool) -> None:
    """Parameters that nothing updates: frequency 0."""
    rest: dict[str, Named] = {}
    for name, parameter in found.model.named_parameters():
        if name in names.values() and name not in found.holder:
            forgotten = parameter.requires_grad and (trained or bool(found.groups))
            kind = "not trained" if forgotten else "frozen" if trained or found.groups else "weights"
            rest.setdefault(kind, []).append((name, parameter))
    for kind, members in rest.items():
        name = found.add(
            Component(
                kind,
                "parameters",
                "none any more: as they were made" if kind == "frozen" else "none here: static",
                "what they were trained on before",
                None,
                None,
                sum(p.numel() for _, p in members),
                sum(p.numel() * p.element_size() for _, p in members),
                tuple(label for label, _ in members),
            )
        )
        found.holder.update(dict.fromkeys((label for label, _ in members), name))
        if kind == "not trained":
            found.notes.append(
                f"{len(members)} parameters want a gradient, and no group of the optimizer has them"
            )


def place_memories(found: Found) -> None:
    """Memories over tokens; alike ones of several modules are one component."""
    alike: dict[tuple[Any, ...], list[tuple[str, Memory]]] = {}
    for path, _, memories in walk(found.model):
        for memory in memories:
            key = (memory.name, memory.kind, memory.objective, memory.context, memory.period, memory.unit)
            alike.setdefault(key, []).append((path, memory))
    chosen: dict[tuple[str, str], str] = {}
    for members in alike.values():
        name = found.add(_memory(members))
        found.memories[name] = members
        chosen |= {(path, memory.name): name for path, memory in members}
    for name, members in found.memories.items():
        needs = {chosen[path, other] for path, memory in members for other in memory.needs}
        found.components[name] = _renamed(found.components[name], name, tuple(sorted(needs)))


def _memory(members: list[tuple[str, Memory]]) -> Component:
    memory = members[0][1]
    held = tuple(f"{path}.{t}".lstrip(".") for path, own in members for t in own.tensors)
    return Component(
        memory.name,
        memory.kind,
        memory.objective,
        memory.context,
        memory.period,
        memory.unit,
        bytes=sum(own.bytes for _, own in members),
        tensors=held,
        where=tuple(path or "the model itself" for path, _ in members),
    )


def _renamed(component: Component, name: str, needs: tuple[str, ...] | None = None) -> Component:
    return Component(
        **{**vars(component), "name": name, "needs": component.needs if needs is None else needs}
    )


__all__ = ["Found", "place", "place_memories", "place_rest", "state_name"]
