"""Learning in context: the model stays as it is, and reads the newest text before every window."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nestlearn.retrofitting import positions


class Reading(nn.Module):
    """A causal language model that has read a text before whatever it is given.

    Args:
        model: Called with ``input_ids``; returns an object with ``logits``.

    Attributes:
        text: What it reads first, token ids ``[n]``; none to begin with.
    """

    text: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("text", torch.zeros(0, dtype=torch.long, device=next(model.parameters()).device))

    def forward(self, input_ids: Tensor) -> Any:
        """The model's output for ``input_ids`` ``[B, T]``, with logits ``[B, T, V]``."""
        before = self.text.expand(len(input_ids), -1)
        output = self.model(input_ids=torch.cat([before, input_ids], dim=1), use_cache=False)
        output.logits = output.logits[:, before.shape[1] :]
        return output


class InContext:
    """The unchanged model, which reads the last tokens of the stream before every window (Brown et al. 2020).

    Nothing is trained and nobody says when a task ends: what the newest text has pushed out is gone.

    Args:
        model: Has learned the first task.
        tokens: That are read, at least 1.

    Attributes:
        model: The model that reads.

    Raises:
        ValueError: For less than one token, or more than the model has positions.
    """

    def __init__(self, model: nn.Module, tokens: int) -> None:
        most = positions(model)
        if tokens < 1 or (most is not None and tokens >= most):
            raise ValueError(
                f"tokens must be at least 1 and fewer than the model's {most} positions, got {tokens}"
            )
        self.model, self.tokens = Reading(model), tokens

    def step(self, batch: Tensor) -> float:
        """Take in windows ``[B, T + 1]``, the last token of each being the first of its neighbour.

        Returns:
            0.0: there is no loss.
        """
        new = batch[:, :-1].flatten().to(self.model.text.device)
        self.model.text = torch.cat([self.model.text, new])[-self.tokens :]
        return 0.0

    def finish(self) -> None:
        """Nothing."""

    def stored_bytes(self) -> int:
        """Of the text, at two bytes a token."""
        return 2 * self.model.text.numel()
