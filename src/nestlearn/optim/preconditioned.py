"""Momentum whose values are preconditioned gradients (Eq. 46, 47, 101 to 111): Adam, AdaGrad, Shampoo."""

from __future__ import annotations

from typing import ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from nestlearn.optim.bricks.batches import as_matrix, is_matrix
from nestlearn.optim.bricks.linear import average_, corrections
from nestlearn.optim.bricks.lists import Tensors, add_square_, scale_
from nestlearn.optim.bricks.output import UPDATE_RMS, at_rms_
from nestlearn.optim.bricks.precondition import between, divided_by_root, inverse_root, write_factors_
from nestlearn.optim.flow import Flow, Settings, State
from nestlearn.optim.gradient_memory import Common, GradientMemory
from nestlearn.optim.hyperparameters import COUNT, PAIR, RATE, Allowed

PRECONDITIONERS = ("adam", "adagrad", "kronecker")


class PreconditionedMomentum(GradientMemory):
    """A linear memory of gradients beside a memory of their size, which divides what is read (Eq. 102, 105).

    ==============  ========================================================================================
    preconditioner
    ==============  ========================================================================================
    ``"adam"``      moving averages of g and g², both corrected for their start: ``torch.optim.Adam``
    ``"adagrad"``   the sum of g² (App. B as printed); with ``betas[0] = 0`` ``torch.optim.Adagrad``
    ``"kronecker"`` averages of ``g gᵀ`` and ``gᵀ g`` (Eq. 106): ``L^-1/4 m R^-1/4`` for matrices, as in
                    Shampoo (Gupta et al., 2018), at a root mean square of 0.2; the rest as with ``"adam"``
    ==============  ========================================================================================

    Args:
        params: Parameters, named parameters, or groups of them.
        lr: Learning rate.
        betas: What the two memories keep per step, in [0, 1). The sum of ``"adagrad"`` keeps all.
        eps: Added to the root; for ``"kronecker"`` to eigenvalues in units of the largest, at least 1e-6.
        preconditioner: See above.
        period: Steps between two decompositions of the Kronecker factors.
        max_size: A longer side of a matrix has no factor.
        damping: What is added to every root, in units of the root mean square over its tensor: with 0 every
            number is scaled by itself, with much of it all numbers of a tensor alike, and with 1 large
            gradients are held back and small ones, mostly noise, not magnified. The update is multiplied by
            ``1 + damping``. Not for ``"kronecker"``'s matrices.
        common: See :class:`~nestlearn.optim.gradient_memory.Common`.

    Raises:
        ValueError: For a value outside its range.
    """

    allowed: ClassVar[dict[str, Allowed]] = {
        "betas": PAIR,
        "eps": RATE,
        "preconditioner": PRECONDITIONERS,
        "period": COUNT,
        "max_size": COUNT,
        "damping": RATE,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        preconditioner: str = "adam",
        *,
        period: int = 10,
        max_size: int = 2048,
        damping: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "preconditioner": preconditioner,
            "period": period,
            "max_size": max_size,
            "damping": damping,
        }
        super().__init__(params, settings, common)

    def _takes_sharded(self, settings: Settings) -> bool:
        return bool(settings["preconditioner"] != "kronecker")

    def _start(self, parameter: Tensor, settings: Settings) -> State:
        state = {
            "step": torch.zeros((), dtype=torch.float32, device="cpu"),
            "momentum": torch.zeros_like(parameter),
        }
        if settings["preconditioner"] != "kronecker" or not is_matrix(parameter.shape):
            return {**state, "squares": torch.zeros_like(parameter)}
        for name, size in zip(("left", "right"), as_matrix(parameter).shape, strict=True):
            size = size if size <= settings["max_size"] else 0  # noqa: PLW2901
            state[name] = parameter.new_zeros(size, size)
            state[f"{name}_root"] = torch.eye(size, dtype=parameter.dtype, device=parameter.device)
        return state

    def _read(self, flow: Flow, settings: Settings) -> Tensors:
        torch._foreach_add_(flow.memory("step"), 1.0)
        average_(flow.memory("momentum"), flow.gradients, settings["betas"][0])
        diagonal = [i for i, state in enumerate(flow.states) if "squares" in state]
        read: Tensors = list(flow.gradients)
        if diagonal:
            for i, update in zip(diagonal, _diagonal(flow.part(diagonal), settings), strict=True):
                read[i] = update
        for i, state in enumerate(flow.states):
            if "left" in state:
                read[i] = _kronecker(flow.gradients[i], state, settings)
        return read


def _diagonal(flow: Flow, settings: Settings) -> Tensors:
    """Eq. 105 with moving averages, or with the printed sum of squares."""
    momenta, squares, steps = (flow.memory(name) for name in ("momentum", "squares", "step"))
    first, second = settings["betas"]
    sums = settings["preconditioner"] == "adagrad"
    if not sums:
        scale_(squares, second)
    add_square_(squares, flow.gradients, 1.0 if sums else 1 - second)
    return divided_by_root(
        momenta,
        squares,
        settings["eps"],
        None if sums else corrections(second, steps),
        scales=corrections(first, steps),
        damping=settings["damping"],
    )


def _kronecker(gradient: Tensor, state: State, settings: Settings) -> Tensor:
    """Eq. 106 to 111 by two factors: ``L^-1/4 m R^-1/4``."""
    write_factors_(state["left"], state["right"], as_matrix(gradient), settings["betas"][1])
    if (int(state["step"]) - 1) % settings["period"] == 0:
        # A single factor carries the whole inverse root.
        power = 0.25 if state["left"].numel() and state["right"].numel() else 0.5
        for name in ("left", "right"):
            if state[name].numel():
                state[f"{name}_root"].copy_(inverse_root(state[name], power, max(settings["eps"], 1e-6)))
    read = between(as_matrix(state["momentum"]), state["left_root"], state["right_root"])
    read = read.clone().view_as(gradient)
    at_rms_([read], UPDATE_RMS)
    return read
