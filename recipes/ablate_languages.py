"""Which part of the levels does what: the second language with one part taken away at a time.

On validation paragraphs, with the seed of ``recipes.tune_languages``; all variants with the same levels start
from the same trained first language. Writes ``results/ablate_languages.json``.

    python -m recipes.ablate_languages         # about 8 minutes on two cores
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from nestlearn.continual.run import prepare
from nestlearn.continual.strategies import STRATEGIES, Strategy
from nestlearn.training import load_tree, save_tree
from recipes.tune_languages import COMPARISON

OUT = Path("out/ablate_languages")
RESULT = Path("results/ablate_languages.json")


def variants() -> dict[str, Strategy]:
    """The demo's levels, and the same with one part taken away."""
    nested = next(strategy for strategy in STRATEGIES if strategy.name == "nested")
    return {
        "levels and consolidation": nested,
        "levels, no consolidation": replace(nested, consolidate=False),
        "one level, consolidation": replace(nested, level_steps=(1,)),
        "one level, no consolidation": replace(nested, level_steps=(1,), consolidate=False),
        # mu so large that (I + D / mu)^-1 is the identity
        "inputs only (one-sided)": replace(nested, output_strength=1e9),
        # lambda so large that (I + C / lambda)^-1 is the identity
        "output gradients only": replace(nested, strength=1e9),
    }


def first_language(strategy: Strategy) -> str:
    """Train the first language for a way of dividing levels; the file that holds the state."""
    path = OUT / f"first-{'-'.join(map(str, strategy.level_steps))}-lr{strategy.lr:g}.safetensors"
    if not path.exists():
        torch.set_num_threads(1)
        # Key memories only watch while there is one language, so one state serves with and without them.
        trainer = prepare(COMPARISON, replace(strategy, consolidate=True)).trainer
        trainer.run(until=COMPARISON.stages(strategy)[0].steps)
        save_tree(path, trainer.state_dict())
    return str(path)


def second_language(name: str, strategy: Strategy, first: str) -> dict[str, Any]:
    """Go on with the second language; before and after of both."""
    torch.set_num_threads(1)
    trainer = prepare(COMPARISON, strategy).trainer
    state = load_tree(Path(first))
    if not strategy.consolidate:
        state["optimizer"]["memories"] = {}
    # The variant differs from the run that made the state in what comes after it, and in that alone.
    state["identity"] = json.dumps(trainer.identity, sort_keys=True)
    trainer.load_state_dict(state)
    trainer.run(until=sum(stage.steps for stage in COMPARISON.stages(strategy)[:2]))
    return {
        "variant": name,
        "old_before": trainer.matrix[0][0],
        "old": trainer.matrix[1][0],
        "new": trainer.matrix[1][1],
        "surprises": trainer.optimizer.surprises,
        "switch": COMPARISON.stages(strategy)[0].steps * COMPARISON.stream(strategy).tokens_per_step,
    }


def main() -> None:
    """Run all variants, two at a time, and write the table."""
    every = variants()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        divisions = {strategy.level_steps: strategy for strategy in every.values()}
        states = dict(zip(divisions, pool.map(first_language, divisions.values()), strict=True))
        jobs = [
            pool.submit(second_language, name, strategy, states[strategy.level_steps])
            for name, strategy in every.items()
        ]
        rows = [job.result() for job in jobs]
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = Table(title="Bits per byte on validation paragraphs after the second language")
    for column in ("variant", "English before", "English", "rise", "French"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in rows:
        figures = (row["old_before"], row["old"], row["old"] - row["old_before"], row["new"])
        table.add_row(row["variant"], *(f"{figure:.3f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
