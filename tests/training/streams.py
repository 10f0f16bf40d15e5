"""A stream of two toy languages, a model, and a trainer on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from nestlearn.levels import Level, Surprise
from nestlearn.optim import Nested
from nestlearn.streams import TokenizedLanguage
from nestlearn.training import Stage, StreamConfig, StreamTrainer
from tests.helpers import copy_tree, tiny_model

VOCABULARY = 20
TOKENS = 2 * 8  # of one step
TOKEN_BYTES = torch.arange(VOCABULARY) % 3 + 1
TIMES = ("seconds", "cpu_seconds")


def language(name: str, words: list[int]) -> TokenizedLanguage:
    """A language that repeats its words."""
    return TokenizedLanguage(name, *(torch.tensor(words * (n // len(words))) for n in (240, 60, 60)))


DATA = {
    "en": language("en", [1, 2, 3, 4]),
    "fr": language("fr", [11, 12, 13]),
    "de": language("de", [7, 8, 9, 10, 5]),
}


def stream(first: int = 7, second: int = 5, **changes: Any) -> StreamConfig:
    settings = {
        "batch_size": 2,
        "context": 8,
        "evaluate_every": 3,
        "evaluation_windows": 3,
        "checkpoint_every": 0,
        "warmup": 2,
        **changes,
    }
    return StreamConfig((Stage("en", first), Stage("fr", second, lr_scale=0.7)), **settings)


#: Options of the two levels, and the model's mixer.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"mixer": "attention"},
    # Alert ones notice the second language after few steps, where the loss of the first still falls steeply.
    "consolidating": {
        "mixer": "attention",
        "levels": {"consolidate": True, "refresh": 2 * TOKENS},
        "alert": True,
    },
    "ordinary": {"mixer": "attention", "levels": {"consolidate": True}},
    "hope": {"mixer": "self_modifying", "levels": {"consolidate": True}, "alert": True},
    "nested": {"mixer": "attention", "variant": "nested"},
}


def trainer(
    kind: str = "plain",
    config: StreamConfig | None = None,
    run_dir: Path | None = None,
    *,
    seed: int = 0,
    **changes: Any,
) -> StreamTrainer:
    """A new model and optimizer; the fast level is due at every second step, the slow one at every sixth."""
    settings = KINDS[kind]
    periods = (2 * TOKENS, 6 * TOKENS)
    model = tiny_model(seed, mixer=settings["mixer"], cms_periods=periods, vocab_size=VOCABULARY)
    levels = [
        Level(name, period, lr=3e-2, **settings.get("levels", {}))
        for name, period in zip(("fast", "slow"), periods, strict=True)
    ]
    surprise = partial(Surprise, threshold=0.5) if settings.get("alert") else Surprise
    with mock.patch("nestlearn.optim.nested.Surprise", surprise):
        optimizer = Nested(levels, model, variant=settings.get("variant", "sequential"))
    return StreamTrainer(
        model,
        optimizer,
        DATA,
        TOKEN_BYTES,
        stream() if config is None else config,
        run_dir=run_dir,
        **changes,
    )


def without_times(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in TIMES}


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without its times."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [without_times(json.loads(line)) for line in lines]


def listed(tree: Any) -> Any:
    """Tuples as lists: a checkpoint does not tell them apart, and neither do optimizers."""
    if isinstance(tree, dict):
        return {key: listed(value) for key, value in tree.items()}
    return [listed(value) for value in tree] if isinstance(tree, list | tuple) else tree


def outcome(run: StreamTrainer) -> dict[str, Any]:
    """A copy of everything that a run leaves behind, times apart."""
    return copy_tree(
        {
            "model": dict(run.model.state_dict()),
            "optimizer": listed(run.optimizer.state_dict()),
            "step": run.step,
            "tokens": run.tokens,
            "curve": [without_times(point) for point in run.curve],
            "matrix": run.matrix,
            "updates": run.updates,
            "notes": run.notes,
        }
    )


def poison(model: nn.Module, at: int, fail: Callable[[], None] | None = None) -> None:
    """From the ``at``-th training pass on, the logits are NaN, or ``fail`` is called."""
    passes = 0

    def hook(_: nn.Module, __: Any, out: Any) -> None:
        nonlocal passes
        passes += torch.is_grad_enabled()
        if passes >= at:
            if fail is not None:
                fail()
            out.logits = out.logits * float("nan")

    model.register_forward_hook(hook)
