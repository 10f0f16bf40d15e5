"""What watching costs: CPU time of training with a trace, with diagnostics, and without, side by side.

Hope with levels of the demo's size learns random tokens. The three take turns, step by step, so that whatever
else the machine does falls on all of them; the figures are medians of the ratios of several rounds.

    python -m benchmarks.trace --result results/trace.json      # three minutes
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

import nestlearn as nl
from nestlearn.continual.strategies import DEMO_SIZE, STRATEGIES
from nestlearn.observing import Diagnostics

TOKENS = 8 * 128
#: Steps of one round: as many as the slowest level's period.
STEPS = 16
KINDS = ("bare", "trace", "diagnostics")


class Run:
    """A model in training, watched or not.

    Args:
        kind: One of :data:`KINDS`.
    """

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        strategy = STRATEGIES[0]
        self.model = nl.HopeForCausalLM(strategy.model_config(DEMO_SIZE, DEMO_SIZE.vocab_size, TOKENS))
        self.optimizer = nl.optim.Nested(strategy.levels(TOKENS), self.model, tokens_per_step=TOKENS)
        watchers: dict[str, Callable[[], AbstractContextManager[Any]]] = {
            "bare": nullcontext,
            "trace": lambda: nl.trace(self.model, self.optimizer),
            "diagnostics": lambda: Diagnostics(self.model, self.optimizer),
        }
        self.watcher = watchers[kind]()

    def step(self, ids: torch.Tensor) -> float:
        """One step; CPU seconds."""
        started = time.process_time()
        with self.watcher as watched:
            loss = self.model(ids, labels=ids).loss
            loss.backward()
            self.optimizer.step(surprise=loss)
            self.optimizer.zero_grad()
            if isinstance(watched, Diagnostics):
                watched.record(self.optimizer.clock.tokens, loss.item())
        return time.process_time() - started


def measure(rounds: int) -> dict[str, Any]:
    """Medians of the ratios to training without watching."""
    runs = {kind: Run(kind) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds + 1):
        spent = dict.fromkeys(KINDS, 0.0)
        for _ in range(STEPS):
            ids = torch.randint(DEMO_SIZE.vocab_size, (8, 128))
            for kind, run in runs.items():
                spent[kind] += run.step(ids)
        for kind in KINDS:
            seconds[kind].append(spent[kind])
    seconds = {kind: values[1:] for kind, values in seconds.items()}  # the first round warms up
    ratios = {
        kind: statistics.median(a / b for a, b in zip(seconds[kind], seconds["bare"], strict=True))
        for kind in KINDS[1:]
    }
    return {"rounds": rounds, "steps": STEPS, "tokens_per_step": TOKENS, "seconds": seconds, "ratios": ratios}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of 16 steps each")
    parser.add_argument("--result", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(arguments.rounds)
    for kind, ratio in figures["ratios"].items():
        print(f"{kind}: {100 * (ratio - 1):+.1f} % CPU time")
    if arguments.result is not None:
        arguments.result.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
