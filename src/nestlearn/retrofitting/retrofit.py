"""A pretrained model's feed-forward blocks become levels (SPEC 6.16, Sec. 7.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from nestlearn.levels import Clock, Group, Level
from nestlearn.optim import Nested
from nestlearn.retrofitting.anatomy import find_blocks
from nestlearn.retrofitting.copies import sharing_copy
from nestlearn.retrofitting.division import WAYS, Division, divide, measure_usage
from nestlearn.retrofitting.parts import Parts
from nestlearn.retrofitting.samples import own_samples

M = TypeVar("M", bound=nn.Module)
#: Tokens of the model's own samples from which the usage of its units is measured.
USAGE_TOKENS = 4096
_ATTRIBUTE = "_nestlearn_retrofit"


@dataclass(frozen=True)
class Retrofit:
    """What :func:`retrofit` made of a model.

    Attributes:
        base: The model as it was given, which shares its other parameters with the retrofitted one.
        levels: The levels, fast to slow.
        division: Their hidden units.
    """

    base: nn.Module
    levels: tuple[Level, ...]
    division: Division

    def __deepcopy__(self, memo: dict[int, Any]) -> Retrofit:
        return self  # of a copy the base is the same


def retrofit(
    model: M,
    levels: Iterable[Level],
    how: str = "units",
    *,
    assign: str | None = None,
    shares: Sequence[float] | None = None,
    blocks: Iterable[str] | None = None,
    calibration: Iterable[Tensor] | None = None,
    rest: str | None = None,
    seed: int = 0,
) -> M:
    """Give the hidden units of a model's feed-forward blocks to levels.

    The result is a model of the same class that computes the same to the bit, generates, and is saved as
    before. Its feed-forward blocks (and ``rest``) are copies that learn; all else is frozen and shared with
    the given model, which is left as it is. (As the memory is one, ``load_state_dict`` of a retrofitted
    model, or anything else that writes into its frozen parameters, reaches the given one.) ::

        model = nl.retrofit(base, [nl.Level("fast", 512), nl.Level("slow", 4096, consolidate=True)])
        optimizer = nl.NestedUnits(model)

    :class:`nestlearn.Learner` does both.

    Args:
        model: Any module with feed-forward blocks; see :func:`~nestlearn.retrofitting.anatomy.find_blocks`.
        levels: The levels, in any order.
        how: ``"units"``: each block's hidden units are divided; ``"layers"``: whole blocks are.
        assign: ``"depth"`` (default of layers): early blocks are fast; ``"random"`` (default of units);
            ``"usage"``: what text drives hardest is slow. See :func:`~nestlearn.retrofitting.divide`.
        shares: Relative sizes of the levels, fast to slow; equal by default.
        blocks: Names of the modules that are feed-forward blocks, for a model that is not known.
        calibration: Token ids ``[B, T]`` by which usage is measured; by default samples that the model
            draws itself.
        rest: Name of the level that also owns the other linear layers (attention, head) and the embedding of
            the tokens; by default they stay as they are. Norms and positions always do.
        seed: Of the random policy and the model's own samples.

    Raises:
        ValueError: For a model without known blocks, saying what was looked for, one that is retrofitted
            already, or values outside their range.
    """
    if hasattr(model, _ATTRIBUTE):
        raise ValueError("this model is retrofitted already: take undo_retrofit(model) first")
    ordered = Clock(levels).levels
    names = [level.name for level in ordered]
    if rest is not None and rest not in names:
        raise ValueError(f"rest must name a level, one of {', '.join(names)}; got {rest!r}")
    if how not in WAYS:
        raise ValueError(f"how must be one of {', '.join(WAYS)}; got {how!r}")
    found = find_blocks(model, blocks)
    policy = assign if assign is not None else "depth" if how == "layers" else "random"
    usage = None
    if policy == "usage":
        batches = own_samples(model, USAGE_TOKENS, seed=seed) if calibration is None else calibration
        usage = measure_usage(model, found, batches)
    division = divide(found, names, how, policy, shares=shares, usage=usage, seed=seed)
    return divided(model, ordered, division.with_rest(rest, model))


def divided(model: M, levels: Sequence[Level], division: Division) -> M:
    """:func:`retrofit` with a division that is known."""
    own = {
        slot.name
        for block in division.blocks
        for projection in block.projections
        for slot in projection.slots
        if slot.axis is not None or len(division.units[block.name]) == 1
    }
    own |= {slot.name for projection in division.others for slot in projection.slots}
    twin = sharing_copy(model, own)
    setattr(twin, _ATTRIBUTE, Retrofit(model, tuple(levels), division))
    return twin


def retrofit_of(model: nn.Module) -> Retrofit:
    """What :func:`retrofit` made of a model.

    Raises:
        ValueError: If it made nothing of it.
    """
    found = getattr(model, _ATTRIBUTE, None)
    if not isinstance(found, Retrofit):
        raise ValueError(f"this {type(model).__name__} has no levels: take retrofit(model, levels) first")
    return found


def undo_retrofit(model: M) -> M:
    """The model that was retrofitted, as it was: nothing that was learned since is in it.

    Raises:
        ValueError: If the model is not retrofitted.
    """
    base: Any = retrofit_of(model).base
    return base  # type: ignore[no-any-return]


class NestedUnits(Nested):
    """:class:`nestlearn.optim.Nested` for a retrofitted model: its levels' parts of the weights.

    Parts are updated in float32 at least, whatever the dtype of the model.

    Args:
        model: A retrofitted model, on the device where it will stay.
        settings: See :class:`nestlearn.optim.Nested`.

    Attributes:
        parts: The levels' parts of the weights.

    Raises:
        ValueError: If the model is not retrofitted, and as :class:`nestlearn.optim.Nested`.
    """

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        made = retrofit_of(model)
        self.parts, self._base = Parts(model, made.division), made.base
        super().__init__(made.levels, self.parts, **{"variant": "sequential", **settings})

    def nested_groups(self) -> tuple[Group, ...]:
        """Every level's parts of the weights, for :func:`nestlearn.inspect`."""
        return tuple(
            replace(
                group,
                names=tuple(self.parts.label(tensor) for tensor in group.tensors),
                covers=tuple(part.parameter for part in self.parts.parts(group.name)),
                gradients=partial(self.parts.gradients, group.tensors),
            )
            for group in super().nested_groups()
        )

    def _begin_step(self) -> None:
        self.parts.gather()

    def _end_step(self, due: tuple[Level, ...]) -> None:
        changed = self.levels if due and self.variant == "nested" else due
        for level in changed:
            for part in self.parts.parts(level.name):
                part.scatter()

    def reset(self, level: str) -> None:
        """Give a level the base's values again, and its optimizer an empty state.

        Raises:
            ValueError: For an unknown level.
        """
        if level not in self._inner:
            raise ValueError(f"there is no level {level!r}; there are {', '.join(self._inner)}")
        self._inner[level].state.clear()
        self._pending.pop(level, None)
        for name, part in self.parts.by_level[level].items():
            part.write(part.of(self._base.get_parameter(name)))
        if level in self._initial:
            own = self._inner[level].param_groups[0]["params"]
            self._initial[level] = [parameter.detach().clone() for parameter in own]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Empty the gradients of the parts and of the model."""
        super().zero_grad(set_to_none)
        for part in self.parts.parts():
            part.parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """As of :class:`nestlearn.optim.Nested`, and the parts in their own precision."""
        parts = {
            level: {name: part.own.detach() for name, part in own.items()}
            for level, own in self.parts.by_level.items()
        }
        return {**super().state_dict(), "parts": parts}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, and the model's weights with it.

        Raises:
            ValueError: If the state is of another model or other levels; nothing has changed then.
        """
        saved = state_dict.get("parts", {})
        for level, own in self.parts.by_level.items():
            for name, part in own.items():
                value = saved.get(level, {}).get(name)
                if value is None or value.shape != part.own.shape:
                    raise ValueError(f"the state has no part of {name} for level {level!r}, or another shape")
        super().load_state_dict(state_dict)
        for level, own in self.parts.by_level.items():
            for name, part in own.items():
                part.write(saved[level][name].to(part.own.device))
