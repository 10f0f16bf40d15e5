"""What flows into the linear layers of a model: keys for optimizers that need more than gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class KeyRecorder:
    """Second moments of the inputs of a model's linear layers, ``mean_n x_n x_nᵀ`` (Sec. 4.5).

    Records every forward pass whose output needs a gradient, until :meth:`clear`; several passes (gradient
    accumulation) count as one batch. Holds no inputs and costs nothing once it is detached::

        keys = nl.optim.KeyRecorder(model)
        optimizer = nl.optim.DeltaGradientDescent(model.parameters(), lr=0.1, keys=keys)

    Args:
        model: Its ``nn.Linear`` layers whose weights need a gradient are watched.
        normalize: Bring every input to length one first.

    Attributes:
        attached: Whether it records.
    """

    def __init__(self, model: nn.Module, normalize: bool = False) -> None:
        self.normalize = normalize
        self._sums: dict[Tensor, tuple[Tensor, int]] = {}
        self._handles: list[RemovableHandle] = []
        self._layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
        self.attach()

    @property
    def attached(self) -> bool:
        """Whether forward passes are recorded."""
        return bool(self._handles)

    def attach(self) -> None:
        """Record from now on."""
        if not self._handles:
            self._handles = [
                layer.register_forward_hook(self._record, with_kwargs=True) for layer in self._layers
            ]

    def detach(self) -> None:
        """Take the hooks off the model and forget what was recorded."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.clear()

    def clear(self) -> None:
        """Forget what was recorded; optimizers do this after each step."""
        self._sums.clear()

    def moment(self, parameter: Tensor) -> Tensor | None:
        """``mean_n x_n x_nᵀ`` of a weight's inputs, ``[in, in]``; None if there were none."""
        total = self._sums.get(parameter)
        return None if total is None else total[0] / total[1]

    def __enter__(self) -> KeyRecorder:
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _record(
        self, layer: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        given = args[0] if args else kwargs["input"]
        if not output.requires_grad or not given.numel():
            return
        x = given.detach().reshape(-1, layer.in_features)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.normalize:
            x = nn.functional.normalize(x, dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            moment, count = x.mT @ x, x.shape[0]
        if layer.weight in self._sums:
            before, seen = self._sums[layer.weight]
            moment, count = before + moment, seen + count
        self._sums[layer.weight] = (moment, count)
