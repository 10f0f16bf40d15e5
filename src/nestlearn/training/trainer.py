"""Levels in transformers' Trainer, and in what is built on it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nestlearn.optim import Nested
from nestlearn.training.meter import Meter, TokenCount, count_tokens


class NestedCallback(TrainerCallback):  # type: ignore[misc]
    """Lets transformers' Trainer, and trainers made of it (TRL's), train a nested system.

    The Trainer is given the optimizer, and the callback tells that how many tokens each of its steps took
    and what the loss was, see :class:`nestlearn.training.Meter`::

        optimizer = nl.optim.Nested(levels, model)
        trainer = Trainer(model, args, train_dataset=data, optimizers=(optimizer, None),
                          callbacks=[nl.NestedCallback()])

    The clock, the sums of gradients, the key memories and what is known of the context are in the optimizer's
    state, which the Trainer keeps in its checkpoints: training that is resumed from any of them, also within
    a level's period, goes on bit for bit. The callback itself has nothing to keep.

    Args:
        tokens: What a batch counts for, given by the names of the model's arguments.

    Attributes:
        meter: The meter of the training under way; None before.
    """

    def __init__(self, tokens: TokenCount = count_tokens) -> None:
        self.tokens = tokens
        self.meter: Meter | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        **kwargs: Any,
    ) -> None:
        """Hook the meter into the model and the optimizer, after a checkpoint has been loaded.

        Raises:
            ValueError: If the Trainer has another optimizer, or that of another model, or scales gradients,
                or its checkpoint has weights and no state of the optimizer.
        """
        del args, control, kwargs
        self._close()
        meter = Meter(optimizer, model, tokens=self.tokens)
        if isinstance(meter.optimizer, Nested) and state.global_step and not meter.optimizer.clock.tokens:
            meter.close()
            raise ValueError(
                f"training is resumed after step {state.global_step}, but the checkpoint has no state of the "
                "optimizer, so that every level would start anew: save with save_only_model=False"
            )
        self.meter = meter

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count only what passes within the step."""
        del args, state, control, kwargs
        if self.meter is not None:
            self.meter.reset()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the hooks off."""
        del args, state, control, kwargs
        self._close()

    def _close(self) -> None:
        if self.meter is not None:
            self.meter.close()
            self.meter = None


__all__ = ["NestedCallback"]
