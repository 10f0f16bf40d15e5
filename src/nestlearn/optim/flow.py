"""What an optimizer's rule sees of the parameters, and what it refuses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestlearn.optim.bricks.lists import Tensors

State = dict[str, Tensor]
Settings = Mapping[str, Any]


class NonFiniteGradientError(ValueError):
    """A gradient or the surprise was NaN or infinite; nothing was written."""


@dataclass
class Flow:
    """Parameters that are updated together, with what flows to each of them.

    Attributes:
        parameters: The parameters.
        gradients: Their gradients; not to be overwritten.
        states: Their memories, by name.
    """

    parameters: Tensors
    gradients: Tensors
    states: list[State]

    def memory(self, name: str) -> Tensors:
        """One memory of every parameter."""
        return [state[name] for state in self.states]

    def part(self, indices: Sequence[int]) -> Flow:
        """The flow of some of the parameters."""
        return Flow(
            [self.parameters[i] for i in indices],
            [self.gradients[i] for i in indices],
            [self.states[i] for i in indices],
        )

    def on_cpu(self) -> bool:
        """Whether the parameters are in the memory of a processor with caches."""
        return self.parameters[0].device.type == "cpu"

    def within(self, elements: int) -> Iterator[Flow]:
        """The same in pieces of at most so many elements, or one parameter; equal shapes side by side."""
        order = sorted(range(len(self.parameters)), key=lambda i: tuple(self.parameters[i].shape))
        piece: list[int] = []
        total = 0
        for i in order:
            size = self.parameters[i].numel()
            if piece and total + size > elements:
                yield self.part(piece)
                piece, total = [], 0
            piece.append(i)
            total += size
        yield self.part(piece)


def all_finite(values: Sequence[Tensor]) -> bool:
    """Whether no value is NaN or infinite."""
    by_device: dict[torch.device, Tensors] = defaultdict(list)
    for value in values:
        if value.numel():
            by_device[value.device].append(value)
    for own in by_device.values():
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(own)])
        # A length can overflow where its elements do not; only then every element is looked at.
        if not bool(torch.isfinite(norms).all()) and not all(bool(v.isfinite().all()) for v in own):
            return False
    return True


def refuse(value: Tensor, what: str) -> None:
    """Refuse complex and sparse tensors.

    Raises:
        ValueError: Saying what to give instead.
    """
    if value.is_complex():
        raise ValueError(
            f"a {what} of dtype {value.dtype} has no place here: give torch.view_as_real(parameter) instead"
        )
    if value.layout != torch.strided:
        raise ValueError(f"a {what} of layout {value.layout} has no place here: use dense gradients")
