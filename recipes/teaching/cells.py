"""The cells of the comparison: each way of learning on, with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nestlearn.continual.learner import Learner
from nestlearn.continual.methods import (
    DEFAULT_REST,
    Averaging,
    BlockTuning,
    ElasticWeights,
    FineTuning,
    L2ToStart,
    Levels,
    Lora,
    Method,
    Replay,
    default_levels,
)
from nestlearn.levels import Level
from recipes.teaching import base
from recipes.teaching.material import CONTEXT, NEW, OLD, tokenizer, tokens

BATCH, STEPS, EVERY = 8, 80, 16  # steps of each new domain, and between two evaluations
CALIBRATION = 16384  # tokens of old text that a method may look at
#: Replay keeps one percent of the bytes of the text that the base was trained on, about 3.3 a token.
STORE = int(0.01 * 3.3 * base.SEEN)
STEP = BATCH * CONTEXT
SETTINGS: Mapping[str, Any] = {
    "batch": BATCH,
    "steps": STEPS,
    "every": EVERY,
    "calibration": CALIBRATION,
    "store": STORE,
    "base": {"steps": base.STEPS, "shape": dict(base.SHAPE)},
}


@dataclass(frozen=True)
class Cell:
    """One method at one strength.

    Attributes:
        method: Row of the comparison.
        make: Gives the method for a seed.
        settings: What tells the cell from others of its method.
    """

    method: str
    make: Callable[[int], Method]
    settings: Mapping[str, Any]


def levels(lr: float, protect: bool = True, rest: str | None = DEFAULT_REST) -> Callable[[int], Method]:
    """The default levels at another rate: one is updated at every step, one at every fourth."""

    def make(seed: int) -> Method:
        own = default_levels(lr)
        if not protect:
            own = [replace(level, consolidate=False, eigenbasis=False) for level in own]
        return Levels(own, rest=rest, seed=seed)

    return make


def by_gradient_descent(lr: float) -> Callable[[int], Method]:
    """Levels of filtered gradient descent with momentum, whose rate is in units of the model."""
    shared: dict[str, Any] = {
        "optimizer": "sgd",
        "consolidate": True,
        "strength": 0.1,
        "output_strength": 1.0,
        "refresh": 8192,
    }
    own = (Level("fast", 256, lr=lr, **shared), Level("slow", 4096, lr=4 * lr, **shared))
    return lambda seed: Levels(own, rest="fast", seed=seed)


def _grid(name: str, kind: Callable[..., Method], *settings: dict[str, Any]) -> list[Cell]:
    return [Cell(name, lambda seed, own=own: kind(**own), own) for own in settings]  # type: ignore[misc]


def _levels(
    name: str, *rates: float, make: Callable[..., Callable[[int], Method]] = levels, **further: Any
) -> list[Cell]:
    return [Cell(name, make(lr, **further), {"lr": lr}) for lr in rates]


_RATES = ({"lr": 1e-4}, {"lr": 3e-4}, {"lr": 1e-3})
CELLS = [
    *_grid("finetune", FineTuning, *_RATES),
    *_levels("levels", 3e-3, 6e-3, 1.2e-2),
    *_levels("levels, gradient descent", 2.0, 4.0, 8.0, make=by_gradient_descent),
    *_grid("lora", Lora, *_RATES),
    *_grid("replay", Replay, *({**rate, "store_bytes": STORE} for rate in _RATES)),
    *_grid("ewc", ElasticWeights, *({"lr": 3e-4, "strength": s} for s in (1e3, 1e4, 1e5))),
    *_grid("mlp", BlockTuning, *_RATES),
    *_levels("levels, feed-forward only", 3e-3, 6e-3, 1.2e-2, rest=None),
    *_levels("levels, nothing protected", 1e-4, 3e-4, 1e-3, protect=False),
    *_grid("average", Averaging, *({"lr": 1e-3, "weight": w} for w in (0.25, 0.5, 0.75))),
    *_grid("l2", L2ToStart, *({"lr": 3e-4, "strength": s} for s in (0.01, 0.1, 1.0))),
]


def teach(cell: Cell, work: Path, seed: int, split: str) -> dict[str, Any]:
    """Teach a base the new domains one after the other.

    Returns:
        ``curve``: bits per byte of every domain before, in between and at the end, with the stage and the
        tokens so far; ``bytes``: what the method keeps besides weights of the base's shape.
    """
    torch.set_num_threads(1)
    model = base.load(work, seed)
    method = cell.make(seed)
    count = max(CALIBRATION, method.old_tokens) // len(OLD)
    old = [tokens(name, "train", count, seed) for name in OLD]
    torch.manual_seed(seed)
    learner = Learner(
        model,
        tokenizer(),
        method=method,
        old=old,
        context=CONTEXT,
        batch_size=BATCH,
        calibration_tokens=CALIBRATION,
        seed=seed,
    )
    curve: list[dict[str, Any]] = [{"stage": 0, "tokens": 0, "bits": base.evaluate(learner.model, split)}]
    for stage, name in enumerate(NEW, start=1):
        ids = tokens(name, "train", STEPS * STEP + 1, seed)
        for start in range(0, len(ids) - 1, EVERY * STEP):
            report = learner.learn(ids[start : start + EVERY * STEP + 1], progress=False)
            total = curve[-1]["tokens"] + report.tokens
            curve.append({"stage": stage, "tokens": total, "bits": base.evaluate(learner.model, split)})
    changes = [
        {"name": c.name, "updates": c.updates, "relative": round(c.relative, 5)} for c in learner.diff()
    ]
    return {"curve": curve, "changes": changes}
