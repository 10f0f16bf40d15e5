"""Checks and copies of a nested optimizer's saved state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nestlearn.optim.key_memories import KeyMemories

Gradients = list[Tensor | None]


def check_state(
    state: Mapping[str, Any],
    inner_optimizers: Mapping[str, Optimizer],
    memories: Mapping[str, KeyMemories],
    initial: Mapping[str, list[Tensor]],
) -> None:
    """Refuse a foreign state before anything of it is loaded.

    Args:
        state: What ``Nested.state_dict`` returned.
        inner_optimizers: One per level.
        memories: Of the levels that consolidate.
        initial: Initial states of the levels that start anew.

    Raises:
        ValueError: If levels, consolidation, variant or sizes differ, naming what does.
    """
    expected = {"clock", "surprise", "surprises", "levels", "pending", "memories", "initial"}
    if not expected <= set(state):
        missing = ", ".join(sorted(expected - set(state)))
        raise ValueError(f"this is not a state of nestlearn.optim.Nested: it has no {missing}")
    for key, own in (("levels", inner_optimizers), ("memories", memories), ("initial", initial)):
        if set(state[key]) != set(own):
            raise ValueError(
                f"the state has {key} {sorted(state[key])}, this optimizer {sorted(own)}: "
                "levels, consolidation and variant must be the same"
            )
    sizes = {name: len(inner.param_groups[0]["params"]) for name, inner in inner_optimizers.items()}
    for name, entry in state["pending"].items():
        if len(entry["gradients"]) != sizes.get(name):
            raise ValueError(f"the state holds pending gradients of another level {name!r}")
    for name in inner_optimizers:
        found = [len(group["params"]) for group in state["levels"][name]["param_groups"]]
        if found != [sizes[name]]:
            raise ValueError(f"level {name!r} has {sizes[name]} parameters, the state {found}")
    for name, memory in memories.items():
        memory.check_state(state["memories"][name])


def on_devices_of(saved: list[Tensor | None], parameters: list[nn.Parameter]) -> Gradients:
    """Copies of saved tensors, each on its parameter's device."""
    return [
        None if value is None else value.to(parameter.device, copy=True)
        for value, parameter in zip(saved, parameters, strict=True)
    ]


def weighted_sum(total: Tensor | None, fresh: Tensor | None, tokens: int) -> Tensor | None:
    """``total + tokens * fresh`` where each may be missing; ``total`` may be overwritten."""
    if fresh is None:
        return total
    return fresh * tokens if total is None else total.add_(fresh, alpha=tokens)
