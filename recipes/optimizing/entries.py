"""The optimizers that are compared, and how each divides a model's parameters.

What is the same for all: the steps, the batches, the initial weights of a seed, the learning rate's course,
the length that gradients are cut to, no weight decay, every hyper-parameter but the learning rate at the
class's default, and the way a learning rate is found (:mod:`recipes.optimizing.plan`).

Who updates what:

- AdamW and the memories that are read as they are update every parameter.
- Orthogonal updates are meant for matrices that map hidden vectors to hidden vectors. Every optimizer that
  makes them has exactly these, and all others are AdamW's at the same learning rate, as an orthogonal update
  here has the size of one of AdamW's. M3 divides them so by itself.
- The literal M3 has no such scale: its rate is for the matrices, and the others are AdamW's at a fixed one.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from nestlearn.optim import (
    M3,
    DeepMomentum,
    DeltaGradientDescent,
    DeltaMomentum,
    FeatureMomentum,
    KeyRecorder,
    Momentum,
    PreconditionedMomentum,
)
from nestlearn.optim.m3 import LOOKED_UP

Maker = Callable[[nn.Module, float], list[Optimizer]]
"""Gives a model's optimizers, for a learning rate."""

#: AdamW's rate for what is not a matrix where the matrices' rate has another unit.
REST = 4e-3

#: Lowest rates of the grids, by task, of those whose updates have the size of AdamW's ...
LIKE_ADAMW: Mapping[str, float] = {"language": 2e-3, "digits": 5e-4, "valley": 2e-3, "orthogonal": 2e-3}
#: ... and of those whose updates are sums of ten gradients.
LIKE_SGD: Mapping[str, float] = {"language": 0.1, "digits": 2e-2, "valley": 1e-4, "orthogonal": 1e-3}


@dataclass(frozen=True)
class Entry:
    """One optimizer.

    Attributes:
        make: Gives a model's optimizers.
        lows: The lowest rate of the grid, by task; other tasks are left out.
        settings: What tells this entry's runs from others', besides its name.
        package: Needed besides the project's own.
    """

    make: Maker
    lows: Mapping[str, float]
    settings: Mapping[str, Any]
    package: str | None = None

    def refusal(self) -> str | None:
        """Why it cannot be done, or None."""
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            return f"the package {self.package} is not installed"
        return None


def hidden_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Matrices that neither look something up nor answer, by name."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and not any(part in name for part in LOOKED_UP)
    }


def whole(kind: type[Optimizer], lows: Mapping[str, float], **settings: Any) -> Entry:
    """One optimizer for every parameter."""

    def make(model: nn.Module, lr: float) -> list[Optimizer]:
        return [_built(kind, list(model.named_parameters()), lr, settings)]

    return Entry(make, lows, {"whole": kind.__name__, **_defaults(kind), **settings})


def divided(
    kind: Callable[[], type[Optimizer]],
    lows: Mapping[str, float],
    rest: float | None = None,
    package: str | None = None,
    **settings: Any,
) -> Entry:
    """One optimizer for the hidden matrices, AdamW for the others.

    Args:
        kind: Gives the class; called when the package must be there.
        lows: See :class:`Entry`.
        rest: AdamW's rate; None for the same.
        package: See :class:`Entry`.
        settings: Hyper-parameters.
    """

    def make(model: nn.Module, lr: float) -> list[Optimizer]:
        own = hidden_matrices(model)
        others = [(name, p) for name, p in model.named_parameters() if name not in own]
        made = [_built(kind(), list(own.items()), lr, settings)]
        return made + ([AdamW(others, lr=lr if rest is None else rest, weight_decay=0.0)] if others else [])

    own = _defaults(kind()) if package is None else {}
    return Entry(make, lows, {"divided": True, "rest": rest, **own, **settings}, package)


def _defaults(kind: type[Optimizer]) -> dict[str, Any]:
    """The hyper-parameters that a class of this project has unless told otherwise: they may change."""
    if not kind.__module__.startswith("nestlearn"):
        return {}
    named = inspect.signature(kind).parameters.items()
    return {name: p.default for name, p in named if p.default is not p.empty and name not in {"lr", "keys"}}


