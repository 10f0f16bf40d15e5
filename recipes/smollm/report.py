"""The report of ``results/smollm2.json`` for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nestlearn.bench.store import Record
from recipes.smollm.evaluation import NEW, OLD, PROMPTS
from recipes.teaching.summary import compared

STAGES = ("before", *NEW)
HEAD = """# SmolLM2 learns legal English and French

Made by `python -m recipes.smollm2`.

![Forgotten by learned, for every method and setting](images/smollm2.svg)"""


def report(summary: Mapping[str, Any], runs: Mapping[str, Record]) -> str:
    """What was learned and forgotten, then of every run its answers, and how it goes on.

    Args:
        summary: Of the results file.
        runs: Records by their name for people.
    """
    split = f"Held-out text is that of the split {summary['split']!r}."
    parts = [HEAD, split, *([compared(summary["matched"])] if summary["matched"] else []), _bits(runs)]
    for name, run in sorted(runs.items()):
        parts += [f"### {name}", _answers(run), _continuations(run)]
    return "\n\n".join(parts)


def _bits(runs: Mapping[str, Record]) -> str:
    heads = ["run", "after", *NEW, *OLD, "KL to the start", "right answers", "minutes"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, run in sorted(runs.items()):
        for stage in STAGES:
            found = run["stages"][stage]
            bits = (f"{found['bits'][domain]:.3f}" for domain in (*NEW, *OLD))
            cells = [name, stage, *bits, f"{found['divergence']:.3f}", f"{found['right']} of 20"]
            cells.append(f"{found['minutes']:.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return (
        "Held-out bits per byte, KL in nats a token of old text, and minutes of learning (one process a "
        "core, others beside it):\n\n" + "\n".join(lines)
    )


def _answers(run: Record) -> str:
    lines = ["| question | before | at the end |", "|---|---|---|"]
    before, after = (run["stages"][stage]["answers"] for stage in (STAGES[0], STAGES[-1]))
    for (question, first), (_, second) in zip(before, after, strict=True):
        lines.append(f"| {question} | {_short(first)} | {_short(second)} |")
    return "\n".join(lines)


def _continuations(run: Record) -> str:
    lines = ["| begins with | after | goes on |", "|---|---|---|"]
    for name, prompt in PROMPTS.items():
        for stage in STAGES:
            lines.append(f"| {prompt} | {stage} | {_short(run['stages'][stage]['continuations'][name])} |")
    return "\n".join(lines)


def _short(text: str) -> str:
    """One line that fits a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 140 else line[:137] + "..."
