"""Tokens per CPU-second of training and decoding for the demo's models, all in one run.

    python -m benchmarks.speed [--result results/speed.json]

One thread. Models take turns, so that a change of the machine's speed meets all of them; medians over the
rounds, and ratios to the Transformer of the same round. The floor is the matrix products of one training
step (three times the forward pass) at the speed that this machine reaches on a 512 x 512 product in the
same run.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from nestlearn.continual.strategies import DEMO_SIZE, STRATEGIES, Comparison, Strategy
from nestlearn.models.hope import HopeCache, HopeForCausalLM
from nestlearn.optim import Nested

PROMPT, DECODED = 128, 64


def main(
    rounds: Annotated[int, typer.Option(help="Measured rounds; the median is shown.")] = 5,
    result: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    peak = statistics.median(_peak() for _ in range(5))
    contestants = {name: _Contestant(*entry) for name, entry in _contestants().items()}
    for contestant in contestants.values():  # warm-up
        contestant.train(), contestant.decode(8)
    rows: dict[str, dict[str, list[float]]] = {name: {"train": [], "decode": []} for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            rows[name]["train"].append(contestant.train())
            rows[name]["decode"].append(contestant.decode(DECODED))
    figures = {
        name: {
            "parameters": contestant.parameters,
            "train_tokens_per_cpu_second": statistics.median(rows[name]["train"]),
            "train_ratio": _ratio(rows, name, "train"),
            "floor_tokens_per_cpu_second": peak / contestant.flops_per_token(),
            "decode_tokens_per_cpu_second": statistics.median(rows[name]["decode"]),
            "decode_ratio": _ratio(rows, name, "decode"),
            "state_bytes": contestant.state_bytes,
        }
        for name, contestant in contestants.items()
    }
    _show(figures, peak)
    if result is not None:
        content = {"peak_gflops": peak / 1e9, "torch": torch.__version__, "rounds": rounds, "models": figures}
        result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _contestants() -> dict[str, tuple[Strategy, dict[str, Any]]]:
    """Name -> strategy and changes to its configuration. The Transformer comes first: ratios are to it."""
    nested, ordinary, transformer = STRATEGIES
    return {
        "Transformer, AdamW": (transformer, {}),
        "Hope, AdamW": (ordinary, {}),
        "Hope, levels and consolidation": (nested, {}),
        "Hope with MLP memories, AdamW": (ordinary, {"memory": "mlp"}),
        "gated delta rule, AdamW": (ordinary, {"mixer": "gated_delta"}),
    }


class _Contestant:
    """A demo model with its optimizer and a fixed batch."""

    def __init__(self, strategy: Strategy, changes: dict[str, Any]) -> None:
        comparison = Comparison()
        self.tokens = comparison.batch_size * comparison.context
        torch.manual_seed(0)
        config = strategy.model_config(DEMO_SIZE, DEMO_SIZE.vocab_size, self.tokens)
        for key, value in changes.items():
            setattr(config, key, value)
        self.model = HopeForCausalLM(config)
        self.optimizer = Nested(strategy.levels(self.tokens), self.model, tokens_per_step=self.tokens)
        self.ids = torch.randint(config.vocab_size, (comparison.batch_size, comparison.context))
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.state_bytes = 0
        if strategy.consolidate:  # measure with key memories in use
            self._step()
            self.optimizer.commit()

    def _step(self) -> None:
        loss = self.model(self.ids, labels=self.ids).loss
        loss.backward()
        self.optimizer.step(surprise=loss.detach())

    def train(self) -> float:
        """Tokens per CPU-second of 16 training steps, one period of the slowest level."""
        self.model.train()
        return 16 * self.tokens / _cpu_seconds(self._step, 16)

    def decode(self, count: int) -> float:
        """Tokens per CPU-second of decoding one by one after a prompt, batch 1."""
        self.model.eval()
        cache = HopeCache()
        with torch.no_grad():
            self.model(self.ids[:1, :PROMPT], past_key_values=cache)
            token = self.ids[:1, :1]
            seconds = _cpu_seconds(lambda: self.model(token, past_key_values=cache), count)
        self.state_bytes = cache.num_bytes()
        return count / seconds

    def flops_per_token(self) -> float:
        """Operations of matrix products with weights, forward and backward, per trained token."""
        # The embedding is tied and counted once, as the output layer.
        weights = sum(p.numel() for p in self.model.parameters() if p.dim() == 2)
        flops = 6.0 * weights
        config = self.model.config
        if config.mixer != "attention":
            # Products of a token with e x e blocks: four reads, four targets, five outputs, one query, five
            # writes; with memories that rest at their initial states the change's outputs and query too. In
            # the gated delta rule one, one and one.
            width = config.hidden_size // config.num_heads
            uses = 25 if config.rest == "initial" else 19
            uses = uses if config.mixer == "self_modifying" else 3
            layers = 2 if config.memory == "mlp" and config.mixer == "self_modifying" else 1
            flops += 6.0 * config.num_hidden_layers * uses * layers * config.hidden_size * width
        return float(flops)


def _cpu_seconds(work: Callable[[], object], times: int = 1) -> float:
    started = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - started


def _peak() -> float:
    """Operations per second of one float32 product."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    seconds = _cpu_seconds(lambda: a @ b, 40)
    return 40 * 2 * 512**3 / seconds


def _ratio(rows: dict[str, dict[str, list[float]]], name: str, what: str) -> float:
    """Median over the rounds of this model's speed over the first model's."""
    base = next(iter(rows.values()))[what]
    return statistics.median(own / other for own, other in zip(rows[name][what], base, strict=True))


def _show(figures: dict[str, dict[str, float]], peak: float) -> None:
    table = Table(title=f"Tokens per CPU-second, one thread, {peak / 1e9:.0f} GFLOP/s peak")
    for column in ("model", "train", "ratio", "of floor", "decode", "ratio", "KiB"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row['train_tokens_per_cpu_second']:.0f}",
            f"{row['train_ratio']:.2f}",
            f"{row['train_tokens_per_cpu_second'] / row['floor_tokens_per_cpu_second']:.2f}",
            f"{row['decode_tokens_per_cpu_second']:.0f}",
            f"{row['decode_ratio']:.2f}",
            f"{row['state_bytes'] / 1024:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
