"""A level: what is updated together, and how often (Definition 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

OptimizerName = Literal["adamw", "damped_adam", "sgd"]
Contexts = Literal["sum", "mean"]


@dataclass(frozen=True)
class Level:
    """Parameters that share a clock and an optimizer.

    Attributes:
        name: Unique name within a system.
        period: Tokens of the stream between two updates. A training loop that draws ``B`` windows of ``T``
            tokens from one stream consumes ``B * T`` of them per step.
        lr: Learning rate of the level's optimizer; 0 leaves the level as it is.
        consolidate: Protect what earlier contexts wrote: see :class:`nestlearn.optim.KeyMemories`.
        optimizer: ``"adamw"`` or ``"sgd"``, torch's own, or ``"damped_adam"``:
            :class:`nestlearn.optim.PreconditionedMomentum` with ``damping=1``, which does not magnify what is
            small and therefore mostly noise.
        betas: Of both kinds of Adam; the first is the momentum of SGD.
        weight_decay: Decoupled but for SGD.
        max_grad_norm: Gradients of one update are scaled down to this norm over the level; None for never.
        strength: ``lambda``: how far outputs on earlier inputs may move; smaller protects more. In units of
            each context's ``mean(diag C)``, for a layer of typical sensitivity.
        output_strength: ``mu``, the same for output gradients and ``mean(diag D)``.
        contexts: How the moments of several contexts are taken together. ``"sum"``: each context adds its
            protection to that of the others, so that less and less can be learned. ``"mean"``: the strengths
            are in units of a mean context, however many there are, so that a level does not stiffen.
        eigenbasis: The optimizer works in the eigenbasis of the key memories, where the filter is one factor
            a number: an optimizer that scales every number by itself, as AdamW does, then does not spread
            an update over protected directions again. As SOAP (Vyas et al. 2024, arXiv 2409.11321), with the
            moments of earlier contexts in place of the running ones. Gradient descent is the same with and
            without. The optimizer's state starts anew with each context. It must read nothing but gradients:
            no weight decay, no keys.
        refresh: Tokens between two looks at the current context by the key memories; None for ``period``.
        horizon: Tokens over which those looks are averaged; None for 32 looks.

    Raises:
        ValueError: For a value outside its range, naming the level and the value.
    """

    name: str
    period: int
    lr: float = 1e-3
    consolidate: bool = False
    optimizer: OptimizerName = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    strength: float = 1.0
    output_strength: float = 0.1
    contexts: Contexts = "sum"
    eigenbasis: bool = False
    refresh: int | None = None
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a level needs a name")
        for field in ("period", "refresh", "horizon"):
            value = getattr(self, field)
            if value is None and field != "period":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"level {self.name!r}: {field} is a number of tokens, at least 1, got {value!r}"
                )
        if self.optimizer not in get_args(OptimizerName):
            known = ", ".join(get_args(OptimizerName))
            raise ValueError(f"level {self.name!r}: optimizer must be one of {known}; got {self.optimizer!r}")
        if self.contexts not in get_args(Contexts):
            raise ValueError(f"level {self.name!r}: contexts must be sum or mean, got {self.contexts!r}")
        self._positive("lr", zero=True)
        self._positive("weight_decay", zero=True)
        self._positive("strength")
        self._positive("output_strength")
        if self.eigenbasis and not self.consolidate:
            raise ValueError(f"level {self.name!r}: eigenbasis is that of key memories: set consolidate=True")
        if self.eigenbasis and self.weight_decay:
            raise ValueError(
                f"level {self.name!r}: with eigenbasis weight_decay must be 0, got {self.weight_decay}: it "
                "would decay in another basis than the weights have"
            )
        if self.max_grad_norm is not None:
            self._positive("max_grad_norm")
        if len(self.betas) != 2 or not all(_number(beta) and 0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"level {self.name!r}: betas must be two numbers in [0, 1), got {self.betas}")

    def _positive(self, field: str, *, zero: bool = False) -> None:
        value = getattr(self, field)
        if not (_number(value) and math.isfinite(value) and (value > 0 or (zero and value == 0))):
            least = "zero or more" if zero else "more than zero"
            raise ValueError(f"level {self.name!r}: {field} must be finite and {least}, got {value}")


def _number(value: object) -> bool:
    """Whether a value is a number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
