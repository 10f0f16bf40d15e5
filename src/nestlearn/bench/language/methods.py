"""The ways in which a language model learns on, and what is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nestlearn.bench.base import JOINT, Entry, Settings
from nestlearn.bench.language.context import InContext
from nestlearn.continual.methods import (
    Averaging,
    ElasticWeights,
    FineTuning,
    Levels,
    Lora,
    Method,
    Rehearsal,
    Rehearsing,
    Replay,
)
from nestlearn.levels import Level

Batches = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Setup:
    """What a method is made for.

    Attributes:
        model: Has learned the first task; methods make copies of what they change.
        old: Batches of the first task's training text, for what is to be kept of it.
        store_bytes: One percent of the bytes of all training text, at two bytes a token.
        period: Tokens of a step.
        seed: Of draws.
    """

    model: nn.Module
    old: Batches
    store_bytes: int
    period: int
    seed: int

    def attached(self, method: Method) -> Method:
        """The method with the model, and with what it takes in of the first task."""
        method.attach(self.model)
        if method.wants_old:
            method.calibrate(self.old, self.seed)
        return method


class Learning(Protocol):
    """What a stream asks of a method; see :class:`~nestlearn.continual.methods.Method`."""

    @property
    def model(self) -> nn.Module:
        """The model that is evaluated."""

    def step(self, batch: Tensor) -> float:
        """Take in windows ``[B, T + 1]``."""

    def finish(self) -> None:
        """Called at the end of a stream."""

    def stored_bytes(self) -> int:
        """Bytes that are kept besides weights and the optimizer's state."""


@runtime_checkable
class EndsTasks(Protocol):
    """A method that does something when a task ends."""

    def end_task(self, batches: Batches, seed: int) -> None:
        """Called with batches of the finished task's training text, and a seed of draws."""


class TaskElasticWeights(ElasticWeights):
    """Online EWC (Schwarz et al. 2018): importances add up, the anchor is where the last task ended."""

    def end_task(self, batches: Batches, seed: int) -> None:
        """Take in the importances of a finished task, and anchor here."""
        before = self.fisher
        self.calibrate(batches, seed)
        self.fisher = {n: value + before[n] if n in before else value for n, value in self.fisher.items()}
        self.start = {name: part.own.detach().clone() for name, part in self.parts.items()}


