"""Where it pays that a memory's projections write themselves: contexts in which the rule changes.

Hope as it is and with frozen projections, both with memories of two layers and of one, and three mixers that
never had projections that change: on recall over sixteen times the trained context, on a cipher that changes
unannounced, on keys that are overwritten, and on permutations that are multiplied. Writes
``results/self_modification.json`` after every run, and ``docs/images/self_modification.svg``.

    python -m recipes.self_modification                # finished runs are kept
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from nestlearn.streams.synthetic import (
    MultiQueryRecall,
    OverwritingRecall,
    PermutationTracking,
    SwitchingCipher,
)
from recipes._plan import Suite
from recipes._runs import Problem
from recipes._suite import command
from recipes.functional import FROZEN, GRIDS, TOKENS, TRACKING, TRACKING_TOKENS
from recipes.functional import MIXERS as ALL_MIXERS

MIXERS: Mapping[str, Mapping[str, Any]] = {
    "Hope (mlp)": ALL_MIXERS["Hope (mlp)"],
    "Hope (frozen)": ALL_MIXERS["Hope (frozen)"],
    "Hope (matrix)": ALL_MIXERS["Hope (matrix)"],
    "Hope (matrix frozen)": {**ALL_MIXERS["Hope (matrix)"], **FROZEN},
    **{name: ALL_MIXERS[name] for name in ("titans", "gated_delta", "attention")},
}

#: Long enough that who has learned a task is a matter of the mixer more than of the seed: with 640 and 300
#: updates most entries have a seed that has not begun.
STEPS, PERMUTATION_STEPS = 1600, 750


def gap(fillers: int) -> MultiQueryRecall:
    """Eight pairs, and their keys somewhere among fillers: 64 tokens with 40 of them, 1024 with 1000."""
    return MultiQueryRecall(pairs=8, keys=32, values=32, gap=fillers)


def overwriting(writes: int) -> OverwritingRecall:
    """Eight keys that are each written ``writes`` times: 72 tokens with 4, 1032 with 64."""
    return OverwritingRecall(pairs=8, writes=writes, keys=32, values=32)


def cipher(pairs: int) -> SwitchingCipher:
    """Eight symbols with one of eight labels."""
    return SwitchingCipher(pairs=pairs, symbols=8, labels=8)


def permutations(length: int) -> PermutationTracking:
    """Permutations of three things."""
    return PermutationTracking(degree=3, length=length)


PROBLEMS: Mapping[str, Problem] = {
    "long recall": Problem(
        tuple(map(gap, (0, 16, 40))),
        {f"{gap(fillers).length}": gap(fillers) for fillers in (40, 232, 1000)},
        STEPS,
        TOKENS,
    ),
    "overwriting": Problem(
        tuple(map(overwriting, (1, 2, 4))),
        {f"{writes} writes": overwriting(writes) for writes in (4, 16, 64)},
        STEPS,
        TOKENS,
    ),
    "cipher": Problem(
        tuple(map(cipher, (16, 32, 64))),
        {f"{pairs} pairs": cipher(pairs) for pairs in (64, 256)},
        STEPS,
        TOKENS,
    ),
    "permutations": Problem(
        tuple(map(permutations, (2, 4, 8, 16))),
        {f"{length}": permutations(length) for length in (8, 16, 32, 64)},
        PERMUTATION_STEPS,
        TRACKING_TOKENS,
        TRACKING,
    ),
}

SUITE = Suite(
    "Where self-modification pays",
    MIXERS,
    PROBLEMS,
    Path("results/self_modification.json"),
    Path("docs/images/self_modification.svg"),
    grids={name: grid for name, grid in GRIDS.items() if name in MIXERS},
    tuning_share=0.2,
)

if __name__ == "__main__":
    typer.run(command(SUITE))
