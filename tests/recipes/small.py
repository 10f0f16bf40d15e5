"""Runs of two updates."""

from __future__ import annotations

from dataclasses import replace

from recipes._runs import Problem, Run

from nestlearn.streams.synthetic import Parity

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2, "cms_periods": (1,)}
PARITY = Problem((Parity(2), Parity(4)), {"4": Parity(4), "9": Parity(9)}, steps=2, tokens=16)


def run(**changes) -> Run:
    made = Run("attention", {"mixer": "attention"}, "parity", PARITY, 1e-3, 0, "test", 64, SMALL)
    return replace(made, **changes)
