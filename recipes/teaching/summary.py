"""What was learned, what was forgotten for it, and who forgets least at the same learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from nestlearn.bench.store import Record
from recipes.teaching.material import NEW, OLD
from recipes.teaching.plan import Plan, cells

Point = tuple[float, float]
REFERENCE, OURS = "finetune", "levels"
#: Shares of what both of them have learned at most.
SHARES = (0.5, 0.75, 1.0)


def points(record: Record, stage: int = len(NEW)) -> list[Point]:
    """Learned and forgotten from the end of the stage before on, in bits per byte.

    Learned is the mean fall over the domains taught so far, forgotten the mean rise over the old ones.
    """
    start = record["curve"][0]["bits"]
    inside = [point["bits"] for point in record["curve"] if point["stage"] == stage]
    before = [point["bits"] for point in record["curve"] if point["stage"] == stage - 1][-1:]
    return [
        (
            mean(start[name] - bits[name] for name in NEW[:stage]),
            mean(bits[name] - start[name] for name in OLD),
        )
        for bits in [*before, *inside]
    ]


def forgotten_at(curves: Sequence[Sequence[Point]], level: float) -> float | None:
    """The least that was forgotten when so much was learned, over several runs; None if none learned it."""
    found = []
    for curve in curves:
        if curve[0][0] >= level:
            found.append(curve[0][1])
            continue
        for (x, y), (further, later) in pairwise(curve):
            if x < level <= further:
                found.append(y + (later - y) * (level - x) / (further - x))
                break
    return min(found) if found else None


def summarize(plan: Plan, records: Mapping[str, Record]) -> dict[str, Any]:
    """Means over the seeds of every cell, and ratios to ordinary fine-tuning at matched learning.

    Args:
        plan: What was wanted.
        records: Of the finished runs.
    """
    rows: list[dict[str, Any]] = []
    matched: list[dict[str, Any]] = []
    for seed in range(plan.seeds):
        curves: dict[str, list[list[Point]]] = {}
        for run in plan.runs(seed):
            if run.key in records:
                curves.setdefault(run.method, []).append(points(records[run.key]))
        if REFERENCE in curves:
            matched.append({"seed": seed, **matched_learning(curves)})
    for method in plan.methods:
        for place, cell in enumerate(cells(method)):
            done = [
                records[run.key]
                for seed in range(plan.seeds)
                for run in plan.runs(seed)
                if (run.method, run.place) == (method, place) and run.key in records
            ]
            if done:
                rows.append({"method": method, "settings": dict(cell.settings), **_row(done)})
    return {"split": plan.split, "cells": rows, "matched": matched}


def _row(done: Sequence[Record]) -> dict[str, Any]:
    ends = [points(record)[-1] for record in done]
    return {
        "seeds": len(done),
        "learned": mean(end[0] for end in ends),
        "forgotten": mean(end[1] for end in ends),
        "curve": [
            [mean(p[i] for p in same) for i in (0, 1)]
            for same in zip(*(points(record) for record in done), strict=True)
        ],
        "bits": {name: mean(record["curve"][-1]["bits"][name] for record in done) for name in (*OLD, *NEW)},
        "cpu_seconds": mean(record["cpu_seconds"] for record in done),
    }


def matched_learning(curves: Mapping[str, Sequence[Sequence[Point]]]) -> dict[str, Any]:
    """What each method forgets at the same learning, its best setting there."""
    most = {name: max(point[0] for curve in own for point in curve) for name, own in curves.items()}
    level = min(most[name] for name in (REFERENCE, OURS) if name in most)
    table = []
    for share in SHARES:
        forgotten = {name: forgotten_at(own, share * level) for name, own in curves.items()}
        reference = forgotten[REFERENCE]
        ratios = {
            name: value / reference if value is not None and reference and reference > 0 else None
            for name, value in forgotten.items()
        }
        table.append({"learned": share * level, "forgotten": forgotten, "over_finetune": ratios})
    return {"most_learned": most, "levels": table}


def print_tables(summary: Mapping[str, Any], console: Console) -> None:
    """Show the cells, and the comparison at matched learning."""
    table = Table(title="Means over the seeds, bits per byte, after both new domains")
    for head in ("method", "settings", "seeds", "learned", "forgotten", *NEW, *OLD, "CPU s"):
        table.add_column(head, justify="left" if head in ("method", "settings") else "right")
    for row in summary["cells"]:
        settings = ", ".join(f"{k} {v:g}" for k, v in row["settings"].items() if not isinstance(v, bool))
        bits = (f"{row['bits'][name]:.2f}" for name in (*NEW, *OLD))
        ends = f"{row['learned']:.3f}", f"{row['forgotten']:+.3f}"
        table.add_row(row["method"], settings, str(row["seeds"]), *ends, *bits, f"{row['cpu_seconds']:.0f}")
    console.print(table)
    for own in summary["matched"]:
        table = Table(title=f"Seed {own['seed']}: forgotten at the same learning (over fine-tuning)")
        table.add_column("learned")
        for name in own["most_learned"]:
            table.add_column(name, justify="right")
        for at in own["levels"]:
            found = [(at["forgotten"][name], at["over_finetune"][name]) for name in own["most_learned"]]
            table.add_row(f"{at['learned']:.3f}", *(_entry(*pair) for pair in found))
        console.print(table)


def markdown(summary: Mapping[str, Any]) -> str:
    """What is compared, then every cell, as Markdown."""
    heads = ["method", "settings", "seeds", "learned", "forgotten", *NEW, *OLD]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in summary["cells"]:
        settings = ", ".join(f"{k} {v:g}" for k, v in row["settings"].items() if not isinstance(v, bool))
        bits = (f"{row['bits'][name]:.2f}" for name in (*NEW, *OLD))
        ends = f"{row['learned']:.3f}", f"{row['forgotten']:+.3f}"
        lines.append(f"| {' | '.join([row['method'], settings, str(row['seeds']), *ends, *bits])} |")
    every = "\n".join(lines)
    ratios = compared(summary["matched"]) if summary["matched"] else ""
    return (
        f"{ratios}\n\nEvery cell, means over the seeds in bits per byte, after both new domains:\n\n{every}"
    )


def compared(matched: Sequence[Mapping[str, Any]]) -> str:
    """Forgotten over fine-tuning's at the same learning as Markdown: mean over the seeds, and the worst."""
    amounts = [mean(own["levels"][i]["learned"] for own in matched) for i in range(len(SHARES))]
    seeds = f"mean over {len(matched)} seeds, worst seed in brackets" if len(matched) > 1 else "one seed"
    lines = [
        f"Forgotten as a share of what fine-tuning forgets when as much is learned ({seeds}), each method by "
        "its best setting there:\n",
        f"| learned, bits per byte | {' | '.join(f'{amount:.2f}' for amount in amounts)} |",
        "|---" * (len(SHARES) + 1) + "|",
    ]
    names = list(dict.fromkeys(name for own in matched for name in own["most_learned"]))
    for name in names:
        entries = [_ratio_entry([own["levels"][i] for own in matched], name) for i in range(len(SHARES))]
        lines.append(f"| {name} | {' | '.join(entries)} |")
    return "\n".join(lines)


def _ratio_entry(found: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean and worst of the seeds that learned so much."""
    learned = [own for own in found if own["forgotten"].get(name) is not None]
    known = [own["over_finetune"][name] for own in learned if own["over_finetune"][name] is not None]
    if not learned:
        return "not learned"
    if not known:
        return "fine-tuning forgot nothing"
    entry = f"{mean(known):.2f}" + (f" ({max(known):.2f})" if len(found) > 1 else "")
    missing = len(found) - len(learned)
    return entry + (f"; not learned by {missing} of {len(found)}" if missing else "")


def _entry(forgotten: float | None, ratio: float | None) -> str:
    if forgotten is None:
        return "not learned"
    return f"{forgotten:.3f}" + ("" if ratio is None else f" ({ratio:.2f})")
