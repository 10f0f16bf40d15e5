"""nestlearn: models that keep learning, and keep what they knew.

A model and its optimizer are one system of associative memories, each with its own context flow, objective
and clock (*Nested Learning*, arXiv 2512.24695).

>>> import nestlearn as nl
>>> levels = [nl.Level("fast", period=512, consolidate=True), nl.Level("slow", period=2048, consolidate=True)]
>>> config = nl.HopeConfig(vocab_size=256, hidden_size=32, num_hidden_layers=1, cms_periods=(512, 2048))
>>> model = nl.HopeForCausalLM(config)
>>> optimizer = nl.optim.Nested(levels, model)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nestlearn import levels, memory, optim
from nestlearn.levels import Clock, Level, NestedSystem, inspect
from nestlearn.models.registration import register_with_transformers

if TYPE_CHECKING:
    from nestlearn import (
        continual,
        converting,
        evaluation,
        layers,
        models,
        observing,
        reporting,
        retrofitting,
        streams,
        training,
    )
    from nestlearn.continual.learner import Learner
    from nestlearn.continual.methods import Rehearsal
    from nestlearn.converting import convert
    from nestlearn.models.hope import (
        HopeCache,
        HopeConfig,
        HopeForCausalLM,
        HopeForSequenceClassification,
        HopeModel,
    )
    from nestlearn.observing import observe, trace
    from nestlearn.retrofitting import NestedUnits, retrofit, undo_retrofit
    from nestlearn.training.trainer import NestedCallback

__version__ = "0.1.0"

# Imported on first use: transformers takes seconds, and optimizers do not need it.
_LAZY = {
    "HopeCache": "nestlearn.models.hope",
    "HopeConfig": "nestlearn.models.hope",
    "HopeForCausalLM": "nestlearn.models.hope",
    "HopeForSequenceClassification": "nestlearn.models.hope",
    "HopeModel": "nestlearn.models.hope",
    "Learner": "nestlearn.continual.learner",
    "convert": "nestlearn.converting",
    "NestedCallback": "nestlearn.training.trainer",
    "NestedUnits": "nestlearn.retrofitting",
    "Rehearsal": "nestlearn.continual.methods",
    "observe": "nestlearn.observing",
    "retrofit": "nestlearn.retrofitting",
    "trace": "nestlearn.observing",
    "undo_retrofit": "nestlearn.retrofitting",
}
_ROOMS = (
    "continual",
    "converting",
    "evaluation",
    "layers",
    "models",
    "observing",
    "reporting",
    "retrofitting",
    "streams",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"nestlearn.{name}")
    raise AttributeError(f"module 'nestlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "Clock",
    "HopeCache",
    "HopeConfig",
    "HopeForCausalLM",
    "HopeForSequenceClassification",
    "HopeModel",
    "Learner",
    "Level",
    "NestedCallback",
    "NestedSystem",
    "NestedUnits",
    "Rehearsal",
    "continual",
    "convert",
    "converting",
    "evaluation",
    "inspect",
    "layers",
    "levels",
    "memory",
    "models",
    "observe",
    "observing",
    "optim",
    "reporting",
    "retrofit",
    "retrofitting",
    "streams",
    "trace",
    "training",
    "undo_retrofit",
]

register_with_transformers()  # last: it may import what is above
