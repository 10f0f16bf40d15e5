"""Delta gradient descent: the weights as a memory that forgets what it maps an input to (Eq. 54 to 57)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from nestlearn.optim.bricks.lists import add_
from nestlearn.optim.bricks.proximal import explicit, proximal
from nestlearn.optim.flow import Flow, Settings, State
from nestlearn.optim.gradient_memory import Common, GradientMemory
from nestlearn.optim.hyperparameters import RATE, Allowed
from nestlearn.optim.key_recorder import KeyRecorder

FORMS = ("proximal", "explicit")


class DeltaGradientDescent(GradientMemory):
    """Gradient descent whose inner objective is squared, not a dot product (Eq. 56, 57).

    For a linear layer with inputs x and targets ``u = -dL/dy``, and ``C = mean x xᵀ`` over the batch:

    - ``form="proximal"``: the minimum of ``erase/2 mean ||W x||² + <W, G> + 1/(2 lr) ||W - W_t||²``, that is
      ``W = (W_t - lr G)(I + lr erase C)^-1``. With one input and ``erase=1`` this is Eq. 57 with its
      ``lr / (1 + lr ||x||²)`` for inputs of any length, stable at every rate that float32 can
      tell apart from the identity (``lr erase ||C||`` up to about 1e6).
    - ``form="explicit"``: one step on the same objective, ``W = W_t (I - lr erase C) - lr G``.

    At ``G = 0`` weights still shrink along the inputs: an input-dependent weight decay, not an unbiased
    minimiser of the loss. Parameters whose inputs were not recorded, and all without ``keys``, follow plain
    gradient descent, as with ``erase=0``. A loss that is a mean over tokens needs no further scaling.

    A copy or an unpickled optimizer has no recorder: set :attr:`keys` again.

    Args:
        params: Parameters, named parameters, or groups of them.
        lr: Learning rate, eta.
        keys: Records the layers' inputs; cleared after each step.
        erase: Weight of the erase; 0 for gradient descent.
        form: See above.
        common: See :class:`~nestlearn.optim.gradient_memory.Common`.

    Attributes:
        keys: The recorder.

    Raises:
        ValueError: For a value outside its range.
    """

    allowed: ClassVar[dict[str, Allowed]] = {"erase": RATE, "form": FORMS}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        keys: KeyRecorder | None = None,
        erase: float | Tensor = 1.0,
        form: str = "proximal",
        **common: Unpack[Common],
    ) -> None:
        self.keys = keys
        super().__init__(params, {"lr": lr, "erase": erase, "form": form}, common)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.keys = getattr(self, "keys", None)
        super().__setstate__(state)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """See :meth:`GradientMemory.step`; the recorded inputs are used up."""
        try:
            return super().step(closure)
        finally:
            if self.keys is not None:
                self.keys.clear()

    def _takes_sharded(self, settings: Settings) -> bool:
        return self.keys is None

    def _start(self, parameter: Tensor, settings: Settings) -> State:
        return {}

    def _read(self, flow: Flow, settings: Settings) -> list[Tensor]:
        return flow.gradients

    def _apply(self, flow: Flow, settings: Settings) -> None:
        rule = proximal if settings["form"] == "proximal" else explicit
        moments = [None if self.keys is None else self.keys.moment(p) for p in flow.parameters]
        moved = [  # before anything is written: a factorisation may fail
            None if c is None else rule(p, g, c, settings["lr"], settings["erase"])
            for p, g, c in zip(flow.parameters, flow.gradients, moments, strict=True)
        ]
        for parameter, gradient, new in zip(flow.parameters, flow.gradients, moved, strict=True):
            if new is None:
                add_([parameter], [gradient], -settings["lr"])
            else:
                parameter.copy_(new)
