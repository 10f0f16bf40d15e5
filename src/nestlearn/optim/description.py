"""What the memories of the optimizers here are, for :func:`nestlearn.inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nestlearn.levels.description import Group, Named, State
from nestlearn.levels.gradients import Kept, describe
from nestlearn.optim.bricks.batches import is_matrix
from nestlearn.optim.flow import Settings

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from nestlearn.levels import Level
    from nestlearn.optim.consolidated import Consolidated
    from nestlearn.optim.key_memories import KeyMemories
    from nestlearn.optim.nested import Nested
    from nestlearn.optim.sites import Site

_DOT = "⟨m, -g⟩ with decay (Eq. 34)"
_SQUARES = Kept("squares", ("squares",), "||m ⊙ g - P||² (Eq. 101)")


def kept_by(optimizer: Optimizer, settings: Settings) -> tuple[Kept, ...]:
    """The memories that an optimizer of this room keeps for a group.

    Raises:
        NotImplementedError: If neither its class nor a class above it is known here.
    """
    for kind in type(optimizer).__mro__:
        if kind.__name__ in _STATES:
            return _STATES[kind.__name__](settings)
    raise NotImplementedError(f"{type(optimizer).__name__} needs a method nested_states")


def _linear(objective: str) -> Callable[[Settings], tuple[Kept, ...]]:
    return lambda _: (Kept("momentum", ("momentum",), objective),)


def _preconditioned(settings: Settings) -> tuple[Kept, ...]:
    momentum = Kept(
        "momentum", ("momentum",), "⟨m, -P g⟩ with decay (Eq. 46)", needs=("squares", "preconditioner")
    )
    if settings["preconditioner"] != "kronecker":
        return momentum, _SQUARES
    keys = ("left", "right", "left_root", "right_root")

    def size(parameter: Tensor) -> int:
        if not is_matrix(parameter.shape):
            return 0
        sides = (parameter.shape[0], parameter.numel() // parameter.shape[0])
        return sum(2 * side**2 for side in sides if side <= settings["max_size"])

    kronecker = Kept("preconditioner", keys, "||P(g) - g||², P a product of two sides (Eq. 39)", size=size)
    return momentum, replace(_SQUARES, size=lambda p: 0 if is_matrix(p.shape) else p.numel()), kronecker


def _m3(settings: Settings) -> tuple[Kept, ...]:
    """Fast and slow momentum, each at its frequency (Eq. 75)."""
    orthogonal = {id(p) for p, own in zip(settings["params"], settings["orthogonal"], strict=True) if own}
    wanted = settings["denominator"]
    divides = settings["mode"] == "paper" if wanted is None else wanted

    def matrices(parameter: Tensor) -> int:
        return parameter.numel() if id(parameter) in orthogonal else 0

    def squares(parameter: Tensor) -> int:
        return 0 if id(parameter) in orthogonal and not divides else parameter.numel()

    fast = Kept("fast momentum", ("momentum",), f"{_DOT}, read through Newton-Schulz")
    found = [fast, replace(_SQUARES, size=squares)]
    for i, period in enumerate(settings["periods"] if orthogonal else ()):
        slow = f"slow momentum {i + 1}" if len(settings["periods"]) > 1 else "slow momentum"
        sums = f"running sum of {slow}"
        found += [
            Kept(sums, (f"slow_{i}",), "the mean gradient of a period", size=matrices, kind="accumulator"),
            Kept(
                slow, (f"read_{i}",), f"{_DOT}, read once per period (Eq. 75)", size=matrices, period=period
            ),
        ]
    return tuple(found)


def _deep(settings: Settings) -> tuple[Kept, ...]:
    """Keys of several time scales, and the network that reads them (Eq. 50)."""
    count, hidden = len(settings["decays"]), settings["hidden"]
    keys = Kept("keys", tuple(f"key_{i}" for i in range(count)), _DOT, size=lambda p: count * p.numel())
    network = Kept(
        "deep momentum",
        ("size", *_NETWORK),
        "||m(u) - g||² (Eq. 50)",
        size=lambda _: 1 + count + hidden * (count + 1),
        needs=() if settings["objective"] == "predict" else ("keys",),
        context="keys and gradients",
    )
    return keys, network


_NETWORK = ("skip", "inner", "outer")
_STATES: dict[str, Callable[[Settings], tuple[Kept, ...]]] = {
    "Momentum": _linear(_DOT),
    "Muon": _linear(f"{_DOT}, read through Newton-Schulz (Eq. 42)"),
    "DeltaMomentum": _linear("||m gᵀ - P||² (Eq. 48)"),
    "FeatureMomentum": _linear("⟨m, -φ(g)⟩ with decay (Eq. 51)"),
    "PreconditionedMomentum": _preconditioned,
    "M3": _m3,
    "DeepMomentum": _deep,
    "DeltaGradientDescent": lambda _: (),
}


def groups_of_levels(optimizer: Nested) -> tuple[Group, ...]:
    """The levels of a nested optimizer: parameters, the optimizer's memories, sums and key memories."""
    levels, found = optimizer.levels, []
    step = optimizer.tokens_per_step or levels[0].period
    for index, level in enumerate(levels):
        inner = describe(optimizer._inner[level.name])[0]
        states = list(inner.states)
        if level.period > step:
            states.append(_sum(optimizer, level, inner.tensors))
        if level.name in optimizer.memories:
            states.append(_keys(optimizer.memories[level.name], level.refresh or level.period, "token"))
        slower = levels[index + 1] if level.name in optimizer._initial else None
        if slower is not None:
            states.append(_initial(optimizer, level, slower))
        rule = f"the loss, by {type(optimizer._inner[level.name]).__name__}"
        group = replace(
            inner,
            name=level.name,
            rule=f"{rule}, kept out of earlier contexts (Eq. 59)" if level.consolidate else rule,
            states=tuple(states),
            starts_from=None if slower is None else slower.name,
        )
        found.append(group.every(level.period, "token"))
    return tuple(found)


