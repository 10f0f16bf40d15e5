"""How knowledge goes from one component to another (section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from nestlearn.levels.description import Group, Memory
from nestlearn.levels.order import frequency_key
from nestlearn.levels.system import Component, Transfer, TransferKind


def transfers(
    components: Mapping[str, Component],
    groups: Mapping[str, Group],
    memories: Mapping[str, list[tuple[str, Memory]]],
    holder: Mapping[str, str],
    parameters: Iterable[str],
) -> tuple[Transfer, ...]:
    """All transfers of a system, each once.

    Args:
        components: By name.
        groups: Of the optimizers, by the component of their parameters.
        memories: Over tokens, by component, each with its module's path.
        holder: Component of every parameter, by the parameter's name.
        parameters: Names of all parameters.
    """
    names = list(parameters)
    found = [*_of_states(components, groups), *_of_groups(components, groups)]
    chosen = {(path, m.name): name for name, members in memories.items() for path, m in members}
    for component, members in memories.items():
        for path, memory in members:
            found += _of_memory(component, path, memory, holder, names)
            for source in (*memory.sources, *memory.needs):
                what = "it is written with it" if source in memory.needs else "it makes its keys and gates"
                kind: TransferKind = "parametric" if source in memory.needs else "generation"
                found.append(Transfer(chosen[path, source], component, kind, what))
    return tuple(dict.fromkeys(found))


def _of_states(components: Mapping[str, Component], groups: Mapping[str, Group]) -> Iterator[Transfer]:
    """The network makes the optimizer's context, and the optimizer's memory makes the update (kind e, a)."""
    for name, group in groups.items():
        own = {f"{state.name} of {name}" for state in group.states if not state.after}
        for state in components.values():
            if state.name in own:
                what = "what it takes in: passes and gradients of these parameters"
                yield Transfer(name, state.name, "generation", what)
                yield Transfer(state.name, name, "parametric", "the update of the parameters is read from it")
            elif name in state.needs:
                yield Transfer(name, state.name, "parametric", "it follows the parameters")


def _of_groups(components: Mapping[str, Component], groups: Mapping[str, Group]) -> Iterator[Transfer]:
    """Groups of one graph, at different frequencies (kind c), and those that start anew (kind d)."""
    ordered = sorted(groups, key=lambda name: frequency_key(components[name], None))
    for fast, slow in combinations(ordered, 2):
        pace = [(components[name].period, components[name].unit) for name in (fast, slow)]
        if pace[0] != pace[1]:
            what = "one backward pass (if they are in one graph), two frequencies"
            yield Transfer(slow, fast, "backpropagation", what)
            yield Transfer(fast, slow, "backpropagation", what)
    for name, group in groups.items():
        if group.starts_from in groups:
            what = "starts anew from its initial state whenever the slower one is updated (Eq. 72)"
            yield Transfer(str(group.starts_from), name, "initialisation", what)


def _of_memory(
    component: str, path: str, memory: Memory, holder: Mapping[str, str], names: list[str]
) -> Iterator[Transfer]:
    """Between a memory over tokens and the parameters of its module."""
    begin = f"{path}." if path else ""
    initial = [f"{begin}{name}" for name in memory.initial]
    if memory.generated_by is None:
        makers = [name for name in names if name.startswith(begin) and name not in initial]
    else:
        makers = [f"{begin}{name}" for name in memory.generated_by]
    for owner in dict.fromkeys(holder[name] for name in initial if name in holder):
        yield Transfer(owner, component, "initialisation", "the state that every sequence starts from")
    for owner in dict.fromkeys(holder[name] for name in makers if name in holder):
        if memory.kind == "attention":
            yield Transfer(component, owner, "non-parametric", "the layer's output depends on cached tokens")
        else:
            yield Transfer(owner, component, "generation", "they make what it takes in, or its weights")
            yield Transfer(component, owner, "parametric", "the layer's output is read from it")


__all__ = ["transfers"]
