"""Which hidden units belong to which level (SPEC 6.16)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.retrofitting.anatomy import Block, Projection, find_rest

#: Ways of dividing: hidden units of every block, or whole blocks.
WAYS = ("units", "layers")
POLICIES = ("depth", "random", "usage")

Usage = Mapping[str, Tensor]
"""How hard text drives each hidden unit, by block's name."""


@dataclass(frozen=True)
class Division:
    """The hidden units of every level.

    Attributes:
        blocks: The blocks.
        units: Indices of the units, ascending, by block's and level's name; every unit is in one level.
        rest: The level that also owns what is not in a block; None if that stays as it is.
        others: What that is, see :func:`~nestlearn.retrofitting.anatomy.find_rest`.
    """

    blocks: tuple[Block, ...]
    units: Mapping[str, Mapping[str, Tensor]]
    rest: str | None = None
    others: tuple[Projection, ...] = ()

    def with_rest(self, level: str | None, model: nn.Module) -> Division:
        """The same units, with all else of the model in a level; None leaves that as it is.

        Raises:
            ValueError: If the model has nothing else.
        """
        return self if level is None else replace(self, rest=level, others=find_rest(model, self.blocks))

    def to_tree(self) -> dict[str, Any]:
        """Nested dicts of tensors, for a file. A level that owns a whole block has None there."""
        sizes = {block.name: block.units for block in self.blocks}
        return {
            name: {
                level: None if len(index) == sizes[name] else index.to(torch.int32)
                for level, index in levels.items()
            }
            for name, levels in self.units.items()
        }

    @classmethod
    def from_tree(cls, blocks: tuple[Block, ...], tree: Mapping[str, Any]) -> Division:
        """What :meth:`to_tree` returned.

        Raises:
            ValueError: If the tree does not divide exactly these blocks.
        """
        if set(tree) != {block.name for block in blocks}:
            raise ValueError(f"the division is of the blocks {sorted(tree)}, the model has others")
        units: dict[str, dict[str, Tensor]] = {}
        for block in blocks:
            whole = torch.arange(block.units)
            units[block.name] = {
                level: whole if index is None else index.long() for level, index in tree[block.name].items()
            }
            members = torch.cat(list(units[block.name].values())).sort().values
            if not torch.equal(members, whole):
                raise ValueError(f"the division of block {block.name!r} does not have each unit once")
        return cls(blocks, units)


def divide(
    blocks: tuple[Block, ...],
    levels: Sequence[str],
    how: str = "units",
    policy: str = "random",
    *,
    shares: Sequence[float] | None = None,
    usage: Usage | None = None,
    seed: int = 0,
) -> Division:
    """Divide hidden units among levels.

    Args:
        blocks: The blocks, in the model's order.
        levels: Names, fast to slow.
        how: ``"units"``: each block's units; ``"layers"``: whole blocks.
        policy: ``"depth"``: the first blocks are the fast level's, the last the slow one's (whole blocks
            only); ``"random"``; ``"usage"``: what text drives hardest is the slow level's.
        shares: Relative size of each level; equal by default.
        usage: For ``"usage"``, see :func:`measure_usage`.
        seed: Of the random policy.

    Raises:
        ValueError: For an unknown way or policy, shares that do not fit, or fewer units than levels.
    """
    shares = _shares(levels, shares)
    if how not in WAYS:
        raise ValueError(f"how must be one of {', '.join(WAYS)}; got {how!r}")
    if policy not in POLICIES:
        raise ValueError(f"assign must be one of {', '.join(POLICIES)}; got {policy!r}")
    if policy == "usage" and usage is None:
        raise ValueError("assign='usage' needs the units' usage: see measure_usage")
    generator = torch.Generator().manual_seed(seed)
    if how == "layers":
        return _by_layers(blocks, levels, policy, shares, usage, generator)
    if policy == "depth":
        raise ValueError("the units of one block have no depth: use how='layers', or assign='random'")
    divided = {}
    for block in blocks:
        if block.units < len(levels):
            raise ValueError(f"block {block.name!r} has {block.units} units for {len(levels)} levels")
        order = torch.randperm(block.units, generator=generator)
        if policy == "usage":
            assert usage is not None
            order = usage[block.name].cpu().argsort(stable=True)
        parts = order.split(_counts(block.units, shares))
        divided[block.name] = {level: part.sort().values for level, part in zip(levels, parts, strict=True)}
    return Division(blocks, divided)


def _by_layers(
    blocks: tuple[Block, ...],
    levels: Sequence[str],
    policy: str,
    shares: Sequence[float],
    usage: Usage | None,
    generator: torch.Generator,
) -> Division:
    if len(blocks) < len(levels):
        raise ValueError(f"there are {len(blocks)} feed-forward blocks for {len(levels)} levels")
    order = list(range(len(blocks)))
    if policy == "random":
        order = torch.randperm(len(blocks), generator=generator).tolist()
    if policy == "usage":
        assert usage is not None
        driven = {i: float(usage[block.name].mean()) for i, block in enumerate(blocks)}
        order.sort(key=driven.__getitem__)
    owner: dict[int, str] = {}
    for level, count in zip(levels, _counts(len(blocks), shares), strict=True):
        owner |= dict.fromkeys(order[len(owner) : len(owner) + count], level)
    return Division(
        blocks, {block.name: {owner[i]: torch.arange(block.units)} for i, block in enumerate(blocks)}
    )


def _shares(levels: Sequence[str], shares: Sequence[float] | None) -> Sequence[float]:
    if not levels:
        raise ValueError("there must be at least one level")
    if shares is None:
        return [1.0] * len(levels)
    if len(shares) != len(levels) or not all(math.isfinite(share) and share > 0 for share in shares):
        raise ValueError(f"shares must be one positive number for each of {list(levels)}; got {list(shares)}")
    return shares


def _counts(number: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the shares that add up, each at least one."""
    counts: list[int] = []
    for i in range(len(shares)):
        later = len(shares) - i - 1
        wanted = round(number * sum(shares[: i + 1]) / sum(shares)) - sum(counts)
        counts.append(max(1, min(wanted, number - sum(counts) - later)))
    return counts


@torch.no_grad()
def measure_usage(model: nn.Module, blocks: Iterable[Block], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """How hard text drives each hidden unit: its mean absolute value times the length of what it writes.

    Args:
        model: The model.
        blocks: Its blocks.
        batches: Token ids ``[B, T]``.

    Returns:
        ``[units]`` by block's name, in float32.

    Raises:
        ValueError: If there is no batch, or the text does not reach a block.
    """
    sums: dict[str, Tensor] = {}
    handles = []
    for block in blocks:

        def add(module: nn.Module, args: tuple[Any, ...], name: str = block.name) -> None:
            driven = args[0].detach().flatten(0, -2).float().abs().sum(0)
            sums[name] = sums[name] + driven if name in sums else driven

        handles.append(model.get_submodule(block.reader.name).register_forward_pre_hook(add))
    tokens = 0
    training = model.training
    model.eval()
    try:
        for batch in batches:
            model(batch)
            tokens += batch.numel()
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    if not tokens:
        raise ValueError("the usage of units cannot be measured without text: the calibration is empty")
    usage = {}
    for block in blocks:
        if block.name not in sums:
            raise ValueError(
                f"block {block.name!r} was not run on the text: name those that are, blocks=[...]"
            )
        slot = block.reader.weight
        weight = model.get_parameter(slot.name).detach().float()
        usage[block.name] = sums[block.name] / tokens * weight.norm(dim=1 - (slot.axis or 0))
    return usage