class TaskReplay(Replay):
    """Replay whose store is shared equally by the finished tasks."""

    def __init__(self, lr: float, *, store_bytes: int, seed: int) -> None:
        super().__init__(lr, store_bytes=store_bytes, seed=seed)
        self.shares: list[list[Tensor]] = []
        self.room = 0

    def end_task(self, batches: Batches, seed: int) -> None:
        """Make room for windows of a finished task."""
        del seed
        if not self.shares:
            self.shares, self.room = [list(self.store)], len(self.store)
        self.shares.append([window for batch in batches for window in batch])
        each = max(1, self.room // len(self.shares))
        self.shares = [share[:each] for share in self.shares]
        self.store = [window for share in self.shares for window in share]


class ToldLevels(Levels):
    """Levels that are told when a task ends."""

    def end_task(self, batches: Batches, seed: int) -> None:
        """End the context; no text is read again."""
        del batches, seed
        self.keep()


DESCENT, DAMPED = "gradient descent", "damped adam"


def make_levels(
    setup: Setup,
    settings: Settings,
    *,
    kind: str,
    periods: Sequence[int] = (1, 4),
    told: bool = False,
    protect: bool = True,
    rehearse: bool = False,
) -> Method:
    """Levels of hidden units; the fastest also owns attention and embedding.

    Args:
        setup: What they are made for.
        settings: ``lr``, and with protection ``strength``, that of inputs.
        kind: Of optimizer: :data:`DESCENT` or :data:`DAMPED`.
        periods: Steps between two updates of each.
        told: Whether they are told when a task ends.
        protect: Whether they consolidate.
        rehearse: Whether they also rehearse.
    """
    further: dict[str, Any] = {}
    if protect:
        further = {"consolidate": True, "strength": settings["strength"], "refresh": 8 * setup.period,
                   "output_strength": 1.0, "contexts": "mean", "eigenbasis": kind == DAMPED}  # fmt: skip
    levels = [
        Level(
            str(place), period * setup.period, lr=settings["lr"] * (period if kind == DESCENT else 1),
            optimizer="sgd" if kind == DESCENT else "damped_adam", **further,
        )
        for place, period in enumerate(periods)
    ]  # fmt: skip
    rehearsal = Rehearsal(seed=setup.seed) if rehearse else None
    method = (ToldLevels if told else Levels)(levels, rest="0", seed=setup.seed, rehearsal=rehearsal)
    return setup.attached(method)


def make_rehearsing(
    setup: Setup, settings: Settings, *, rehearsal: Mapping[str, Any] | None = None, **further: Any
) -> Method:
    """Rehearsal alone.

    Args:
        setup: What it is made for.
        settings: ``lr``.
        rehearsal: Of :class:`~nestlearn.continual.methods.Rehearsal`, where that is not the default.
        further: Likewise of :class:`~nestlearn.continual.methods.Rehearsing`.
    """
    own = Rehearsal(**{"seed": setup.seed, **(rehearsal or {})})
    return setup.attached(Rehearsing(settings["lr"], own, **further))


#: All parts of rehearsal taken away.
ONE_PACE: Mapping[str, Any] = {
    "rehearsal": {"subjects": 1, "windows": 1, "temperature": 1.0}, "horizon": 1, "warmup": 1,
}  # fmt: skip
RATES = (3e-4, 1e-3, 3e-3)
_DAMPED: Mapping[str, Sequence[Any]] = {"lr": (3e-3, 6e-3, 1.2e-2), "strength": (0.1, 0.3)}
_DESCENT: Mapping[str, Sequence[Any]] = {"lr": (2.0, 4.0, 8.0), "strength": (0.1, 0.3)}


def _damped(setup: Setup, settings: Settings, **further: Any) -> Method:
    return make_levels(setup, settings, kind=DAMPED, **further)


METHODS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("ordinary", lambda s, o: s.attached(FineTuning(o["lr"])), {"lr": (1e-4, *RATES)}),
        Entry(JOINT, lambda s, o: s.attached(FineTuning(o["lr"])), {"lr": (1e-3, 3e-3, 6e-3, 1e-2)}),
        Entry("levels", _damped, _DAMPED, ours=True),
        Entry(
            "levels, rehearsing",
            lambda s, o: _damped(s, o, rehearse=True),
            {"lr": (6e-3, 1.2e-2), "strength": (0.3, 3.0)},
            ours=True,
        ),
        Entry(
            "rehearsal",
            make_rehearsing,
            {"lr": (3e-3, 6e-3, 1e-2)},
            ours=True,
            revision=2,  # a rate that rises more slowly, warmer text, two subjects at first
        ),
        Entry(
            "rehearsal, four windows",
            partial(make_rehearsing, rehearsal={"windows": 4}),
            {"lr": (6e-3, 1e-2)},
            ours=True,
        ),
        Entry(
            "rehearsal, one pace", partial(make_rehearsing, **ONE_PACE), {"lr": (1e-3, 3e-3, 6e-3)}, ours=True
        ),
        Entry(
            "levels, gradient descent",
            lambda s, o: make_levels(s, o, kind=DESCENT),
            _DESCENT,
            ours=True,
        ),
        Entry(
            "ewc",
            lambda s, o: s.attached(TaskElasticWeights(o["lr"], o["strength"])),
            {"lr": (3e-4, 1e-3), "strength": (1e2, 1e3, 1e4)},
            told=True,
        ),
        Entry(
            "replay, 1 %",
            lambda s, o: s.attached(TaskReplay(o["lr"], store_bytes=s.store_bytes, seed=s.seed)),
            {"lr": RATES},
            stores=True,
            told=True,
        ),
        Entry(
            "in context",
            lambda s, o: InContext(s.model, o["tokens"]),
            {"tokens": (64, 128, 256, 384)},
            stores=True,
        ),
        Entry("lora", lambda s, o: s.attached(Lora(o["lr"], seed=s.seed)), {"lr": RATES}),
        Entry("levels, told", lambda s, o: _damped(s, o, told=True), _DAMPED, ours=True, told=True),
        Entry(
            "levels, nothing protected",
            lambda s, o: _damped(s, o, protect=False),
            {"lr": (1e-3, 3e-3, 6e-3)},
            ours=True,
        ),
        Entry("1 level", lambda s, o: _damped(s, o, periods=(1,)), _DAMPED, ours=True),
        Entry("3 levels", lambda s, o: _damped(s, o, periods=(1, 4, 16)), _DAMPED, ours=True),
        Entry(
            "weight averaging",
            lambda s, o: s.attached(Averaging(o["lr"], o["weight"])),
            {"lr": RATES, "weight": (0.3, 0.5, 0.7)},
        ),
    )
}


def old_batches(windows: Tensor, tokens: int, batch: int) -> list[Tensor]:
    """The first windows as batches, about so many tokens of them."""
    count = max(1, tokens // (windows.shape[1] - 1))
    return list(torch.split(windows[:count], batch))
