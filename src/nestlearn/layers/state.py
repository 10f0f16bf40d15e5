"""States of layers as trees: named tuples of tensors and of tuples of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from torch import Tensor

#: A state: nested (named) tuples of tensors.
State = TypeVar("State", bound=tuple)  # type: ignore[type-arg]


def map_state(function: Callable[..., Tensor], states: Sequence[State]) -> State:
    """Apply a function to the corresponding tensors of one or several states of one structure.

    A tensor that stands in two places of a state, as a memory and its own snapshot, is mapped once and stands
    in both places again: memories take a shorter way where the two are the same.

    Args:
        function: Called with one tensor of each state.
        states: One state or more, of the same types and lengths.

    Returns:
        A state of the same structure.

    Raises:
        ValueError: If the structures differ.
    """
    return cast(State, _map(function, states, {}))


def tensors_of(state: object) -> list[Tensor]:
    """All tensors of a state in order; one that stands in two places comes twice."""
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in cast(Sequence[object], state) for tensor in tensors_of(part)]


def map_places(function: Callable[[Tensor], object], state: object) -> object:
    """Apply a function to the tensor in every place of a state, as often as it stands there.

    Args:
        function: Called with one tensor; what it returns takes the tensor's place.
        state: Nested (named) tuples of tensors.
    """
    if isinstance(state, Tensor):
        return function(state)
    parts = [map_places(function, part) for part in cast(Sequence[object], state)]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def _map(
    function: Callable[..., Tensor], nodes: Sequence[object], done: dict[tuple[int, ...], Tensor]
) -> object:
    kinds, first = {type(node) for node in nodes}, nodes[0]
    if len(kinds) > 1:
        raise ValueError(f"states differ in type: {', '.join(sorted(kind.__name__ for kind in kinds))}")
    if isinstance(first, Tensor):
        place = tuple(id(node) for node in nodes)
        if place not in done:
            done[place] = function(*nodes)
        return done[place]
    groups = cast(Sequence[tuple[object, ...]], nodes)
    if len({len(group) for group in groups}) > 1:
        raise ValueError(f"states differ in size: {', '.join(str(len(group)) for group in groups)} parts")
    parts = [_map(function, each, done) for each in zip(*groups, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


__all__ = ["State", "map_places", "map_state", "tensors_of"]