def groups_with_keys(optimizer: Consolidated) -> tuple[Group, ...]:
    """The groups of an optimizer, with the key memories of their parameters."""
    found = []
    for group in describe(optimizer.inner):
        own = {id(tensor) for tensor in group.tensors}
        memory = optimizer.memories
        sites = [site for site in memory.sites if any(id(p) in own for p in site.parameters)]
        keys = _keys(memory, memory.level.refresh or 1, None, sites)
        rule = f"{group.rule}, kept out of earlier contexts (Eq. 59)"
        found.append(replace(group, rule=rule, states=(*group.states, keys)))
    return tuple(found)


def _sum(optimizer: Nested, level: Level, tensors: Iterable[Tensor]) -> State:
    """What adds up the gradients of a period that has not ended (Eq. 71)."""

    def live() -> Named:
        _, total = optimizer._pending.get(level.name, (0, []))
        return [(str(index), value) for index, value in enumerate(total) if value is not None]

    return State(
        "running sum",
        "the mean gradient of a period (Eq. 71)",
        live=live,
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        kind="accumulator",
        unit="step",
    )


def _keys(memory: KeyMemories, period: int, unit: Any, sites: Iterable[Site] | None = None) -> State:
    """Second moments of inputs and output gradients over earlier contexts."""
    chosen = list(memory.sites if sites is None else sites)

    def live() -> Named:
        return [
            (f"{index}.{when}.{side}", moment)
            for index, site in enumerate(chosen)
            for when, moments in (("kept", site.kept), ("current", site.current))
            for side, moment in moments.items()
        ]

    return State(
        "key memories",
        "||C - x xᵀ||² and ||D - d dᵀ||², means over contexts",
        "inputs and output gradients of its layers",
        live=live,
        bytes=sum(moment.numel() * moment.element_size() for _, moment in live()),
        period=period,
        kind="key_memory",
        unit=unit,
    )


def _initial(optimizer: Nested, level: Level, slower: Level) -> State:
    """The state from which a level starts anew (Eq. 72)."""
    held = optimizer._initial[level.name]
    return State(
        "initial state",
        "what the level learns before it starts anew, first order (Eq. 72)",
        "what the level had learned",
        live=lambda: [(str(index), value) for index, value in enumerate(optimizer._initial[level.name])],
        bytes=sum(value.numel() * value.element_size() for value in held),
        period=slower.period,
        unit="token",
    )


__all__ = ["groups_of_levels", "groups_with_keys", "kept_by"]
