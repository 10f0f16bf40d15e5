"""What each mixer can do in a context: recall, copying, running parity; with longer contexts than trained.

Every entry of ``MIXERS`` is put into the same small model and gets the same data, updates and choice of
learning rates (one run for each rate on validation samples with a seed of its own). Writes
``results/functional.json`` after every run, and ``docs/images/functional.svg``.

    python -m recipes.functional                       # everything; finished runs are kept
    python -m recipes.functional --mixers attention,gated_delta --tasks parity --seeds 1
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from nestlearn.streams.synthetic import Copying, MultiQueryRecall, Parity
from recipes._runs import Problem
from recipes._suite import Suite, command

MIXERS: Mapping[str, Mapping[str, Any]] = {
    "Hope (mlp)": {"mixer": "self_modifying", "memory": "mlp"},
    "Hope (matrix)": {"mixer": "self_modifying", "memory": "matrix"},
    "Hope (frozen)": {
        "mixer": "self_modifying",
        "memory": "mlp",
        "adaptive_key": False,
        "adaptive_value": False,
        "adaptive_gates": False,
    },
    "titans": {"mixer": "titans"},
    "titans_mac": {"mixer": "titans_mac"},
    "titans_mag": {"mixer": "titans_mag"},
    "titans_mal": {"mixer": "titans_mal"},
    "gated_delta": {"mixer": "gated_delta"},
    "delta": {"mixer": "delta"},
    "linear_attention": {"mixer": "linear_attention"},
    "retention": {"mixer": "retention"},
    "ttt_linear": {"mixer": "ttt_linear"},
    "ttt_mlp": {"mixer": "ttt_mlp"},
    "attention": {"mixer": "attention"},
    "attention (window)": {"mixer": "attention", "window": 32},
    "Hope + attention": {"mixer": ["self_modifying", "attention"]},
}

STEPS, TOKENS = 640, 384  # many small updates: half as many of twice the size learn far less

#: State is tracked token by token, and the delta rule's eigenvalue along a key may reach -1.
TRACKING: Mapping[str, Mapping[str, Any]] = {
    "": {"chunk_size": 1},
    **{
        name: {"rate_max": 2.0}
        for name in (
            "Hope (mlp)",
            "Hope (matrix)",
            "Hope (frozen)",
            "Hope + attention",
            "gated_delta",
            "delta",
        )
    },
}
TRACKING_STEPS, TRACKING_TOKENS = 300, 1024


def recall(pairs: int) -> MultiQueryRecall:
    """Keys that do not repeat among 64, values among 32."""
    return MultiQueryRecall(pairs=pairs, keys=64, values=32)


def copying(symbols: int) -> Copying:
    """Sixteen fillers, some before the sequence, so that it has to be found again by what it holds."""
    return Copying(symbols=symbols, vocab=64, delay=16)


PROBLEMS: Mapping[str, Problem] = {
    "recall": Problem(
        tuple(map(recall, (4, 8, 16, 32))),
        {f"{pairs} pairs": recall(pairs) for pairs in (8, 16, 32, 64)},
        STEPS,
        TOKENS,
    ),
    "parity": Problem(
        tuple(map(Parity, (4, 8, 16, 32))),
        {f"{bits} bits": Parity(bits) for bits in (32, 96, 256)},
        TRACKING_STEPS,
        TRACKING_TOKENS,
        TRACKING,
    ),
    "copying": Problem(
        tuple(map(copying, (4, 8, 16, 32))),
        {f"{symbols} symbols": copying(symbols) for symbols in (8, 16, 32, 64)},
        STEPS,
        TOKENS,
    ),
}

SUITE = Suite(
    "What each mixer can do in a context",
    MIXERS,
    PROBLEMS,
    Path("results/functional.json"),
    Path("docs/images/functional.svg"),
)

if __name__ == "__main__":
    typer.run(command(SUITE))