def _built(
    kind: type[Optimizer], named: list[tuple[str, nn.Parameter]], lr: float, settings: Mapping[str, Any]
) -> Optimizer:
    make: Any = kind
    # Not every foreign optimizer takes names.
    params = named if kind.__module__.startswith(("nestlearn", "torch")) else [p for _, p in named]
    made: Optimizer = make(params, lr=lr, **settings)
    return made


def _delta_gradient_descent(lows: Mapping[str, float], erase: float) -> Entry:
    def make(model: nn.Module, lr: float) -> list[Optimizer]:
        return [DeltaGradientDescent(model.parameters(), lr=lr, keys=KeyRecorder(model), erase=erase)]

    own = _defaults(DeltaGradientDescent)
    return Entry(make, lows, {"whole": "DeltaGradientDescent", **own, "erase": erase})


def _heavyball() -> type[Optimizer]:
    package = importlib.import_module("heavyball")
    # Its compiler takes longer than a whole run here.
    package.utils.compile_mode = None
    muon: type[Optimizer] = package.Muon
    return muon


def _only(lows: Mapping[str, float], *tasks: str, times: float = 1.0) -> dict[str, float]:
    return {task: float(f"{times * low:.3g}") for task, low in lows.items() if task in tasks}


_NETWORKS = ("language", "digits")
_MATRICES = (*_NETWORKS, "orthogonal")
_ALL = (*_MATRICES, "valley")
_ADAMW = _only(LIKE_ADAMW, *_MATRICES)
_SGD = _only(LIKE_SGD, *_ALL)
_ORTHOGONAL: Mapping[str, Any] = {"lows": _only(LIKE_ADAMW, *_NETWORKS), "output": "orthogonal"}

#: In the order in which they are done.
ENTRIES: Mapping[str, Entry] = {
    "AdamW": whole(AdamW, LIKE_ADAMW, weight_decay=0.0),
    "Muon": divided(lambda: torch.optim.Muon, _ADAMW, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    "M3": whole(M3, _ADAMW),
    "M3, fast memory alone": whole(M3, _ADAMW, periods=(), slow_betas=(), weights=()),
    "Muon, momentum 0.8": divided(
        lambda: torch.optim.Muon, _ADAMW, weight_decay=0.0, adjust_lr_fn="match_rms_adamw", momentum=0.8
    ),
    "M3, denominator": whole(M3, _ADAMW, denominator=True),
    "AdamW, beta 0.95": whole(AdamW, LIKE_ADAMW, weight_decay=0.0, betas=(0.9, 0.95)),
    "M3, paper": divided(lambda: M3, _only(LIKE_ADAMW, *_MATRICES, times=0.004), rest=REST, mode="paper"),
    "Muon, heavyball": divided(_heavyball, _ADAMW, package="heavyball"),
    "Momentum": whole(Momentum, _SGD),
    "DeltaMomentum": whole(DeltaMomentum, _SGD),
    # A rare token's gradient is large beside the vocabulary's mean square, and its features far larger.
    "FeatureMomentum": whole(FeatureMomentum, {**_SGD, "language": 3e-3}),
    "DeepMomentum": whole(DeepMomentum, _only(LIKE_SGD, *_ALL, times=10.0)),
    "Kronecker": whole(PreconditionedMomentum, _ADAMW, preconditioner="kronecker"),
    "Momentum, orthogonal": divided(lambda: Momentum, **_ORTHOGONAL),
    "DeltaMomentum, orthogonal": divided(lambda: DeltaMomentum, **_ORTHOGONAL),
    "FeatureMomentum, orthogonal": divided(lambda: FeatureMomentum, **_ORTHOGONAL),
    "DeepMomentum, orthogonal": divided(lambda: DeepMomentum, **_ORTHOGONAL),
    "GradientDescent": whole(Momentum, _only(LIKE_SGD, "orthogonal", times=10.0), momentum=0.0),
    "DeltaGradientDescent": _delta_gradient_descent(_only(LIKE_SGD, "orthogonal", times=10.0), 1.0),
    "DeltaGradientDescent, erase 0.01": _delta_gradient_descent(
        _only(LIKE_SGD, "language", "orthogonal", times=10.0), 0.01
    ),
}
