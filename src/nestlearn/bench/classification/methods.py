"""The methods of the benchmark: how each is made for a stream, and what is searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from nestlearn.bench.base import FRESH, JOINT, Entry, Settings
from nestlearn.continual.classification import (
    AveragedGradientMemory,
    AveragedWeights,
    Classifier,
    ClassMeans,
    ContinualBackprop,
    DarkReplay,
    ElasticWeights,
    ExactHead,
    Fresh,
    GradientProjection,
    Levels,
    OnlineElasticWeights,
    Ordinary,
    OrthogonalWeights,
    Replay,
    SynapticIntelligence,
    WithoutForgetting,
    adam,
    random_features,
    sgd,
)
from nestlearn.levels import Level

if TYPE_CHECKING:
    from nestlearn.bench.classification.stream import Setup

#: Random features of the exact head and of class means.
FEATURES = 4000
Maker = Callable[["Setup", Settings], Classifier]

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
#: Of gradient descent, whose filtered steps are the shorter the stronger the protection is.
DESCENT = (0.03, 0.1, 0.3, 1.0, 3.0)
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


def descent_level(name: str, period: int, batch: int, settings: Settings, *, protect: bool) -> Level:
    """A level of gradient descent, its updates kept out of what came before.

    Args:
        name: Of the level.
        period: Examples between two updates.
        batch: Examples of a step; key memories look at every one.
        settings: ``lr``, and with protection ``strength``.
        protect: Whether it consolidates.
    """
    return Level(
        name,
        period,
        lr=settings["lr"],
        optimizer="sgd",
        betas=(0.0, 0.9),
        max_grad_norm=None,
        consolidate=protect,
        strength=settings.get("strength", 1.0),
        output_strength=1e9,
        contexts="mean",
        refresh=batch,
        horizon=10_000 * batch,
    )


def _levels(setup: Setup, settings: Settings, *, announced: bool, protect: bool = True) -> Classifier:
    """One level with everything."""
    batch = setup.stream.batch_size
    level = descent_level("all", batch, batch, settings, protect=protect)
    return Levels(setup.network(), [level], announced=announced)


def _replay(share: float) -> Maker:
    """A store of a share of the bytes of all training examples."""

    def make(setup: Setup, settings: Settings) -> Classifier:
        size = int(share * setup.bytes)
        return Replay(setup.network(), adam(settings["lr"]), store_bytes=size, seed=setup.seed)

    return make


def _features(setup: Setup, settings: Settings) -> tuple[nn.Module, int]:
    """Random features of the inputs, and how many."""
    inputs = setup.tasks[0].splits["train"].inputs[0].numel()
    return random_features(inputs, FEATURES, gain=settings["gain"], seed=setup.seed), FEATURES


def _five_percent(setup: Setup) -> dict[str, int]:
    return {"store_bytes": int(0.05 * setup.bytes), "seed": setup.seed}


METHODS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("ordinary", lambda s, o: Ordinary(s.network(), adam(o["lr"])), {"lr": RATES}),
        Entry(JOINT, lambda s, o: Ordinary(s.network(), adam(o["lr"])), {"lr": RATES}),
        Entry(
            "exact head",
            lambda s, o: ExactHead(*_features(s, o), s.outputs, ridge=o["ridge"]),
            {"gain": (0.5, 1.0, 2.0, 4.0), "ridge": (1e-3, 1e-2, 1e-1)},
            ours=True,
            passes=1,
        ),
        Entry(
            "levels",
            lambda s, o: _levels(s, o, announced=True),
            {"lr": DESCENT, "strength": STRENGTHS},
            ours=True,
            told=True,
            revision=1,  # strengths are in units of a mean context
        ),
        Entry(
            "ewc",
            lambda s, o: ElasticWeights(s.network(), adam(o["lr"]), strength=o["strength"], seed=s.seed),
            {"lr": RATES, "strength": (1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7)},
            told=True,
        ),
        Entry("replay, 5 %", _replay(0.05), {"lr": RATES}, stores=True),
        Entry(
            "owm",
            lambda s, o: OrthogonalWeights(s.network(), sgd(o["lr"]), alpha=o["alpha"], seed=s.seed),
            {"lr": (0.05, 0.1, 0.2), "alpha": (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)},
            told=True,
        ),
        Entry(
            "levels, not told",
            lambda s, o: _levels(s, o, announced=False),
            {"lr": DESCENT, "strength": STRENGTHS},
            ours=True,
            revision=1,
        ),
        Entry(
            "levels, nothing protected",
            lambda s, o: _levels(s, o, announced=False, protect=False),
            {"lr": DESCENT},
            ours=True,
        ),
        Entry(
            "gpm",
            lambda s, o: GradientProjection(s.network(), sgd(o["lr"]), threshold=o["threshold"], seed=s.seed),
            {"lr": (0.05, 0.1, 0.2), "threshold": (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)},
            told=True,
        ),
        Entry(
            "online ewc",
            lambda s, o: OnlineElasticWeights(
                s.network(), adam(o["lr"]), strength=o["strength"], seed=s.seed
            ),
            {"lr": RATES, "strength": (1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7)},
            told=True,
        ),
        Entry(
            "si",
            lambda s, o: SynapticIntelligence(s.network(), adam(o["lr"]), strength=o["strength"]),
            {"lr": RATES, "strength": (0.1, 1.0, 10.0, 100.0, 1000.0)},
            told=True,
        ),
        Entry("lwf", lambda s, o: WithoutForgetting(s.network(), adam(o["lr"])), {"lr": RATES}, told=True),
        Entry("replay, 1 %", _replay(0.01), {"lr": RATES}, stores=True),
        Entry("replay, 20 %", _replay(0.2), {"lr": RATES}, stores=True),
        Entry(
            "der++, 5 %",
            lambda s, o: DarkReplay(s.network(), adam(o["lr"]), alpha=o["alpha"], **_five_percent(s)),
            {"lr": RATES, "alpha": (0.1, 0.5, 1.0)},
            stores=True,
        ),
        Entry(
            "a-gem, 5 %",
            lambda s, o: AveragedGradientMemory(s.network(), adam(o["lr"]), **_five_percent(s)),
            {"lr": RATES},
            stores=True,
        ),
        Entry(
            "class means",
            lambda s, o: ClassMeans(*_features(s, o), s.outputs),
            {"gain": (0.5, 1.0, 2.0, 4.0)},
            passes=1,
        ),
        Entry(
            "weight averaging",
            lambda s, o: AveragedWeights(s.network(), adam(o["lr"])),
            {"lr": RATES},
            told=True,
        ),
        Entry(
            "continual backprop",
            lambda s, o: ContinualBackprop(s.network(), adam(o["lr"]), rate=o["rate"], seed=s.seed),
            {"lr": RATES, "rate": (1e-5, 1e-4, 1e-3)},
        ),
        Entry(
            FRESH,
            lambda s, o: Fresh(s.network(), adam(o["lr"]), make=s.network),
            {"lr": RATES},
            objective="learned",
            told=True,
        ),
    )
}
