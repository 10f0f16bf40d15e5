"""The key memory of a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nestlearn.optim.recording import OwnHook, products
from nestlearn.optim.sites.base import Moments, Site, add_moment, rows, wide
from nestlearn.optim.spectra import turn


class LinearSite(Site):
    """A linear layer: C over its inputs and D over its output gradients.

    A bias is one more column of the weight, whose input is always one: what moves it by itself is kept out of
    what earlier contexts used like everything else.

    Above ``largest`` outputs D is a diagonal: the inverse of the full matrix would cost more than it gives.
    With ``reduced`` products of matrices take their factors in bfloat16 and add up in float32, where a CPU
    can: a moment stays positive then, and an update is off by less than a hundredth.
    """

    largest = 1024
    reduced = False

    def __init__(self, module: nn.Module, parameters: tuple[nn.Parameter, ...] | None = None) -> None:
        own = tuple(p for p in module.parameters() if p.requires_grad) if parameters is None else parameters
        super().__init__(own)
        self.module = module
        self.biased = [parameter.dim() for parameter in own] == [2, 1]

    def inputs(self, x: Tensor) -> Tensor:
        """The inputs that the site's weight multiplies, of all ``[N, in]``."""
        return x

    def outputs(self, gradient: Tensor) -> Tensor:
        """The gradients of the outputs that it gives, of all ``[N, out]``."""
        return gradient

    def hook(self, recording: Callable[[], bool]) -> Iterable[RemovableHandle]:
        """Record inputs in the forward pass and output gradients in the backward pass."""

        def forward(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if not (recording() and output.requires_grad):
                return
            x = wide(self.inputs(rows(args[0].detach())))
            if self.biased:
                x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
            with products(self.reduced):
                add_moment(self.fresh, "input", x.mT @ x / x.shape[0])
            output.register_hook(backward)

        def backward(gradient: Tensor) -> None:
            g = wide(self.outputs(rows(gradient)))
            small = g.shape[-1] <= self.largest
            with products(self.reduced):
                add_moment(self.fresh, "output", g.mT @ g if small else g.square().sum(0))

        return (self.module.register_forward_hook(OwnHook(forward)),)

    def build(self, strength: float, output_strength: float) -> None:
        """``(I + C / lambda)^-1`` and ``(I + D / mu)^-1``."""
        strengths = {"input": strength, "output": output_strength}
        self.factors = {key: self.factor(key, strengths[key]) for key in self.kept}

    def rotate(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """``Q_D^T G Q_C``; one that is missing beside another's is zero."""
        if all(gradient is None for gradient in gradients):
            return list(gradients)
        there = [
            torch.zeros_like(wide(p.detach())) if g is None else g
            for p, g in zip(self.parameters, gradients, strict=True)
        ]
        with products(self.reduced):
            return [*self._joined(lambda whole: turn(whole, self.bases), there)]

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """``(I + D / mu)^-1 U (I + C / lambda)^-1``."""
        with products(self.reduced):
            sides = self.sides()
            return self._joined(lambda whole: turn(self._scaled(whole), sides, back=True), updates)

    def check_state(self, state: Mapping[str, Moments]) -> None:
        """Refuse moments of another width.

        Raises:
            ValueError: For those.
        """
        sizes = {len(part["input"]) for part in (state["current"], state["kept"]) if "input" in part}
        if not sizes <= {size + self.biased for size in self.parameters[0].shape}:
            shape, bias = list(self.parameters[0].shape), "with" if self.biased else "without"
            raise ValueError(
                f"the state has a moment of {max(sizes)} inputs, which a weight of shape {shape} {bias} a "
                "bias does not have: it is another model's"
            )

    def _joined(self, function: Callable[[Tensor], Tensor], tensors: list[Tensor]) -> list[Tensor]:
        """What a function makes of the weight with its bias as one more column."""
        if not self.biased:
            return [function(tensor) for tensor in tensors]
        weight, bias = tensors
        whole = function(torch.cat([weight, bias[:, None]], dim=1))
        return [whole[:, :-1].contiguous(), whole[:, -1].contiguous()]

    def _scaled(self, update: Tensor) -> Tensor:
        """Times the factor of a side that is a diagonal."""
        out = self.factors.get("output")
        if out is None or "output" in self.bases or out.dim() == 2:
            return update
        return update * out[:, None]
