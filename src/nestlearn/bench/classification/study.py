"""What levels buy: their number and lowest frequency, protection, starting anew; and each optimizer alone.

Figure 7 of the paper at small scale: a network of four linear layers, divided among one to four levels whose
periods grow geometrically up to the slowest one's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer

from nestlearn.bench.base import JOINT, Entry, Settings
from nestlearn.bench.classification.methods import DESCENT, RATES, STRENGTHS, descent_level
from nestlearn.continual.classification import Classifier, Levels, Ordinary, adam
from nestlearn.optim import (
    M3,
    Consolidated,
    DeepMomentum,
    DeltaGradientDescent,
    DeltaMomentum,
    FeatureMomentum,
    KeyRecorder,
    Momentum,
    Muon,
    PreconditionedMomentum,
)

if TYPE_CHECKING:
    from nestlearn.bench.classification.stream import Setup

LAYERS = 4
#: Updates of the fastest level for one of the slowest.
SLOWEST = (4, 16, 64)
#: Whether the first layer is the fastest, as blocks of the paper's Continuum Memory System, or the last one.
FIRST, LAST = "first", "last"
_GRADIENT: Mapping[str, tuple[float, ...]] = {"lr": DESCENT}
_PROTECTED: Mapping[str, tuple[float, ...]] = {"lr": DESCENT, "strength": STRENGTHS}


def periods(levels: int, slowest: int) -> list[int]:
    """Batches between two updates of every level, fast to slow: geometric from 1 to the slowest."""
    return [1] if levels == 1 else [round(slowest ** (i / (levels - 1))) for i in range(levels)]


def owner(levels: int, fastest: str) -> Callable[[str, nn.Parameter], str]:
    """Which level owns a parameter of an ``nn.Sequential`` of linear layers with ReLU between them."""

    def assign(name: str, parameter: nn.Parameter) -> str:
        del parameter
        layer = int(name.split(".", maxsplit=1)[0]) // 2
        place = layer * levels // LAYERS
        return str(place if fastest == FIRST else levels - 1 - place)

    return assign


def make_levels(
    setup: Setup, settings: Settings, *, levels: int, slowest: int, protect: bool, variant: str = "sequential"
) -> Classifier:
    """Levels of gradient descent; a slow one's rate is the same, its gradient the mean over its period."""
    batch = setup.stream.batch_size
    made = [
        descent_level(str(place), period * batch, batch, settings, protect=protect)
        for place, period in enumerate(periods(levels, slowest))
    ]
    assign = owner(levels, settings.get("fastest", LAST))
    return Levels(setup.network(), made, assign=assign, variant=variant)


def _number(levels: int) -> str:
    return "1 level" if levels == 1 else f"{levels} levels"


def _of_levels() -> list[Entry]:
    found = []
    for protect in (True, False):
        kind = "" if protect else ", nothing protected"
        space = _PROTECTED if protect else _GRADIENT
        one = partial(make_levels, levels=1, slowest=1, protect=protect)
        found.append(Entry(f"1 level{kind}", one, space, ours=True))
        for levels in range(2, LAYERS + 1):
            for slowest in SLOWEST:
                make = partial(make_levels, levels=levels, slowest=slowest, protect=protect)
                name = f"{_number(levels)} to {slowest}{kind}"
                found.append(Entry(name, make, {**space, "fastest": (FIRST, LAST)}, ours=True))
        for levels in (2, 4):
            make = partial(make_levels, levels=levels, slowest=16, protect=protect, variant="nested")
            name = f"{_number(levels)} to 16, starting anew{kind}"
            found.append(Entry(name, make, {**space, "fastest": (FIRST, LAST)}, ours=True))
    return found


def _whole(kind: Callable[..., Optimizer]) -> Callable[[Setup, Settings], Classifier]:
    """An optimizer for all parameters, nothing else."""
    return lambda s, o: Ordinary(s.network(), lambda own: kind(own.named_parameters(), lr=o["lr"]))


def _delta_descent(setup: Setup, settings: Settings) -> Classifier:
    def make(network: nn.Module) -> Optimizer:
        return DeltaGradientDescent(network.parameters(), lr=settings["lr"], keys=KeyRecorder(network))

    return Ordinary(setup.network(), make)


class ConsolidatedClassifier(Ordinary):
    """An optimizer whose updates are kept out of finished tasks; it is told when one ends."""

    name = "consolidated"
    needs_boundaries = True

    def end_task(self, data: object) -> None:
        """Keep the task."""
        self.tasks += 1
        assert isinstance(self.optimizer, Consolidated)
        self.optimizer.commit()

    def stored_bytes(self) -> int:
        """Of the key memories."""
        assert isinstance(self.optimizer, Consolidated)
        return self.optimizer.memories.stored_bytes()


def _consolidated(kind: Callable[..., Optimizer]) -> Callable[[Setup, Settings], Classifier]:
    def make(setup: Setup, settings: Settings) -> Classifier:
        return ConsolidatedClassifier(
            setup.network(),
            lambda own: Consolidated(
                own.named_parameters(), lr=settings["lr"], model=own, inner=kind,
                strength=settings["strength"], output_strength=1e9, refresh=1, horizon=10_000,
            ),
        )  # fmt: skip

    return make


def _of_optimizers() -> list[Entry]:
    like_adam = {"lr": RATES}
    found = [
        Entry("momentum", _whole(Momentum), {"lr": (0.003, 0.01, 0.03, 0.1)}, ours=True),
        Entry("delta momentum", _whole(DeltaMomentum), {"lr": (0.003, 0.01, 0.03, 0.1)}, ours=True),
        Entry("feature momentum", _whole(FeatureMomentum), {"lr": (0.001, 0.003, 0.01, 0.03)}, ours=True),
        Entry("deep momentum", _whole(DeepMomentum), {"lr": (0.03, 0.1, 0.3, 1.0)}, ours=True),
        Entry("preconditioned momentum", _whole(PreconditionedMomentum), like_adam, ours=True),
        Entry("muon", _whole(Muon), like_adam, ours=True),
        Entry("m3", _whole(M3), like_adam, ours=True),
        Entry("delta gradient descent", _delta_descent, {"lr": (0.01, 0.03, 0.1, 0.3)}, ours=True),
    ]
    kinds = {"adam": PreconditionedMomentum, "m3": M3, "delta momentum": DeltaMomentum}
    for name, kind in kinds.items():
        rates = DESCENT if kind is DeltaMomentum else (*RATES, 1e-2)
        space = {"lr": rates, "strength": STRENGTHS}
        entry = Entry(f"consolidated {name}", _consolidated(kind), space, ours=True, told=True)
        found.append(replace(entry, revision=1))  # what it keeps is counted
    return found


STUDY: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("ordinary", lambda s, o: Ordinary(s.network(), adam(o["lr"])), {"lr": RATES}),
        Entry(JOINT, lambda s, o: Ordinary(s.network(), adam(o["lr"])), {"lr": RATES}),
        *_of_levels(),
        *_of_optimizers(),
    )
}
