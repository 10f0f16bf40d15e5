"""Surprise: a loss far above what the current context has led to expect."""

from __future__ import annotations

import math


class Surprise:
    """Notices a change of context from the loss alone.

    Keeps a running mean of the loss and a running mean of its step-to-step change, which measures its noise
    and not its trend. A loss is a surprise when it exceeds the mean by ``threshold`` deviations, where the
    deviation counts for at least ``floor`` of the mean, so that a very even stream does not make noise a
    surprise. Falling losses never are. After a surprise the statistics start anew.

    Args:
        threshold: Deviations above the mean.
        floor: Least deviation as a share of the mean.
        memory: Weight of the past in the running statistics.
        warmup: Losses of a context that are only counted.

    Raises:
        ValueError: For a value outside its range.
    """

    def __init__(
        self, threshold: float = 6.0, floor: float = 0.025, memory: float = 0.9, warmup: int = 8
    ) -> None:
        if not (threshold > 0 and floor > 0 and 0 < memory < 1 and warmup >= 1):
            raise ValueError(
                "threshold and floor must be positive, memory in (0, 1), warmup at least 1; got "
                f"{threshold}, {floor}, {memory}, {warmup}"
            )
        self.threshold, self.floor, self.memory, self.warmup = threshold, floor, memory, warmup
        self.count, self.mean, self.deviation, self.last = 0, 0.0, 0.0, 0.0

    def __call__(self, loss: float) -> bool:
        """Take in a loss; whether it was a surprise.

        Raises:
            ValueError: If the loss is not finite.
        """
        if not math.isfinite(loss):
            raise ValueError(f"a loss must be finite, got {loss}")
        limit = self.mean + self.threshold * max(self.deviation, self.floor * self.mean)
        surprised = self.count >= self.warmup and loss > limit
        if surprised or self.count == 0:
            self.count, self.mean, self.deviation, self.last = 1, loss, 0.0, loss
            return surprised
        rest = 1.0 - self.memory if self.count >= self.warmup else 1.0 / (self.count + 1)
        # Two draws differ by sqrt(2) times what one differs from the mean.
        self.deviation += rest * (abs(loss - self.last) / 2**0.5 - self.deviation)
        self.mean += rest * (loss - self.mean)
        self.last = loss
        self.count += 1
        return False

    def state_dict(self) -> dict[str, float]:
        """The running statistics."""
        return {"count": self.count, "mean": self.mean, "deviation": self.deviation, "last": self.last}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the running statistics."""
        self.count = int(state["count"])
        self.mean, self.deviation = float(state["mean"]), float(state["deviation"])
        self.last = float(state["last"])
