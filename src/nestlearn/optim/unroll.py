"""Learning through an inner loop: k steps of an optimizer as one differentiable function (Sec. 3.3, 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nestlearn.optim.flow import State
from nestlearn.optim.gradient_memory import GradientMemory

Parameters = dict[str, Tensor]


@dataclass
class Unrolled:
    """Where an inner loop has come to.

    Attributes:
        parameters: The parameters after the last step, in the graph.
        states: The memories of each parameter, in the graph.
        losses: The inner loss before each step, in the graph as far back as it was kept.
    """

    parameters: Parameters
    states: dict[str, State]
    losses: list[Tensor] = field(default_factory=list)

    def detach(self) -> Unrolled:
        """The same values outside the graph, from which a next stretch can start."""
        return Unrolled(
            {name: value.detach() for name, value in self.parameters.items()},
            {name: _detached(state) for name, state in self.states.items()},
        )


def unroll(
    optimizer: GradientMemory,
    loss: Callable[[Parameters, int], Tensor],
    parameters: Mapping[str, Tensor],
    steps: int,
    *,
    states: Mapping[str, State] | None = None,
    truncate: int | None = None,
    first_order: bool = False,
    **settings: Any,
) -> Unrolled:
    """Take steps with an optimizer's rule such that the end can be differentiated by the beginning.

    What can have a gradient: the initial parameters, any number among the hyper-parameters given as a tensor
    (``lr=torch.tensor(0.1, requires_grad=True)``), and the initial memories in ``states`` (a
    :class:`~nestlearn.optim.DeepMomentum`'s network is a learned optimizer)::

        def loss(parameters, step):
            return task.loss(functional_call(model, parameters, task.x))

        inner = unroll(optimizer, loss, dict(model.named_parameters()), steps=5)
        loss(inner.parameters, 5).backward()

    Args:
        optimizer: Gives the rule and, from its defaults, the hyper-parameters; it is left unchanged.
        loss: Maps the parameters by name and the step's number to the inner loss.
        parameters: Initial parameters by name.
        steps: Number of steps.
        states: Initial memories by name; started anew where they are missing.
        truncate: Gradients flow through no more than the last steps since a multiple of this. Memory then
            does not grow with ``steps``.
        first_order: Treat the inner gradients as constants.
        settings: Hyper-parameters that win over the optimizer's.

    Returns:
        The parameters, memories and losses.

    Raises:
        ValueError: For fewer than one step, an unknown hyper-parameter or one outside its range, or an
            optimizer that needs more than gradients.
    """
    settings = _settings(optimizer, steps, truncate, settings)
    current = Unrolled(dict(parameters), {name: dict((states or {}).get(name, {})) for name in parameters})
    losses: list[Tensor] = []
    for step in range(steps):
        if truncate is not None and step and step % truncate == 0:
            losses[-truncate:] = [value.detach() for value in losses[-truncate:]]
            current = current.detach()
        current, value = _step(optimizer, loss, current, step, first_order, settings)
        losses.append(value)
    current.losses = losses
    return current


def _settings(
    optimizer: GradientMemory, steps: int, truncate: int | None, given: dict[str, Any]
) -> dict[str, Any]:
    for name, value in (("steps", steps), ("truncate", truncate)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    unknown = set(given) - set(optimizer.defaults)
    if unknown:
        raise ValueError(
            f"{type(optimizer).__name__} has no {', '.join(sorted(unknown))}: it has "
            f"{', '.join(sorted(optimizer.defaults))}"
        )
    if getattr(optimizer, "keys", None) is not None:
        raise ValueError(f"{type(optimizer).__name__} with keys needs a layer's inputs, which unroll has not")
    merged = {**optimizer.defaults, **given}
    optimizer.check(merged)
    return merged


def _step(
    optimizer: GradientMemory,
    loss: Callable[[Parameters, int], Tensor],
    current: Unrolled,
    step: int,
    first_order: bool,
    settings: dict[str, Any],
) -> tuple[Unrolled, Tensor]:
    names = list(current.parameters)
    with torch.enable_grad():
        values = [p if p.requires_grad else p.detach().requires_grad_() for p in current.parameters.values()]
        value = loss(dict(zip(names, values, strict=True)), step)
        gradients = torch.autograd.grad(
            value, values, create_graph=not first_order, materialize_grads=True, retain_graph=True
        )
        moved, states = optimizer.pure_step(
            values, list(gradients), [current.states[name] for name in names], settings, names
        )
    new = Unrolled(dict(zip(names, moved, strict=True)), dict(zip(names, states, strict=True)))
    return new, value


def _detached(state: State) -> State:
    return {name: value.detach() for name, value in state.items()}
