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


def trace_cost(content: Mapping[str, Any]) -> str:
    """The sentence of ``results/trace.json``."""
    more = {kind: f"{100 * (ratio - 1):.1f} %" for kind, ratio in content["ratios"].items()}
    return (
        "CPU time of training the demo's Hope with levels, over the same without (median of "
        f"{content['rounds']} rounds of {content['steps']} steps, in turns): {more['trace']} more with "
        f"`nl.trace`, "
        f"{more['diagnostics']} more with diagnostics."
    )


def tuned_levels(content: Mapping[str, Any]) -> str:
    """The tables of ``results/tune_levels.json``."""
    evidence = content["recipe"]["evidence"]
    states = [trial["state"] for trial in evidence["trials"]]
    best, plan = evidence["best"], evidence["plan"]
    languages, validation = content["languages"], plan["languages"]
    lines = [
        f"{states.count('complete')} trials to the end and {states.count('pruned')} given up, "
        f"{evidence['tokens'] / 1e6:.1f} of {plan['budget'] / 1e6:.0f} million tokens. Validation, "
        f"{' and '.join(validation)}: defaults {evidence['defaults']['value']:.3f}, the best trial "
        f"{best['value']:.3f} bits per byte.",
        "",
        "| settings | periods in steps | rate | later | strengths |",
        "|---|---|---|---|---|",
    ]
    by_name = {run["settings_of"]: run["settings"] for run in content["runs"]}
    for name, own in by_name.items():
        strengths = f"{own['strength']:.2g}, {own['output_strength']:.2g}" if own["consolidate"] else "none"
        periods = "/".join(map(str, own["level_steps"]))
        lines.append(f"| {name} | {periods} | {own['lr']:.2g} | x{own['later_lr_scale']:.2g} | {strengths} |")
    lines += [
        "",
        f"Test text at the end of {', '.join(languages)} ({content['steps']} steps), with new seeds:",
        "",
        f"| settings | {' | '.join(languages)} | mean | of each seed |",
        f"|---|{'---|' * (len(languages) + 2)}",
    ]
    for name in by_name:
        runs = [run for run in content["runs"] if run["settings_of"] == name]
        columns = [sum(run["matrix"][-1][i] for run in runs) / len(runs) for i in range(len(languages))]
        mean = sum(run["mean"] for run in runs) / len(runs)
        each = ", ".join(f"{run['mean']:.3f}" for run in runs)
        lines.append(f"| {name} | {' | '.join(f'{c:.3f}' for c in columns)} | **{mean:.3f}** | {each} |")
    return "\n".join(lines)


def evaluation(content: Mapping[str, Any]) -> str:
    """The table of ``results/evaluate.json``."""
    lines = [
        f"{content['model']}:",
        "",
        "| task | documents | requests | lm-eval's model | largest difference | result | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, row in content["tasks"].items():
        for name in ("nestlearn", "hf", "nestlearn-stream"):
            own = row[name]
            apart = f"{own['largest_difference']:.0e}" if "largest_difference" in own else "-"
            result = f"{own['acc']:.2f} right" if "acc" in own else f"{own['bits_per_byte']:.3f} bits a byte"
            lines.append(
                f"| `{task}` | {row['documents']} | {row['requests']} | `{name}` | {apart} | {result} "
                f"| {own['cpu_seconds']:.0f} |"
            )
    return "\n".join(lines)


def _summary(render: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda content: render(content["summary"])


#: Page, name of the marker, results, and what makes the text of them.
FIGURES: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("docs/optimizers.md", "python -m benchmarks.optimizers", "optimizer_cost", optimizer_cost),
    ("docs/optimizers.md", "python -m recipes.optimizers", "optimizers", _summary(optimizer_tables)),
    ("docs/evaluating.md", "python -m recipes.evaluate", "evaluate", evaluation),
    ("docs/inspecting.md", "python -m benchmarks.trace", "trace", trace_cost),
    ("docs/learner.md", "python -m benchmarks.learner", "learner_cost", learner_cost),
    ("docs/learner.md", "python -m recipes.teach", "teach", _summary(teaching_tables)),
    ("docs/tuning.md", "python -m recipes.tune_levels", "tune_levels", tuned_levels),
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
