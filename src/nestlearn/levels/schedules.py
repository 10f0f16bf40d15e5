"""What a schedule says of an inspected system: tokens of a step, and periods of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nestlearn.levels.clock import Clock
from nestlearn.levels.description import Group
from nestlearn.levels.gradients import Divide
from nestlearn.levels.level import Level

#: Tokens of a step; levels; or periods in tokens by beginnings of parameters' names.
Schedule = int | Sequence[Level] | Mapping[str, int]


def division(model: nn.Module, names: Mapping[int, str], schedule: Schedule | None) -> Divide | None:
    """How a schedule divides parameters; None if it does not."""
    if schedule is None:
        return None
    if isinstance(schedule, int):
        if isinstance(schedule, bool) or schedule < 1:
            raise ValueError(f"schedule: a step has at least 1 token, got {schedule!r}")
        return None
    periods = _periods(model, names, schedule)

    def divide(settings: Mapping[str, Any]) -> list[tuple[str, list[Tensor], int]]:
        parts: dict[tuple[str, int], list[Tensor]] = {}
        first = next(iter(periods.values()))
        for parameter in settings["params"]:
            # What is frozen or not the model's goes along with the first part, and is told from it later.
            parts.setdefault(periods.get(names.get(id(parameter), ""), first), []).append(parameter)
        return [(name, members, period) for (name, period), members in parts.items()]

    return divide


def _periods(
    model: nn.Module, names: Mapping[int, str], schedule: Sequence[Level] | Mapping[str, int]
) -> dict[str, tuple[str, int]]:
    """Level's name and period of every parameter that is trained."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad and id(p) in names]
    if isinstance(schedule, Mapping):
        for begin, period in schedule.items():
            Level(begin or "the rest", period)  # refuses what is no period
        found = {name: _longest(name, schedule) for name in trained}
        unused = [begin for begin in schedule if begin and begin not in {key for key, _ in found.values()}]
        if unused:
            raise ValueError(
                f"the schedule has {', '.join(map(repr, unused))}, with which no trained parameter begins; "
                f"there are {', '.join(trained[:3])}, ..."
            )
        return found
    levels = Clock(schedule).levels
    assign = getattr(model, "assign_level", None)
    if assign is None and len(levels) > 1:
        raise ValueError(
            f"{type(model).__name__} does not say which level its parameters belong to: give the schedule as "
            "periods by beginnings of parameters' names"
        )
    by_name = {level.name: level.period for level in levels}
    chosen = {name: levels[0].name if assign is None else assign(name, levels) for name in trained}
    return {name: (level, by_name[level]) for name, level in chosen.items()}


def _longest(name: str, periods: Mapping[str, int]) -> tuple[str, int]:
    # Wrappers of torch put a name in front.
    own = name.removeprefix("module.").removeprefix("_orig_mod.")
    fits = [b for b in periods if not b or any(n == b or n.startswith(f"{b}.") for n in (name, own))]
    if not fits:
        raise ValueError(f"the schedule says nothing of parameter {name}: add '' for all others")
    begin = max(fits, key=len)
    return begin or "the rest", periods[begin]


def tokens_per_step(
    groups: Iterable[Group], optimizers: list[Optimizer], schedule: Schedule | None
) -> int | None:
    """From the schedule, from the optimizer, or the shortest period of an optimizer that counts tokens."""
    if isinstance(schedule, int):
        return schedule
    for optimizer in optimizers:
        if isinstance(own := getattr(optimizer, "tokens_per_step", None), int):
            return own
    if schedule is not None:
        return None
    periods = [group.period for group in groups if group.unit == "token"]
    return min(periods) if periods else None


__all__ = ["Schedule", "division", "tokens_per_step"]
