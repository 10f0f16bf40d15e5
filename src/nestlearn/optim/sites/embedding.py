"""The key memory of an embedding, which may be an output layer too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nestlearn.optim.recording import OwnHook
from nestlearn.optim.sites.base import Site, add_moment, rows, wide
from nestlearn.optim.spectra import turn


class EmbeddingSite(Site):
    """An embedding: rows of tokens that earlier contexts used move less.

    A tied output layer adds the second moment of its inputs on the other side.
    """

    def __init__(
        self, module: nn.Embedding, head: nn.Linear | None, parameters: tuple[nn.Parameter, ...] | None = None
    ) -> None:
        super().__init__(tuple(module.parameters()) if parameters is None else parameters)
        self.module, self.head = module, head

    def hook(self, recording: Callable[[], bool]) -> Iterable[RemovableHandle]:
        """Record token frequencies, and the inputs of a tied output layer."""

        def tokens(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if recording() and output.requires_grad:
                ids = args[0].flatten()
                counts = torch.bincount(ids, minlength=self.module.num_embeddings)
                add_moment(self.fresh, "rows", counts.to(wide(output).dtype) / ids.numel())

        def hidden(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if recording() and output.requires_grad:
                x = wide(rows(args[0].detach()))
                add_moment(self.fresh, "input", x.mT @ x / x.shape[0])

        handles = [self.module.register_forward_hook(OwnHook(tokens))]
        if self.head is not None:
            handles.append(self.head.register_forward_hook(OwnHook(hidden)))
        return handles

    def build(self, strength: float, output_strength: float) -> None:
        """Row factors ``1 / (1 + frequency / mu)`` and the inverse of ``I + C / lambda``."""
        strengths = {"input": strength, "rows": output_strength}
        self.factors = {key: self.factor(key, strengths[key]) for key in strengths if key in self.kept}

    def rotate(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """``G Q_C``, if there is a tied output layer."""
        return [None if gradient is None else turn(gradient, self.bases) for gradient in gradients]

    def filter(self, updates: list[Tensor]) -> list[Tensor]:
        """Damp rows by their use, and directions that a tied output layer reads."""
        (update,) = updates
        if "rows" in self.factors:
            update = update * self.factors["rows"][:, None]
        return [turn(update, self.sides(), back=True)]
