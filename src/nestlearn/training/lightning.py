"""Levels in Lightning."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nestlearn.training.meter import Meter, TokenCount, count_tokens


def _callback_class() -> Any:
    """Lightning's class of callbacks, under the name that it is installed by."""
    for package in ("lightning", "pytorch_lightning"):
        if importlib.util.find_spec(package) is not None:
            name = "lightning.pytorch" if package == "lightning" else package
            return importlib.import_module(name).Callback
    raise ImportError("this needs Lightning: pip install 'nestlearn[lightning]'")


class NestedCallback(_callback_class()):  # type: ignore[misc]
    """Lets Lightning's Trainer train a nested system.

    The module makes the optimizer as any other; the callback tells it how many tokens each step took and
    what the loss was, see :class:`nestlearn.training.Meter`::

        class Module(lightning.LightningModule):
            def configure_optimizers(self):
                return nl.optim.Nested(levels, self.model)

        trainer = lightning.Trainer(callbacks=[NestedCallback()])  # from nestlearn.training.lightning

    Everything that the next step depends on is in the optimizer's state, which Lightning keeps in its
    checkpoints.

    Args:
        tokens: What a batch counts for. A batch that is no mapping is given as ``{"input_ids": batch}``, of
            a tuple or list the first entry.

    Attributes:
        meter: The meter of the training under way; None before.
    """

    def __init__(self, tokens: TokenCount = count_tokens) -> None:
        self.tokens = tokens
        self.meter: Meter | None = None
        self._waiting = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Hook the meter into the optimizer, after a checkpoint has been loaded.

        Raises:
            ValueError: If there is not exactly one optimizer of ours, or gradients are scaled.
        """
        del pl_module
        self._close()
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"the module has {len(trainer.optimizers)} optimizers: give it one, nl.optim.Nested(levels, "
                "model), which has an optimizer for each level"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(f"precision {trainer.precision} scales gradients: train in bf16-mixed")
        self.meter = Meter(trainer.optimizers[0])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Look at the batch that comes."""
        del trainer, pl_module, batch_idx
        self._waiting = self.tokens(_named(batch))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Count the batch, if there is a loss to learn from."""
        del pl_module
        assert self.meter is not None
        self.meter.add(self._waiting)
        # Lightning has divided by the number of batches, the last ones of an epoch too.
        self.meter.add_loss(loss.detach() * trainer.accumulate_grad_batches)
        self._waiting = 0

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the hooks off."""
        del trainer, pl_module
        self._close()

    def _close(self) -> None:
        if self.meter is not None:
            self.meter.close()
            self.meter = None


def _named(batch: Any) -> Mapping[str, Any]:
    """A batch by the names of a model's arguments."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, Sequence) and batch:
        batch = batch[0]
    return {"input_ids": batch}


__all__ = ["NestedCallback"]
