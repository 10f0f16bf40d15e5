"""The report of ``results/smollm2.json`` for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recipes.smollm.evaluation import NEW, OLD, PROMPTS

STAGES = ("before", *NEW)


def report(runs: Mapping[str, Any]) -> str:
    """Tables of what every run learned and forgot, its answers, and how it goes on.

    Args:
        runs: Records by key.
    """
    done = sorted(runs.values(), key=lambda run: str(run["name"]))
    parts = [_bits(done)]
    for run in done:
        parts += [f"### {run['name']}", _answers(run), _continuations(run)]
    return "\n\n".join(parts)


def _bits(done: list[Any]) -> str:
    heads = ["run", "after", *NEW, *OLD, "KL to the base", "right answers", "minutes"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for run in done:
        for stage in STAGES:
            found = run["stages"][stage]
            bits = (f"{found['bits'][name]:.3f}" for name in (*NEW, *OLD))
            cells = [run["name"], stage, *bits, f"{found['divergence']:.3f}", f"{found['right']} of 20"]
            cells.append(f"{found['minutes']:.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "Held-out bits per byte:\n\n" + "\n".join(lines)


def _answers(run: Any) -> str:
    lines = ["| question | before | at the end |", "|---|---|---|"]
    before, after = (run["stages"][stage]["answers"] for stage in (STAGES[0], STAGES[-1]))
    for (question, first), (_, second) in zip(before, after, strict=True):
        lines.append(f"| {question} | {_short(first)} | {_short(second)} |")
    return "\n".join(lines)


def _continuations(run: Any) -> str:
    lines = ["| begins with | after | goes on |", "|---|---|---|"]
    for name, prompt in PROMPTS.items():
        for stage in STAGES:
            lines.append(f"| {prompt} | {stage} | {_short(run['stages'][stage]['continuations'][name])} |")
    return "\n".join(lines)


def _short(text: str) -> str:
    """One line that fits a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 140 else line[:137] + "..."
