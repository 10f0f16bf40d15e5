"""What each mixer can do in a context: recall, copying, running parity; with longer contexts than trained.

Every entry of ``MIXERS`` is put into the same small model and gets the same data, updates and choice of
learning rates (one run of half the updates for each rate, on validation samples with a seed of its own);
baselines whose rate of writing has to fit the chunk also choose that, see ``GRIDS``. Writes
``results/functional.json`` after every run, and ``docs/images/functional.svg``.

    python -m recipes.functional                       # everything; finished runs are kept
    python -m recipes.functional --mixers attention,gated_delta --tasks parity --seeds 1
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from nestlearn.streams.synthetic import Copying, MultiQueryRecall, Parity
from recipes._plan import Suite
from recipes._runs import Problem
from recipes._suite import command

FROZEN = {"adaptive_key": False, "adaptive_value": False, "adaptive_gates": False}
MIXERS: Mapping[str, Mapping[str, Any]] = {
    "Hope (mlp)": {"mixer": "self_modifying", "memory": "mlp"},
    "Hope (matrix)": {"mixer": "self_modifying", "memory": "matrix"},
    "Hope (frozen)": {"mixer": "self_modifying", "memory": "mlp", **FROZEN},
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

#: Baselines whose inner loss is squared. Their writes are steps from one snapshot: at the rate of a single
#: step a chunk of like keys overshoots, at one over the chunk they hardly learn. So the rate's upper end is
#: chosen, and they have four trials where others have two.
SQUARED = ("titans", "titans_mac", "titans_mag", "titans_mal", "ttt_linear", "ttt_mlp")
GRIDS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    name: tuple({"rate_max": rate} for rate in (1.0, 0.25, 0.0625)) for name in SQUARED
}

STEPS, TOKENS = 640, 384  # many small updates: half as many of twice the size learn far less

#: State is tracked token by token, and the delta rule's eigenvalue along a key may reach -1.
TRACKING: Mapping[str, Mapping[str, Any]] = {
    "": {"chunk_size": 1, "num_hidden_layers": 1},
    **{
        name: {"rate_max": 2.0}
        for name in (
            "Hope (mlp)",
            "Hope (matrix)",
            "Hope (frozen)",
            "Hope (matrix frozen)",
            "gated_delta",
            "delta",
        )
    },
    "Hope + attention": {"rate_max": 2.0, "num_hidden_layers": 2},  # one layer of each
}
TRACKING_STEPS, TRACKING_TOKENS = 200, 512

#: Without a convolution a state depends on nothing but the state before and the token.
PARITY: Mapping[str, Mapping[str, Any]] = {**TRACKING, "": {**TRACKING[""], "conv_size": 0}}


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
        # Half of the updates have the longest: with a quarter some seeds are right at 32 bits and not beyond.
        tuple(Parity(bits, densities="mixed") for bits in (8, 16, 32, 32)),
        {f"{bits} bits": Parity(bits) for bits in (32, 96, 256)},
        TRACKING_STEPS,
        TRACKING_TOKENS,
        PARITY,
        embedding_noise=0.3,
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
    grids=GRIDS,
)

if __name__ == "__main__":
    typer.run(command(SUITE))
