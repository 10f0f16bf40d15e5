"""Ordinary fine-tuning with AdamW, of all parameters or of the feed-forward blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestlearn.continual.methods.base import Change, Method, Tree, causal_loss
from nestlearn.optim import NonFiniteGradientError
from nestlearn.retrofitting import find_blocks
from nestlearn.retrofitting.copies import sharing_copy
from nestlearn.retrofitting.parts import Part


class FineTuning(Method):
    """AdamW on all parameters, one update a step.

    Parameters are updated in float32 at least, whatever the dtype of the model.

    Args:
        lr: Learning rate.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are scaled down to this norm.

    Attributes:
        learner: What takes the steps: the model itself, unless a subclass has another.

    Raises:
        ValueError: For a value outside its range.
    """

    name: ClassVar[str] = "finetune"
    #: Whether only feed-forward blocks learn.
    blocks_only: ClassVar[bool] = False

    def __init__(
        self,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> None:
        self._settings: Tree = {
            "lr": lr,
            "betas": tuple(betas),
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
        }
        for key in ("lr", "weight_decay", "max_grad_norm"):
            positive(key, self._settings[key], zero=key != "max_grad_norm")
        self.max_grad_norm, self.updates = max_grad_norm, 0

    @property
    def settings(self) -> Tree:
        """What it was made with."""
        return dict(self._settings)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], learned: Mapping[str, Any]) -> Method:
        """The method as a file describes it."""
        return cls(**{**settings, "betas": tuple(settings["betas"])})

    def attach(self, base: nn.Module) -> None:
        """Make a copy of what learns."""
        self.unattached()
        names = [name for name, _ in base.named_parameters()]
        if self.blocks_only:
            slots = [s for block in find_blocks(base) for p in block.projections for s in p.slots]
            names = [slot.name for slot in slots]
        self.base, self.model = base, sharing_copy(base, names)
        self.learner = self.model
        self.parts = {name: Part(self.learner.get_parameter(name)) for name in names}
        settings = {key: self._settings[key] for key in ("lr", "betas", "weight_decay")}
        self.optimizer = torch.optim.AdamW([part.own for part in self.parts.values()], **settings)

    def loss(self, batch: Tensor) -> Tensor:
        """What is minimised besides :meth:`pull`: mean cross-entropy of the next tokens."""
        return causal_loss(self.model, batch)

    def pull(self) -> None:
        """Add what draws parameters back to the gradients."""

    def step(self, batch: Tensor) -> float:
        """One update."""
        loss = self.loss(batch)
        loss.backward()
        for part in self.parts.values():
            part.gather()
        own = [part.own for part in self.parts.values()]
        with torch.no_grad():
            self.pull()
        norm = nn.utils.clip_grad_norm_(own, self.max_grad_norm)
        finite = bool(torch.isfinite(norm + loss.detach()))
        if finite:
            self.optimizer.step()
            for part in self.parts.values():
                part.scatter()
            self.updates += 1
        self.optimizer.zero_grad()
        self.learner.zero_grad()
        if not finite:
            raise NonFiniteGradientError(
                "a gradient or the loss is NaN or infinite; nothing has changed: go on with other text, or "
                "lower the learning rate"
            )
        return float(loss.detach())

    def learned(self) -> Tree:
        """Values of the parameters that have changed."""
        now = {name: self.model.get_parameter(name).detach() for name in self.parts}
        return {n: value for n, value in now.items() if not torch.equal(value, self.base.get_parameter(n))}

    def apply(self, learned: Mapping[str, Any]) -> None:
        """Write the values."""
        for name, value in learned.items():
            if name not in self.parts or self.parts[name].own.shape != value.shape:
                raise ValueError(f"there is no {name} with shape {list(value.shape)} that learns")
        for name, value in learned.items():
            self.parts[name].write(value)

    def reset(self, level: str | None = None) -> None:
        """Give all parameters the base's values."""
        no_levels(self, level)
        for name, part in self.parts.items():
            part.write(self.base.get_parameter(name).detach())
        self.optimizer.state.clear()
        self.updates = 0

    def changes(self) -> list[Change]:
        """One entry."""
        pairs = [(self.base.get_parameter(name), self.model.get_parameter(name)) for name in self.parts]
        return [Change(self.name, pairs, self.updates)]

    def state_dict(self) -> Tree:
        """Of the optimizer, and the parameters in its precision."""
        parts = {name: part.own.detach() for name, part in self.parts.items()}
        return {"optimizer": self.optimizer.state_dict(), "parts": parts, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the optimizer and the parameters.

        Raises:
            ValueError: If the state is of another model.
        """
        self.apply(state["parts"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = int(state["updates"])


class BlockTuning(FineTuning):
    """AdamW on the feed-forward blocks alone: what levels change, without levels."""

    name: ClassVar[str] = "mlp"
    blocks_only: ClassVar[bool] = True


def no_levels(method: Method, level: str | None) -> None:
    """Refuse a level's name where there are none."""
    if level is not None:
        raise ValueError(f"the method {method.name!r} has no levels, so none is called {level!r}")


def positive(name: str, value: float, *, zero: bool = False) -> None:
    """Refuse what is no positive number.

    Raises:
        ValueError: With the value.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (value > 0 or (zero and value == 0)):
        raise ValueError(f"{name} must be finite and {'zero or ' if zero else ''}positive; got {value!r}")


def whole(name: str, value: int, of: str = "") -> None:
    """Refuse what is no whole number of at least one.

    Raises:
        ValueError: With the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number{of}, at least 1; got {value!r}")
