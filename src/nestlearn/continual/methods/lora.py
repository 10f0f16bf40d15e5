"""Low-rank adapters, by the library ``peft``."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, ClassVar

import torch
from torch import nn

from nestlearn.continual.methods.base import Change, Tree
from nestlearn.continual.methods.tuning import FineTuning, no_levels, positive
from nestlearn.retrofitting.copies import sharing_copy
from nestlearn.retrofitting.parts import Part


class Lora(FineTuning):
    """AdamW on low-rank adapters of all linear layers (Hu et al. 2022).

    Args:
        lr: Learning rate.
        rank: Of the adapters.
        scale: Factor of what they add, peft's ``lora_alpha / r``.
        seed: Of their initial values.
        further: See :class:`~nestlearn.continual.methods.FineTuning`.

    Raises:
        ImportError: Without peft.
    """

    name: ClassVar[str] = "lora"

    def __init__(
        self, lr: float = 2e-4, rank: int = 16, scale: float = 2.0, seed: int = 0, **further: Any
    ) -> None:
        super().__init__(lr, **further)
        if importlib.util.find_spec("peft") is None:
            raise ImportError("LoRA needs peft: pip install 'nestlearn[baselines]'")
        positive("rank", rank)
        positive("scale", scale)
        self._settings |= {"rank": rank, "scale": scale, "seed": seed}

    def attach(self, base: nn.Module) -> None:
        """Add adapters to a copy of the model that shares all its parameters."""
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415  (an extra, seconds to import)

        self.unattached()
        chosen = self._settings
        config = LoraConfig(
            r=chosen["rank"],
            lora_alpha=chosen["scale"] * chosen["rank"],
            target_modules="all-linear",
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about weights stored as [in, out], which peft then handles
            torch.manual_seed(chosen["seed"])
            shared: Any = sharing_copy(base, ())
            self.model = get_peft_model(shared, config).eval()
        self.base, self.learner = base, self.model
        adapters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.parts = {name: Part(p) for name, p in adapters.items()}
        self.start = {name: part.own.detach().clone() for name, part in self.parts.items()}
        settings = {key: chosen[key] for key in ("lr", "betas", "weight_decay")}
        self.optimizer = torch.optim.AdamW([part.own for part in self.parts.values()], **settings)

    def learned(self) -> Tree:
        """The adapters."""
        return {name: part.parameter.detach() for name, part in self.parts.items()}

    def reset(self, level: str | None = None) -> None:
        """Give the adapters their initial values, with which they add nothing."""
        no_levels(self, level)
        for name, part in self.parts.items():
            part.write(self.start[name])
        self.optimizer.state.clear()
        self.updates = 0

    def changes(self) -> list[Change]:
        """One entry, of the adapters from their initial values."""
        pairs = [(self.start[name], part.parameter) for name, part in self.parts.items()]
        return [Change(self.name, pairs, self.updates)]
