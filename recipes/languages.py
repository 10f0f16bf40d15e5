"""The demo's comparison with three seeds: what the README quotes.

    python -m recipes.languages                # about 25 minutes on two cores; finished seeds are kept

Writes ``results/languages.json`` (every seed's results and their aggregate) and the README's picture.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nestlearn.continual.comparison import compare
from nestlearn.continual.strategies import Comparison
from nestlearn.reporting import aggregate, print_summary, write_readme_figure, write_report

OUT = Path("out/languages")
RESULT = Path("results/languages.json")
FIGURE = Path("docs/images/languages.svg")


def main(
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.")] = 3,
    result: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULT,
) -> None:
    """Run the comparison once per seed and aggregate."""
    console = Console()
    results: list[dict[str, Any]] = []
    for seed in range(seeds):
        folder = OUT / f"seed{seed}"
        console.print(f"seed {seed}", highlight=False)
        results.append(compare(replace(Comparison(), seed=seed), folder))
        write_report(results[-1], folder / "report.html")
        print_summary(results[-1], console)
    result.parent.mkdir(exist_ok=True)
    content = {"aggregate": aggregate(results), "seeds": [_without_steps(r) for r in results]}
    result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    write_readme_figure(results, FIGURE)


def _without_steps(results: dict[str, Any]) -> dict[str, Any]:
    """The results without what only the report draws: each update of each level, and the samples."""
    runs = {
        name: {key: value for key, value in run.items() if key not in {"updates", "samples"}}
        for name, run in results["runs"].items()
    }
    return {**results, "runs": runs}


if __name__ == "__main__":
    typer.run(main)
