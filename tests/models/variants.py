"""The configurations that the properties are held against: every mixer, option and level system."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from nestlearn.models.hope import HopeConfig
from nestlearn.models.hope.mixers import BASELINES, COMBINATIONS
from tests.pairwise import Row, covering

Changes = dict[str, Any]

#: The options of ``mixer="self_modifying"`` that are combined, every pair of values.
OPTIONS: dict[str, list[Any]] = {
    "memory": ["mlp", "matrix"],
    "memory_expansion": [1, 2],
    "activation": ["silu", "gelu", "relu"],
    "features": ["bounded", "plain"],
    "inner_norm": [False, True],
    "main_residual": [False, True],
    "objective": ["dot", "l2"],
    "erase": [True, False],
    "erase_layers": ["all", "input"],
    "chunk_size": [4, 1, 16],
    "projection_chunk_size": [None, 2, 8],
    "causal_reads": [True, False],
    "unit_targets": [True, False],
    "main_target": ["value", "generated"],
    "adaptive_key": [True, False],
    "adaptive_value": [True, False],
    "adaptive_gates": [True, False],
    "adaptive_query": [False, True],
    "momentum": [False, True],
    "rate": ["bound", "gated", "one"],
    "retention": ["gated", "fixed", "none"],
    "gates": ["head", "channel"],
    "rest": ["initial", "zero"],
    "checkpoint_chunks": [0, 2],
    "conv_size": [4, 0, 1],
}
#: Rules without bounds stay small for the length of a test.
BOUND: Changes = {"rate_max": 0.03}


@functools.cache
def _accepted(row: tuple[tuple[str, Any], ...]) -> bool:
    try:
        HopeConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_heads=2, **dict(row))
    except ValueError:
        return False
    return True


def completes(partial: Row) -> bool:
    """Whether some configuration has these settings."""
    return any(_accepted(tuple({**base, **partial}.items())) for base in ({}, {"memory": "matrix"}))


def _changed(row: Row) -> Changes:
    changes = {name: value for name, value in row.items() if value != OPTIONS[name][0]}
    unbounded = row["objective"] == "l2" or row["momentum"] or row["features"] == "plain" or not row["erase"]
    unbounded = unbounded or row["rate"] == "one"
    return {**changes, **(BOUND if unbounded else {})}


ROWS = covering(OPTIONS, completes)
SELF_MODIFYING: list[Changes] = [_changed(row) for row in ROWS]
STATIC: list[Changes] = [{"mixer": mixer} for mixer in BASELINES] + [
    {"mixer": "gated_delta", "chunk_size": 16, "causal_reads": False},
    {"mixer": "delta", "chunk_size": 1},
    {"mixer": "ttt_linear", "chunk_size": 16, "conv_size": 0},
    {"mixer": "titans", "chunk_size": 1, "memory_expansion": 2},
]
COMBINED: list[Changes] = [
    {"mixer": "titans_mac", "persistent_tokens": 2},
    {"mixer": "titans_mag", "window": 5},
    {"mixer": "titans_mal", "window": 5, "persistent_tokens": 2},
]
ATTENTION: list[Changes] = [
    {"mixer": "attention"},
    {"mixer": "attention", "conv_size": 0, "window": 5},
    {"mixer": "attention", "persistent_tokens": 3},
]
HYBRIDS: list[Changes] = [
    {"mixer": ("self_modifying", "attention"), "num_hidden_layers": 2, "window": 6},
    {"mixer": ("retention", "titans", "ttt_mlp"), "num_hidden_layers": 3},
]
CMS: list[Changes] = [
    {"cms_variant": "sequential", "cms_periods": (16,)},
    {"cms_variant": "sequential", "cms_periods": (16, 64, 256), "mixer": "attention"},
    {"cms_variant": "nested", "cms_periods": (16, 64)},
    {"cms_variant": "independent", "cms_periods": (16,), "mixer": "attention"},
    {"cms_variant": "independent", "cms_periods": (16, 64, 256)},
]
OTHERS: list[Changes] = [{"num_hidden_layers": 2, "tie_word_embeddings": False}, {"num_hidden_layers": 3}]

BASELINE = STATIC + COMBINED + ATTENTION
#: Everything, and about half of it.
ALL: list[Changes] = [{}, {"memory": "matrix"}, *SELF_MODIFYING, *BASELINE, *HYBRIDS, *CMS, *OTHERS]
SOME: list[Changes] = [*SELF_MODIFYING[::3], *BASELINE, *HYBRIDS, *CMS]
FEW: list[Changes] = [
    {"memory": "matrix"},
    {"memory": "mlp"},
    {"adaptive_query": True, "causal_reads": False, "projection_chunk_size": 8, "momentum": True, **BOUND},
    {"mixer": "gated_delta"},
    {"mixer": "ttt_mlp"},
    {"mixer": "attention"},
    {"mixer": ("self_modifying", "attention"), "cms_variant": "independent", "num_hidden_layers": 2},
]
#: Every mixer, every mixture of them, and every kind of Continuum Memory System, once.
EVERY: list[Changes] = [{"memory": "matrix"}, {"memory": "mlp"}, *BASELINE, *HYBRIDS, *CMS]
assert {c["mixer"] for c in BASELINE} == {*BASELINES, *COMBINATIONS, "attention"}


def name(changes: Changes) -> str:
    """A short name of a configuration, for test ids."""
    return ",".join(f"{key}={value}" for key, value in changes.items()) or "default"


def over(variants: list[Changes]) -> pytest.MarkDecorator:
    """Parametrise a test by ``changes``."""
    return pytest.mark.parametrize("changes", variants, ids=name)
