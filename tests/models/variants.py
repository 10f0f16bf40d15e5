"""The configurations that the properties are held against: every mixer and every Continuum Memory System."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

Changes = dict[str, Any]

SELF_MODIFYING: list[Changes] = [
    {
        "memory": memory,
        "objective": objective,
        "chunk_size": chunk,
        "causal_reads": causal,
        "adaptive_query": query,
    }
    for memory, objective, chunk, causal, query in itertools.product(
        ("matrix", "mlp"), ("dot", "l2"), (1, 4, 16), (True, False), (False, True)
    )
]
ABLATIONS: list[Changes] = [
    {"memory": memory, **more}
    for memory in ("matrix", "mlp")
    for more in (
        {"erase": False},
        {"main_target": "generated"},
        {"unit_targets": False},
        {"conv_size": 0},
        {"conv_size": 1},
    )
] + [{"memory": "mlp", "memory_expansion": 2}]
GATED_DELTA: list[Changes] = [
    {"mixer": "gated_delta", "chunk_size": chunk, "causal_reads": causal}
    for chunk, causal in itertools.product((1, 4, 16), (True, False))
]
ATTENTION: list[Changes] = [{"mixer": "attention"}, {"mixer": "attention", "conv_size": 0}]
CMS: list[Changes] = [
    {"mixer": mixer, "cms_variant": variant, "cms_periods": periods}
    for mixer in ("self_modifying", "attention")
    for variant, periods in (
        ("sequential", (16,)),
        ("sequential", (16, 64, 256)),
        ("nested", (16, 64)),
        ("independent", (16,)),
        ("independent", (16, 64, 256)),
    )
]
OTHERS: list[Changes] = [{"num_hidden_layers": 2, "tie_word_embeddings": False}, {"num_hidden_layers": 3}]

#: Half of the self-modifying mixers, every pair of settings among them.
COVERING: list[Changes] = [
    changes
    for changes in SELF_MODIFYING
    if ((changes["memory"] == "mlp") + (changes["objective"] == "l2") + changes["causal_reads"]) % 2
    == changes["adaptive_query"]
]
SOME = COVERING + ABLATIONS + GATED_DELTA + ATTENTION + CMS + OTHERS
ALL = SELF_MODIFYING + ABLATIONS + GATED_DELTA + ATTENTION + CMS + OTHERS
FEW: list[Changes] = [
    {"memory": "matrix"},
    {"memory": "mlp"},
    {"memory": "mlp", "objective": "dot", "adaptive_query": True, "causal_reads": False},
    {"mixer": "gated_delta"},
    {"mixer": "attention"},
    {"cms_variant": "independent", "num_hidden_layers": 2},
]


def name(changes: Changes) -> str:
    """A short name of a configuration, for test ids."""
    return ",".join(f"{key}={value}" for key, value in changes.items()) or "default"


def over(variants: list[Changes]) -> pytest.MarkDecorator:
    """Parametrise a test by ``changes``."""
    return pytest.mark.parametrize("changes", variants, ids=name)
