"""Learning rates and strengths of the demo's three runs, from the same number of trials each.

On **validation** paragraphs of the first two languages only. First the learning rate of the first language
(four trials for Hope, four for the Transformer), then six trials per run for what comes after: six
learning rates for ordinary fine-tuning, six settings of learning rate and strengths for the levels. The
criterion is bits per byte at the end of the second language, the first counting double: the demo is about
keeping.

    python -m recipes.tune_languages            # about 20 minutes on two cores; finished trials are kept
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

from nestlearn.continual.run import prepare
from nestlearn.continual.strategies import STRATEGIES, Comparison, Strategy
from nestlearn.training import load_tree, save_tree

OUT = Path("out/tune_languages")
RESULT = Path("results/tune_languages.json")
FIRST_LR = (1e-3, 2e-3, 4e-3, 8e-3)
ORDINARY_SCALES = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0)
NESTED_TRIALS = (  # scale, strength over inputs, strength over output gradients
    (1.0, 0.3, 1.0),
    (1.0, 1.0, 0.1),
    (2.0, 1.0, 0.1),
    (2.0, 3.0, 0.1),
    (2.0, 1.0, 0.3),
    (3.0, 1.0, 0.1),
)
SEED = 100  # not one of the seeds that are reported

COMPARISON = Comparison(languages=("en", "fr", "de"), seed=SEED, split="validation", sample_tokens=0)


def first_language(strategy: Strategy) -> dict[str, Any]:
    """Train on the first language only; keeps the state for :func:`second_language`."""
    folder = OUT / f"{strategy.name}-lr{strategy.lr:g}"
    done = folder / "first.json"
    if not done.exists():
        torch.set_num_threads(1)
        trainer = prepare(COMPARISON, strategy).trainer
        trainer.run(until=COMPARISON.stages(strategy)[0].steps)
        save_tree(folder / "first.safetensors", trainer.state_dict())
        record = {"run": strategy.name, "lr": strategy.lr, "first": trainer.matrix[0][0]}
        done.write_text(json.dumps(record), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def second_language(strategy: Strategy) -> dict[str, Any]:
    """Go on with the second language from the state after the first."""
    folder = OUT / f"{strategy.name}-lr{strategy.lr:g}"
    done = folder / _file(strategy)
    if not done.exists():
        torch.set_num_threads(1)
        trainer = prepare(COMPARISON, strategy).trainer
        state = load_tree(folder / "first.safetensors")
        # The trial differs from the run that made the state in what comes after it, and in that alone.
        state["identity"] = json.dumps(trainer.identity, sort_keys=True)
        trainer.load_state_dict(state)
        trainer.run(until=sum(stage.steps for stage in COMPARISON.stages(strategy)[:2]))
        old, new = trainer.matrix[1][:2]
        record = {
            "run": strategy.name,
            "lr": strategy.lr,
            "later_lr_scale": strategy.later_lr_scale,
            "strength": strategy.strength if strategy.consolidate else None,
            "output_strength": strategy.output_strength if strategy.consolidate else None,
            "old_before": trainer.matrix[0][0],
            "old": old,
            "new": new,
            "criterion": (2 * old + new) / 3,
        }
        done.write_text(json.dumps(record), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _file(strategy: Strategy) -> str:
    """Name of a trial's record."""
    strengths = f"-{strategy.strength:g}-{strategy.output_strength:g}" if strategy.consolidate else ""
    return f"scale{strategy.later_lr_scale:g}{strengths}.json"


def main() -> None:
    """Run all trials, two at a time, and write the table."""
    console = Console()
    nested, ordinary, transformer = STRATEGIES
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        trials = [replace(run, lr=lr) for run in (ordinary, transformer) for lr in FIRST_LR]
        first = list(pool.map(first_language, trials))
        best = {
            run.name: min((r for r in first if r["run"] == run.name), key=lambda r: r["first"])["lr"]
            for run in (ordinary, transformer)
        }
        nested = replace(nested, lr=best[ordinary.name])  # the same model: it takes Hope's learning rate
        first.append(pool.submit(first_language, nested).result())
        second_trials = [
            replace(nested, later_lr_scale=scale, strength=strength, output_strength=output)
            for scale, strength, output in NESTED_TRIALS
        ] + [
            replace(run, lr=best[run.name], later_lr_scale=scale)
            for scale in ORDINARY_SCALES
            for run in (ordinary, transformer)
        ]
        second = list(pool.map(second_language, second_trials))
    chosen = {
        run.name: min((r for r in second if r["run"] == run.name), key=lambda r: r["criterion"])
        for run in STRATEGIES
    }
    RESULT.parent.mkdir(exist_ok=True)
    content = {"seed": SEED, "split": "validation", "first": first, "second": second, "chosen": chosen}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name, record in chosen.items():
        console.print(name, record, highlight=False)


if __name__ == "__main__":
    main()
