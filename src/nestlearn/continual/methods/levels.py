"""Ours: the units of the feed-forward blocks learn in levels, and keep what earlier contexts used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestlearn.continual.methods.base import Change, Method, Tree, causal_loss, drawn_loss
from nestlearn.continual.methods.rehearsal import Rehearsal
from nestlearn.levels import Level
from nestlearn.retrofitting import Division, NestedUnits, find_blocks, retrofit, retrofit_of
from nestlearn.retrofitting.retrofit import divided

_PROTECTING: dict[str, Any] = {
    "optimizer": "damped_adam",
    "eigenbasis": True,
    "consolidate": True,
    "strength": 0.03,
    "output_strength": 1.0,
    "refresh": 8192,
}
#: Updated at every step of at least 256 tokens, and every 4,096; both protect what earlier contexts used.
#: In the eigenbasis of the key memories the step of each direction is of its own size, so that the rate is
#: not in units of the model, and none is spread over protected directions.
DEFAULT_LEVELS = (
    Level("fast", period=256, lr=3e-3, **_PROTECTING),
    Level("slow", period=4096, lr=3e-3, **_PROTECTING),
)
#: The one of them that also owns attention, head and token embedding.
DEFAULT_REST = "fast"


def default_levels(lr: float | None = None) -> list[Level]:
    """:data:`DEFAULT_LEVELS`, with another rate of the fast one and the other in proportion."""
    scale = 1.0 if lr is None else lr / DEFAULT_LEVELS[0].lr
    return [replace(level, lr=scale * level.lr) for level in DEFAULT_LEVELS]


_TAKEN = "_nestlearn_taken"


class Levels(Method):
    """Levels of hidden units, each updated when its clock is due (Eq. 71).

    Args:
        levels: The levels; of a model that is retrofitted already, its own. By default
            :data:`DEFAULT_LEVELS`, where :data:`DEFAULT_REST` also owns what is not in a feed-forward block.
        how: See :func:`nestlearn.retrofit`.
        assign: Likewise.
        shares: Likewise.
        blocks: Likewise.
        calibration: Likewise.
        rest: Likewise.
        division: Who owns which units, where that is known.
        seed: Likewise.
        rehearsal: What the model goes on saying of what it knew, beside the levels' own protection. Key
            memories then look at its texts only, anew after every change of subject.

    Attributes:
        optimizer: Updates the levels.
    """

    name: ClassVar[str] = "levels"

    def __init__(
        self,
        levels: Iterable[Level] | None = None,
        how: str = "units",
        *,
        assign: str | None = None,
        shares: Sequence[float] | None = None,
        blocks: Sequence[str] | None = None,
        calibration: Sequence[Tensor] | None = None,
        rest: str | None = None,
        division: Mapping[str, Any] | None = None,
        seed: int = 0,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        self.rehearsal = rehearsal
        self.levels = None if levels is None else tuple(levels)
        self.how, self.assign, self.shares, self.blocks = how, assign, shares, blocks
        self.calibration, self.rest, self.division, self.seed = calibration, rest, division, seed
        self.updates: dict[str, int] = {}

    @property
    def settings(self) -> Tree:
        """The levels and the names of their blocks."""
        own = {} if self.rehearsal is None else {"rehearsal": self.rehearsal.settings}
        return {
            "levels": [asdict(level) for level in retrofit_of(self.model).levels],
            "blocks": [block.name for block in retrofit_of(self.model).division.blocks],
            "rest": retrofit_of(self.model).division.rest,
            **own,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], learned: Mapping[str, Any]) -> Levels:
        """The method as a file describes it, with the units divided as there."""
        levels = [Level(**{**level, "betas": tuple(level["betas"])}) for level in settings["levels"]]
        own = Rehearsal(**settings["rehearsal"]) if "rehearsal" in settings else None
        blocks, rest = settings["blocks"], settings["rest"]
        return cls(levels, blocks=blocks, rest=rest, division=learned["division"], rehearsal=own)

    def attach(self, base: nn.Module) -> None:
        """Retrofit the model, or take one that is, which then learns itself.

        Raises:
            ValueError: If levels are given for a model that has some, or another learner has it.
        """
        self.unattached()
        if hasattr(base, "_nestlearn_retrofit"):
            if self.levels is not None:
                raise ValueError("this model has levels already: leave out levels=, or undo_retrofit(model)")
            if getattr(base, _TAKEN, False):
                raise ValueError("another learner has this model: give each one its own, retrofit(base, ...)")
            setattr(base, _TAKEN, True)
            self.model = base
        else:
            self.model = self._retrofitted(base)
        self.optimizer = NestedUnits(self.model)
        self.updates = {level.name: 0 for level in self.optimizer.levels}
        if self.rehearsal is not None:
            self.rehearsal.attach(retrofit_of(self.model).base)
            self.rehearsal.remember(self.model)

    def _retrofitted(self, base: nn.Module) -> nn.Module:
        levels, rest = self.levels, self.rest
        if levels is None:
            levels, rest = DEFAULT_LEVELS, DEFAULT_REST if rest is None else rest
        if self.division is not None:
            division = Division.from_tree(find_blocks(base, self.blocks), self.division)
            return divided(base, levels, division.with_rest(self.rest, base))
        return retrofit(
            base,
            levels,
            self.how,
            assign=self.assign,
            shares=self.shares,
            blocks=self.blocks,
            calibration=self.calibration,
            rest=rest,
            seed=self.seed,
        )

    @property
    def wants_old(self) -> bool:
        """Whether a level protects something and has nothing to protect yet."""
        memories = self.optimizer.memories.values()
        return bool(memories) and not any(memory.committed for memory in memories)

    def calibrate(self, batches: Iterable[Tensor], seed: int = 0) -> None:
        """Fill the key memories: inputs of the old text, output gradients of labels drawn from the model."""
        generator = torch.Generator(device=next(self.model.parameters()).device).manual_seed(seed)
        memories = list(self.optimizer.memories.values())
        self.optimizer.commit()
        for batch in batches:
            for memory in memories:
                memory.recording = True
            drawn_loss(self.model, batch, generator).backward()
            for memory in memories:
                memory.refresh()
            self.optimizer.zero_grad()
        self.optimizer.commit()

    def keep(self) -> bool:
        """End the current context, if a key memory has looked at it since it began."""
        if self.rehearsal is not None:
            self.rehearsal.change(self.model)
            self._look_at_rehearsal()
            return True
        kept = len(self.optimizer.surprises)
        self.optimizer.commit()
        return len(self.optimizer.surprises) > kept

    def stored_bytes(self) -> int:
        """Of the key memories' moments, and of the speaker."""
        speaker = 0 if self.rehearsal is None else self.rehearsal.stored_bytes()
        return speaker + sum(memory.stored_bytes() for memory in self.optimizer.memories.values())

    def step(self, batch: Tensor) -> float:
        """One step of the stream; the levels that it makes due are updated."""
        tokens = batch.shape[0] * (batch.shape[1] - 1)
        due = self.optimizer.clock.due(tokens)
        loss, value = self.losses(batch)
        loss.backward()
        try:
            self.optimizer.step(tokens=tokens, surprise=value)
        finally:
            self.optimizer.zero_grad()
        for level in due:
            self.updates[level.name] += 1
        return float(value)

    def losses(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the loss of the new text alone."""
        if self.rehearsal is None:
            loss = causal_loss(self.model, batch)
            return loss, loss.detach()
        changed, new = self.rehearsal.begin(self.model, batch)
        if changed:
            self._look_at_rehearsal()
        return self.rehearsal.loss(self.model, new, batch), new.detach()

    def _look_at_rehearsal(self) -> None:
        """Protect what the speaker says, and nothing else."""
        assert self.rehearsal is not None
        for memory in self.optimizer.memories.values():
            memory.clear()
        if self.optimizer.memories:
            self.calibrate(self.rehearsal.calibration(), self.seed + self.rehearsal.subjects)

    def learned(self) -> Tree:
        """Who owns which units, and the values of the levels that have changed."""
        made = retrofit_of(self.model)
        changed: Tree = {}
        for level, parts in self.optimizer.parts.by_level.items():
            values = {name: part.of(part.parameter.detach()) for name, part in parts.items()}
            before = {name: part.of(made.base.get_parameter(name)) for name, part in parts.items()}
            if not all(torch.equal(values[name], before[name]) for name in values):
                changed[level] = values
        return {"division": made.division.to_tree(), "values": changed}

    def apply(self, learned: Mapping[str, Any]) -> None:
        """Write the levels' values."""
        by_level = self.optimizer.parts.by_level
        for level, values in learned["values"].items():
            for name, value in values.items():
                part = by_level.get(level, {}).get(name)
                if part is None or part.own.shape != value.shape:
                    raise ValueError(f"level {level!r} has no part of {name} with shape {list(value.shape)}")
        for level, values in learned["values"].items():
            for name, value in values.items():
                by_level[level][name].write(value)

    def reset(self, level: str | None = None) -> None:
        """Give the units of a level the base's values, and its optimizer an empty state."""
        names = list(self.updates) if level is None else [level]
        for name in names:
            self.optimizer.reset(name)
            self.updates[name] = 0

    def changes(self) -> list[Change]:
        """One entry per level, fast to slow."""
        base = retrofit_of(self.model).base
        return [
            Change(
                level.name,
                [
                    (part.of(base.get_parameter(name)), part.of(part.parameter))
                    for name, part in self.optimizer.parts.by_level[level.name].items()
                ],
                self.updates[level.name],
            )
            for level in self.optimizer.levels
        ]

    def state_dict(self) -> Tree:
        """Of the optimizer, with the parts of the weights, and the division."""
        division = retrofit_of(self.model).division
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": dict(self.updates),
            "division": division.to_tree(),
            "rest": division.rest,
            **({} if self.rehearsal is None else {"rehearsal": self.rehearsal.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the optimizer and the levels' parts.

        Raises:
            ValueError: If the state is of another model, or its units are divided in another way.
        """
        made = retrofit_of(self.model)
        if state["rest"] != made.division.rest:
            raise ValueError(
                f"in the state, {state['rest']!r} has the rest; here it is {made.division.rest!r}"
            )
        saved = Division.from_tree(made.division.blocks, state["division"])
        for block, levels in made.division.units.items():
            for level, units in levels.items():
                if not torch.equal(units, saved.units[block].get(level, torch.empty(0))):
                    raise ValueError(f"the state divides the units of {block!r} among levels in another way")
        if self.rehearsal is not None:
            self.rehearsal.load_state_dict(state["rehearsal"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = {name: int(count) for name, count in state["updates"].items()}

    def close(self) -> None:
        """Take the key memories' hooks off the model."""
        self.optimizer.close()
