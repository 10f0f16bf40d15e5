"""Do searched levels beat the defaults? The search, then both on the whole stream with new seeds.

``nestlearn tune`` searches on validation text of English and French within eight million tokens. The defaults
and what was found then learn English, French and German with three seeds that the search had not, judged on
**test** text. Finished runs are kept, so that the recipe can be interrupted and goes on.

    python -m recipes.tune_levels           # about half an hour on two cores
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nestlearn.continual.run import prepare
from nestlearn.reporting.files import write_atomically
from nestlearn.reporting.tuning import write_tuning_plot
from nestlearn.tuning import Candidate, Search, TuningPlan, default_periods, recipe_of
from nestlearn.tuning.recipe import candidate_of

OUT = Path("out/tune_levels")
RESULT = Path("results/tune_levels.json")
PICTURE = Path("docs/images/tuning.svg")
PLAN = TuningPlan()
LANGUAGES = ("en", "fr", "de")
#: Steps of the whole stream: half for English, a quarter for each of the others.
STEPS = 480
SEEDS = (0, 1, 2)


def learned(candidate: Candidate, seed: int) -> dict[str, Any]:
    """One run along the whole stream, judged on test text."""
    torch.set_num_threads(1)
    comparison = replace(
        PLAN.comparison, languages=LANGUAGES, steps=STEPS, seed=seed, split="test", evaluation_windows=40
    )
    trainer = prepare(comparison, candidate).trainer
    trainer.run()
    final = trainer.matrix[-1]
    return {"seed": seed, "matrix": trainer.matrix, "mean": sum(final) / len(final), "tokens": trainer.tokens}


def wanted(found: Candidate) -> Iterator[tuple[str, Candidate, int]]:
    """Every run: whose settings, which, and with what seed."""
    shortest = STEPS // 2 // (len(LANGUAGES) - 1)
    defaults = Candidate(level_steps=default_periods(shortest))
    for name, candidate in (("defaults", defaults), ("found", found)):
        for seed in SEEDS:
            yield name, candidate, seed


def main() -> None:
    """Search, confirm, write results and the picture."""
    console = Console()
    trials = Search(OUT, PLAN).run()
    recipe = recipe_of(PLAN, trials)
    found = candidate_of(recipe["evidence"]["best"]["settings"])
    kept = json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []
    done = {(run["settings_of"], json.dumps(run["settings"]), run["seed"]): run for run in kept}
    runs = list(wanted(found))
    keys = [(name, json.dumps(candidate.settings()), seed) for name, candidate, seed in runs]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        pending = {
            pool.submit(learned, candidate, seed): key
            for key, (_, candidate, seed) in zip(keys, runs, strict=True)
            if key not in done
        }
        for future in as_completed(pending):
            key = pending[future]
            done[key] = {"settings_of": key[0], "settings": json.loads(key[1]), **future.result()}
            _write(recipe, [done[key] for key in keys if key in done])
    _write(recipe, [done[key] for key in keys])
    write_tuning_plot(recipe, PICTURE)
    for name in ("defaults", "found"):
        means = [done[key]["mean"] for key in keys if key[0] == name]
        console.print(f"{name}: {statistics.mean(means):.3f} test bits per byte, {means}", highlight=False)


def _write(recipe: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    content = {"languages": LANGUAGES, "steps": STEPS, "split": "test", "runs": runs, "recipe": recipe}
    write_atomically(RESULT, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
