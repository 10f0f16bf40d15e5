"""Fine-tuning that goes on seeing old text, and fine-tuning that is averaged with where it began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nestlearn.continual.methods.base import Tree, causal_loss
from nestlearn.continual.methods.tuning import FineTuning, positive
from nestlearn.continual.storage import size_of


class Replay(FineTuning):
    """Experience replay: every step also learns windows of old text, drawn from a store of limited size.

    Args:
        lr: Learning rate.
        store_bytes: Size of the store, at two bytes a token (four where the vocabulary needs them).
        share: Weight of the old text in the loss, in (0, 1).
        seed: Of the draws.
        further: See :class:`~nestlearn.continual.methods.FineTuning`.
    """

    name: ClassVar[str] = "replay"

    def __init__(
        self,
        lr: float = 1e-4,
        store_bytes: int = 100_000,
        share: float = 0.5,
        seed: int = 0,
        **further: Any,
    ) -> None:
        super().__init__(lr, **further)
        positive("store_bytes", store_bytes)
        if not 0.0 < share < 1.0:
            raise ValueError(f"share must lie between 0 and 1; got {share}")
        self._settings |= {"store_bytes": store_bytes, "share": share, "seed": seed}
        self.store_bytes, self.share, self.seed = store_bytes, share, seed
        self.store: list[Tensor] = []

    @property
    def wants_old(self) -> bool:
        """Whether the store is empty."""
        return not self.store

    @property
    def old_tokens(self) -> int:
        """As many as fit into the store."""
        return self.store_bytes // 2

    @property
    def _each(self) -> int:
        """Bytes of a token."""
        config: Any = self.model.config
        return 2 if config.vocab_size <= 2**16 else 4

    def calibrate(self, batches: Iterable[Tensor], seed: int = 0) -> None:
        """Fill the store with the first windows, as many as fit, always one; shorter ones are left out."""
        each = self._each
        size = each * sum(window.numel() for window in self.store)
        for batch in batches:
            for window in batch.cpu():
                short = bool(self.store) and window.numel() < self.store[0].numel()
                if short or window.numel() < 2:
                    continue
                size += each * window.numel()
                if self.store and size > self.store_bytes:
                    return
                self.store.append(window)
        if not self.store:
            raise ValueError("replay needs old text of at least two tokens")

    def loss(self, batch: Tensor) -> Tensor:
        """Of the new text and of as much old text."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.updates)
        chosen = torch.randint(len(self.store), (batch.shape[0],), generator=generator).tolist()
        old = torch.stack([self.store[i] for i in chosen]).to(batch.device)
        return causal_loss(self.model, batch).lerp(causal_loss(self.model, old), self.share)

    def stored_bytes(self) -> int:
        """Of the store, as it is counted."""
        return self._each * sum(window.numel() for window in self.store)

    def state_dict(self) -> Tree:
        """With the store."""
        return {**super().state_dict(), "store": list(self.store)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore also the store."""
        super().load_state_dict(state)
        self.store = list(state["store"])


class Averaging(FineTuning):
    """Fine-tuning whose result is averaged with the base (WiSE-FT, Wortsman et al. 2022).

    Args:
        lr: Learning rate.
        weight: Of what was learned; the base has the rest.
        further: See :class:`~nestlearn.continual.methods.FineTuning`.
    """

    name: ClassVar[str] = "average"

    def __init__(self, lr: float = 1e-4, weight: float = 0.5, **further: Any) -> None:
        super().__init__(lr, **further)
        if not 0.0 < weight <= 1.0:
            raise ValueError(f"weight must be in (0, 1]; got {weight}")
        self._settings["weight"] = self.weight = weight

    def attach(self, base: Any) -> None:
        """Keep the optimizer's values apart from the model's, which are averages."""
        super().attach(base)
        for part in self.parts.values():
            if part.own is part.parameter:
                part.own = torch.nn.Parameter(part.parameter.detach().clone())
        settings = {key: self._settings[key] for key in ("lr", "betas", "weight_decay")}
        self.optimizer = torch.optim.AdamW([part.own for part in self.parts.values()], **settings)

    def step(self, batch: Tensor) -> float:
        """One update of what is averaged."""
        for part in self.parts.values():
            part.scatter()
        return super().step(batch)

    def stored_bytes(self) -> int:
        """Of the optimizer's values, which are not the model's."""
        return size_of(*(part.own for part in self.parts.values()))

    @torch.no_grad()
    def finish(self) -> None:
        """Give the model the averages."""
        for name, part in self.parts.items():
            start = self.base.get_parameter(name).to(part.own.dtype)
            part.parameter.copy_(start.lerp(part.own, self.weight))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the optimizer and what is averaged, and average it."""
        super().load_state_dict(state)
        self.finish()
