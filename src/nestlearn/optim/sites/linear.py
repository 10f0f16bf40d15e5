"""The key memory of a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nestlearn.optim.recording import OwnHook, products
from nestlearn.optim.sites.base import Site, add_moment, rows, wide
from nestlearn.optim.spectra import turn


class LinearSite(Site):
    """A linear layer: C over its inputs and D over its output gradients.

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

    def rotate(self, gradients: list[Tensor]) -> list[Tensor]:
        """``Q_D^T G Q_C``; a bias sees the output side only."""
        with products(self.reduced):
            return [turn(gradient, self.bases) for gradient in gradients]

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """``(I + D / mu)^-1 U (I + C / lambda)^-1``; a bias sees the output side only."""
        with products(self.reduced):
            sides = self.sides()
            return [turn(self._scaled(update), sides, back=True) for update in updates]

    def _scaled(self, update: Tensor) -> Tensor:
        """Times the factor of a side that is a diagonal."""
        out = self.factors.get("output")
        if out is None or "output" in self.bases or out.dim() == 2:
            return update
        return update * out.view(-1, *[1] * (update.dim() - 1))
