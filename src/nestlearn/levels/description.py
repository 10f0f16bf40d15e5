"""How a module or an optimizer says which associative memories it has.

A module that keeps memories over tokens has a method ``nested_memories() -> Iterable[Memory]``, an optimizer
whose state torch does not know has ``nested_groups() -> Iterable[Group]``. :func:`nestlearn.inspect` asks
both, and looks up what comes with torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import Tensor

Kind = Literal[
    "parameters",
    "optimizer_state",
    "fast_weights",
    "attention",
    "recurrent_state",
    "statistics",
    "key_memory",
    "accumulator",
]
Unit = Literal["token", "step"]
Named = list[tuple[str, Tensor]]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Memory:
    """A memory that a module keeps while it reads: fast weights, a recurrent state, cached tokens.

    Attributes:
        name: What it is, the same for every module that has the same.
        kind: One of :data:`KINDS`, but ``"parameters"``.
        objective: What it minimises, in words or as a formula.
        context: What it compresses.
        period: Updates happen once in so many units; 0 for what is computed anew for every token (attention,
            whose frequency is infinite).
        unit: ``"token"``, or ``"step"`` for what changes once per forward pass.
        bytes: Of the state of one sequence; 0 where it grows or is not known.
        initial: Parameters of the module, by their names in it, that it starts from (transfer by
            initialisation).
        generated_by: Parameters that generate its weights or its context; None for all the others of the
            module.
        needs: Names of memories of the same module whose new state its own update needs.
        tensors: Buffers of the module, by their names in it, that hold it.
        sources: Names of memories of the same module that generate its context (self-modification).
    """

    name: str
    kind: Kind
    objective: str
    context: str
    period: int = 1
    unit: Unit = "token"
    bytes: int = 0
    initial: tuple[str, ...] = ()
    generated_by: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.kind == "parameters":
            raise ValueError(
                f"memory {self.name!r}: kind must be one of {', '.join(KINDS[1:])}; got {self.kind!r}"
            )
        if isinstance(self.period, bool) or not isinstance(self.period, int) or self.period < 0:
            raise ValueError(
                f"memory {self.name!r}: period is a number of {self.unit}s, 0 or more; got {self.period!r}"
            )


@dataclass(frozen=True)
class State:
    """A memory over gradients that an optimizer keeps for a group.

    Attributes:
        name: ``"momentum"``, ...
        objective: What it minimises.
        context: What it compresses.
        live: Its tensors as they are now, by the parameter's name; empty before the first step.
        bytes: Of all of them, known beforehand.
        period: Updates of the group between two of its own.
        kind: ``"optimizer_state"``, ``"key_memory"`` or ``"accumulator"``.
        unit: ``"token"`` if ``period`` counts tokens, ``"step"`` if it counts calls of ``step`` and not
            updates of the group, None for updates of the group.
        needs: States of the group whose new value its own update needs.
        after: Whether its update needs the new weights, so that it comes after them (an average of weights).
        read: Whether the update of the weights reads its new value.
    """

    name: str
    objective: str
    context: str = "gradients"
    live: Callable[[], Named] = list
    bytes: int = 0
    period: int = 1
    kind: Kind = "optimizer_state"
    unit: Unit | None = None
    needs: tuple[str, ...] = ()
    after: bool = False
    read: bool = True


@dataclass(frozen=True)
class Group:
    """Parameters that an optimizer updates together.

    Attributes:
        name: Unique in its optimizer.
        rule: What updates them, in words.
        tensors: The tensors that are updated.
        period: Units between two updates.
        unit: ``"token"`` or ``"step"``.
        states: The memories over their gradients.
        covers: Parameters of the model that the tensors stand for, if they are not parameters themselves.
        gradients: Their gradients before a step, where the tensors do not have them yet.
        names: Names of the tensors; by default those in the model.
        starts_from: Name of the group whose updates let this one start anew from its initial state (Eq. 72).
        unknown: Entries of the state that nobody described, with the reason.
    """

    name: str
    rule: str
    tensors: tuple[Tensor, ...]
    period: int = 1
    unit: Unit = "step"
    states: tuple[State, ...] = ()
    covers: tuple[Tensor, ...] | None = None
    gradients: Callable[[], list[Tensor | None]] | None = None
    names: tuple[str, ...] | None = None
    starts_from: str | None = None
    unknown: tuple[tuple[str, str], ...] = field(default=())

    def every(self, period: int, unit: Unit) -> Group:
        """The same group, updated once in ``period`` units; its states keep their pace relative to it."""
        return replace(self, period=period, unit=unit)


__all__ = ["KINDS", "Group", "Kind", "Memory", "Named", "State", "Unit"]
