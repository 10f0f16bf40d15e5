"""Linear memories of gradients: heavy ball, features of higher order, the delta rule, and Muon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from nestlearn.optim.bricks import delta
from nestlearn.optim.bricks.features import odd_polynomial
from nestlearn.optim.bricks.linear import accumulate_, average_, look_ahead
from nestlearn.optim.bricks.lists import Tensors, blended
from nestlearn.optim.bricks.output import OUTPUTS, through
from nestlearn.optim.flow import Flow, Settings, State
from nestlearn.optim.gradient_memory import Common, GradientMemory
from nestlearn.optim.hyperparameters import DECAY, SWITCH, Allowed, Range, Several


class _Linear(GradientMemory):
    """One memory of the parameter's own shape."""

    def _start(self, parameter: Tensor, settings: Settings) -> State:
        return {"momentum": torch.zeros_like(parameter)}


class Momentum(_Linear):
    """Gradient descent with momentum, seen as two levels (Eq. 33, 34): ``m = momentum m + g``.

    With the defaults this is ``torch.optim.SGD(momentum=...)``, bit for bit.

    Args:
        params: Parameters, named parameters, or groups of them.
        lr: Learning rate.
        momentum: What the memory keeps per step, in [0, 1).
        nesterov: Read ``g + momentum m``.
        output: How the memory is read: ``"identity"`` or ``"orthogonal"`` (Eq. 52, see
            :func:`nestlearn.optim.bricks.output.through`).
        common: See :class:`~nestlearn.optim.gradient_memory.Common`. ``decoupled`` is False here, as in
            ``torch.optim.SGD``.

    Raises:
        ValueError: For a value outside its range.
    """

    allowed: ClassVar[dict[str, Allowed]] = {"momentum": DECAY, "nesterov": SWITCH, "output": OUTPUTS}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0.9,
        nesterov: bool = False,
        output: str = "identity",
        **common: Unpack[Common],
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "output": output}
        super().__init__(params, settings, {"decoupled": False, **common})

    def _read(self, flow: Flow, settings: Settings) -> Tensors:
        momenta = flow.memory("momentum")
        accumulate_(momenta, flow.gradients, settings["momentum"])
        if settings["nesterov"]:
            momenta = look_ahead(momenta, flow.gradients, settings["momentum"])
        return through(momenta, settings["output"])


class FeatureMomentum(_Linear):
    """Momentum over higher-order features of the gradient (Eq. 51): ``m = momentum m + phi(g)``.

    ``phi(g) = g (c_0 + c_1 ĝ² + c_2 ĝ⁴ + ...)`` with ``ĝ = g / rms(g)``: large elements are remembered more
    than in proportion. With ``coefficients=(1,)`` this is :class:`Momentum`.

    Args:
        params: Parameters, named parameters, or groups of them.
        lr: Learning rate.
        momentum: What the memory keeps per step, in [0, 1).
        coefficients: c_0, c_1, ...; from 0 on, so that a feature never points away from its gradient.
        output: See :class:`Momentum`.
        common: See :class:`~nestlearn.optim.gradient_memory.Common`.

    Raises:
        ValueError: For a value outside its range.
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        "momentum": DECAY,
        "coefficients": Several(Range()),
        "output": OUTPUTS,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0.9,
        coefficients: Sequence[float] = (0.9, 0.1),
        output: str = "identity",
        **common: Unpack[Common],
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "coefficients": coefficients, "output": output}
        super().__init__(params, settings, common)

    def _read(self, flow: Flow, settings: Settings) -> Tensors:
        momenta = flow.memory("momentum")
        features = [odd_polynomial(gradient, settings["coefficients"]) for gradient in flow.gradients]
        accumulate_(momenta, features, settings["momentum"])
        return through(momenta, settings["output"])


class DeltaMomentum(_Linear):
    """Momentum by the delta rule (Eq. 48, 49): along a gradient the old is erased before the new is written.

    ``m = m (momentum I - erase ĝᵀĝ) + g`` with ``ĝ = g / ||g||``, so that the erase cannot overshoot (the
    paper's unnormalised form is unstable once ``||g||² > 1 + momentum``). Vectors and scalars are erased
    element by element (but for ``side="whole"``), kernels of convolutions as ``[out, rest]``. With
    ``erase=0`` this is :class:`Momentum`.

    Args:
        params: Parameters, named parameters, or groups of them.
        lr: Learning rate.
        momentum: What the memory keeps per step, in [0, 1).
        erase: What is taken along the gradient, at most ``momentum``; None for as much as that.
        side: ``"right"`` (Eq. 49), ``"left"``, ``"smaller"``, whose Gram matrix is the smaller one, or
            ``"whole"``: each gradient is one row of numbers, whatever its shape, ``m = m momentum + g -
            erase <m, ĝ> ĝ``. That needs no products of matrices.
        output: See :class:`Momentum`.
        common: See :class:`~nestlearn.optim.gradient_memory.Common`.

    Raises:
        ValueError: For a value outside its range.
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        "momentum": DECAY,
        "erase": Range(0.0, 1.0, optional=True),
        "side": delta.SIDES,
        "output": OUTPUTS,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0.9,
        erase: float | Tensor | None = None,
        side: str = "right",
        output: str = "identity",
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "erase": erase,
            "side": side,
            "output": output,
        }
        super().__init__(params, settings, common)

    def check(self, settings: Settings) -> None:
        """Refuse hyper-parameters outside their ranges.

        Raises:
            ValueError: Also for ``erase`` above ``momentum``: the memory would change its sign.
        """
        super().check(settings)
        erase, momentum = settings["erase"], settings["momentum"]
        if erase is not None and erase > momentum:
            raise ValueError(f"erase must be at most momentum, {momentum}; got {erase}")

    def _read(self, flow: Flow, settings: Settings) -> Tensors:
        momenta = flow.memory("momentum")
        decay, erase = settings["momentum"], settings["erase"]
        delta.write_(momenta, flow.gradients, decay, decay if erase is None else erase, settings["side"])
        return through(momenta, settings["output"])


class Muon(_Linear):
    """A linear memory read through Newton-Schulz (Eq. 42, 52): ``torch.optim.Muon`` for any parameters.

    Matrices of one shape go through one product. Parameters of fewer than two dimensions get the plain
    average at the same root mean square; convolutions count as ``[out, rest]``.

    Args:
        params: Parameters, named parameters, or groups of them.
        lr: Learning rate, at AdamW's scale (``adjust_lr_fn="match_rms_adamw"`` of ``torch.optim.Muon``).
        momentum: What the average keeps per step, in [0, 1).
        nesterov: Read ``(1 - momentum) g + momentum m``.
        common: See :class:`~nestlearn.optim.gradient_memory.Common`.

    Raises:
        ValueError: For a value outside its range.
    """

    allowed: ClassVar[dict[str, Allowed]] = {"momentum": DECAY, "nesterov": SWITCH}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0.95,
        nesterov: bool = True,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov}, common)

    def _read(self, flow: Flow, settings: Settings) -> Tensors:
        momenta = flow.memory("momentum")
        average_(momenta, flow.gradients, settings["momentum"])
        if settings["nesterov"]:
            momenta = blended(flow.gradients, momenta, settings["momentum"])
        return through(momenta, "orthogonal")
