"""What a run over a stream is made of."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A stretch of the stream in one language.

    Attributes:
        language: Key of the token data.
        steps: Optimizer steps.
        lr_scale: Factor on every level's learning rate during the stage.

    Raises:
        ValueError: If ``steps`` is below one or the scale is not positive.
    """

    language: str
    steps: int
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a stage needs at least one step, {self.language!r} has {self.steps}")
        if not (math.isfinite(self.lr_scale) and self.lr_scale > 0):
            raise ValueError(f"lr_scale of {self.language!r} must be positive, got {self.lr_scale}")


@dataclass(frozen=True)
class StreamConfig:
    """How a model is trained along a stream.

    Attributes:
        stages: In the order of the stream.
        batch_size: Windows per step.
        context: Tokens per window.
        seed: Seed of the order of the windows.
        evaluate_every: Steps between evaluations on every language; the last step of a stage always is one.
        evaluation_windows: Held-out windows per language.
        checkpoint_every: Steps between checkpoints; 0 for only at the end and on interruption.
        warmup: Steps of linear warm-up in each stage.
        final_lr: Learning rate at the end of a stage as a share of its peak; cosine in between.

    Raises:
        ValueError: For a value outside its range, naming it.
    """

    stages: tuple[Stage, ...]
    batch_size: int = 8
    context: int = 128
    seed: int = 0
    evaluate_every: int = 25
    evaluation_windows: int = 64
    checkpoint_every: int = 100
    warmup: int = 20
    final_lr: float = 0.1

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a stream needs at least one stage")
        for name, least in (
            ("batch_size", 1),
            ("context", 2),
            ("evaluate_every", 1),
            ("evaluation_windows", 1),
            ("checkpoint_every", 0),
            ("warmup", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0.0 <= self.final_lr <= 1.0:
            raise ValueError(f"final_lr is a share between 0 and 1, got {self.final_lr}")

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step takes from the stream."""
        return self.batch_size * self.context

    def locate(self, step: int) -> tuple[int, int]:
        """Stage index and step within it of a step of the whole stream.

        Raises:
            ValueError: If the step lies outside the stream.
        """
        rest = step
        for index, stage in enumerate(self.stages):
            if 0 <= rest < stage.steps:
                return index, rest
            rest -= stage.steps
        raise ValueError(f"step {step} is outside a stream of {self.total_steps} steps")

    def lr_factor(self, step: int) -> float:
        """Factor on the learning rates at a step: warm-up, cosine, and the stage's scale."""
        index, inside = self.locate(step)
        stage = self.stages[index]
        warm = min(1.0, (inside + 1) / self.warmup) if self.warmup else 1.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * inside / stage.steps))
        return stage.lr_scale * warm * (self.final_lr + (1.0 - self.final_lr) * cosine)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for results and checkpoints."""
        return asdict(self)
