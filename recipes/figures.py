"""Puts the figures of ``results/`` into the pages of ``docs/``, between their markers.

    python -m recipes.figures

A test holds the pages against the results, so that no figure can grow old. The README has its own
(:mod:`recipes.readme`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recipes.optimizing.summary import markdown as optimizer_tables
from recipes.teaching.summary import markdown as teaching_tables

ROOT = Path(__file__).parents[1]


def optimizer_cost(content: Mapping[str, Any]) -> str:
    """The table of ``results/optimizer_cost.json``."""
    lines = [
        "| optimizer | ms | over `torch.optim.SGD` | over `torch.optim.Muon` | bytes a parameter |",
        "|---|---|---|---|---|",
    ]
    for name, row in content["optimizers"].items():
        over = (f"{row['over'][reference]:.2f}" for reference in ("torch SGD", "torch Muon"))
        lines.append(
            f"| {name} | {row['milliseconds']:.0f} | {' | '.join(over)} | {row['bytes_per_parameter']:.0f} |"
        )
    return "\n".join(lines)


def learner_cost(content: Mapping[str, Any]) -> str:
    """The table of ``results/learner_cost.json``."""
    lines = [
        f"{content['layers']} layers of SmolLM2-135M's shape, {content['model']}, steps of "
        f"{content['batch']} x {content['context']} tokens, float32, one thread:",
        "",
        "| | CPU seconds a step | over AdamW on the same parameters | MB besides the base |",
        "|---|---|---|---|",
    ]
    for name, row in content["methods"].items():
        lines.append(
            f"| {name} | {row['seconds_a_step']:.2f} | {row['ratio']:.2f} "
            f"| {row['bytes_beside_the_base'] / 1e6:.0f} |"
        )
    file = content["file"]
    lines += [
        "",
        f"The memory file has {file['over_changed']:.3f} times the bytes of the parameters that changed "
        f"({file['bytes'] / 1e6:.0f} MB) and is loaded in {file['load']:.1f} s, with the check of the base.",
    ]
    return "\n".join(lines)


def _summary(render: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda content: render(content["summary"])


#: Page, name of the marker, results, and what makes the text of them.
FIGURES: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("docs/optimizers.md", "python -m benchmarks.optimizers", "optimizer_cost", optimizer_cost),
    ("docs/optimizers.md", "python -m recipes.optimizers", "optimizers", _summary(optimizer_tables)),
    ("docs/learner.md", "python -m benchmarks.learner", "learner_cost", learner_cost),
    ("docs/learner.md", "python -m recipes.teach", "teach", _summary(teaching_tables)),
)


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Every page with the figures that the results have now.

    Raises:
        ValueError: If a page has no such marker.
    """
    made: dict[Path, str] = {}
    for name, command, result, render in FIGURES:
        page = root / name
        text = made.get(page) or page.read_text(encoding="utf-8")
        start, end = f"<!-- figures: {command} -->", f"<!-- end of figures: {command} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"{page} must have {start} and {end} once each")
        before, rest = text.split(start)
        _, after = rest.split(end)
        content = json.loads((root / "results" / f"{result}.json").read_text(encoding="utf-8"))
        made[page] = f"{before}{start}\n{render(content)}\n{end}{after}"
    return made


def main() -> None:
    """Write the pages."""
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
