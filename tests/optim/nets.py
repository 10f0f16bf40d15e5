"""Small networks, data and levels for the optimizer's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.levels import Level
from nestlearn.optim import Nested
from tests.helpers import copy_tree

TOKENS = 8  # of one step


class Net(nn.Module):
    """Two linear layers and a norm."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10, bias=bias)
        self.norm = nn.LayerNorm(10)
        self.second = nn.Linear(10, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(x))))


def net(seed: int = 0, **changes: Any) -> Net:
    torch.manual_seed(seed)
    return Net(**changes)


def by_layer(name: str, _: nn.Parameter) -> str:
    """``first`` and the norm are fast, ``second`` is slow."""
    return "slow" if name.startswith("second") else "fast"


def two_levels(fast: int = TOKENS, slow: int = 3 * TOKENS, **changes: Any) -> list[Level]:
    return [Level("slow", slow, **{"lr": 3e-3, **changes}), Level("fast", fast, **{"lr": 1e-2, **changes})]


def batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(TOKENS, 6, generator=generator), torch.randn(TOKENS, 3, generator=generator))
        for _ in range(count)
    ]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def train(
    model: nn.Module,
    optimizer: Nested,
    data: Iterable[tuple[Tensor, Tensor]],
    *,
    zero: bool = True,
    surprises: Sequence[float] | None = None,
    after: Callable[[int], None] | None = None,
) -> None:
    """The usual loop; ``after`` is called with the number of every finished step."""
    for i, batch in enumerate(data):
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step(tokens=TOKENS, surprise=loss if surprises is None else surprises[i])
        if zero:
            optimizer.zero_grad()
        if after is not None:
            after(i + 1)


def values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters."""
    return copy_tree(dict(model.named_parameters()))


def snapshot(model: nn.Module, optimizer: Nested) -> dict[str, Any]:
    """A copy of everything that a step may write, key memories of the pass under way included."""
    return copy_tree({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})
