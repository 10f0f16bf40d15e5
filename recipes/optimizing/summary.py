"""What the runs say: figures by task and optimizer, which claims hold, and tables of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from recipes.optimizing.plan import TASKS, Plan, Record, Records, Tuning

#: Columns of a task's table: the record's field, its title and its digits. The first is what is compared.
COLUMNS: Mapping[str, Sequence[tuple[str, str, int]]] = {
    "language": (("score", "bits per byte", 3), ("training", "last training loss", 3)),
    "digits": (("score", "test loss", 3), ("accuracy", "accuracy", 3), ("training", "last training loss", 3)),
    "valley": (("score", "steps", 0), ("arrived", "arrived", 2)),
    "orthogonal": (
        ("matched", "first task, second at 0.3", 4),
        ("before", "first task before", 4),
        ("after", "first task at the end", 4),
        ("score", "each when learned", 4),
    ),
}


@dataclass(frozen=True)
class Claim:
    """One optimizer is said to be better than another.

    Attributes:
        source: Where it is said; the paper's figure or section, or empty for what this project set out for.
        task: Where it is looked at.
        better: The optimizer that has the lower figure, if the claim holds.
        than: The other.
        figure: Field of the record.
    """

    source: str
    task: str
    better: str
    than: str
    figure: str = "score"

    def verdict(self, rows: Mapping[str, Any]) -> str | None:
        """Whether it holds on the reported seeds; None as long as one of the two is missing."""
        if self.better not in rows or self.than not in rows:
            return None
        mine, other = (rows[name]["figures"].get(self.figure) for name in (self.better, self.than))
        if mine is None:
            return "does not hold"
        if other is None or mine["max"] < other["min"]:
            return "holds"
        if mine["min"] > other["max"]:
            return "does not hold"
        average = "on average, " if mine["mean"] < other["mean"] else "not even on average, "
        return f"open: {average}but the seeds' ranges overlap"


_NETWORKS = ("language", "digits")
CLAIMS = (
    *(
        Claim("", task, "M3", than)
        for task in _NETWORKS
        for than in (
            "AdamW",
            "AdamW, beta 0.95",
            "Muon",
            "Muon, heavyball",
            "Muon, momentum 0.8",
            "M3, fast memory alone",
        )
    ),
    *(Claim("Fig. 11", "digits", "M3", than, "training") for than in ("AdamW", "Muon")),
    *(
        Claim("Fig. 11", "digits", "M3, paper", than, figure)
        for than in ("AdamW", "Muon")
        for figure in ("score", "training")
    ),
    Claim("Fig. 4", "valley", "DeltaMomentum", "Momentum"),
    Claim("Sec. 4.3", "orthogonal", "DeltaMomentum", "Momentum", "matched"),
    Claim("Sec. 4.3", "orthogonal", "DeltaGradientDescent", "GradientDescent", "matched"),
    Claim("Sec. 4.3", "orthogonal", "DeltaGradientDescent, erase 0.01", "Momentum", "matched"),
    Claim("Sec. 4.3", "orthogonal", "M3, denominator", "Muon", "matched"),
)


def summarize(plan: Plan, records: Records, notes: Sequence[str]) -> dict[str, Any]:
    """The figures of what is done.

    Args:
        plan: What was wanted.
        records: Of the finished runs.
        notes: What was left out, and why.
    """
    tasks: dict[str, Any] = {}
    for task in plan.tasks:
        found = {
            entry: _row(plan, task, entry, plan.tuning(task, entry, records), records)
            for name, entry in plan.places()
            if name == task
        }
        rows = {entry: found[entry] for entry in plan.entries if found.get(entry) is not None}
        own = TASKS[task]
        tasks[task] = {"title": own.title, "unit": own.unit, "settings": dict(own.settings), "rows": rows}
    claims = [
        {"source": c.source, "task": c.task, "claim": f"{c.better} below {c.than}", "figure": c.figure,
         "verdict": verdict}
        for c in CLAIMS
        if c.task in tasks and (verdict := c.verdict(tasks[c.task]["rows"])) is not None
    ]  # fmt: skip
    return {"notes": list(notes), "tasks": tasks, "claims": claims}


def _row(plan: Plan, task: str, entry: str, tuning: Tuning, records: Records) -> dict[str, Any] | None:
    """One optimizer on one task; None as long as there is nothing to say."""
    if tuning.missing:
        return None
    runs = plan.reported(task, entry, tuning.best)
    done = [records[run.key] for run in runs if run.key in records]
    if runs and not done:
        return None
    names = [name for name, _, _ in COLUMNS[task]]
    return {
        "lr": tuning.best,
        "at_edge": tuning.at_edge,
        "rates": [[rate, _number(score)] for rate, score in sorted(tuning.scores.items())],
        "seeds": len(done),
        "figures": {name: _figures([record[name] for record in done]) for name in names},
        "cpu_seconds": round(mean(record["cpu_seconds"] for record in done), 1) if done else None,
    }


def _figures(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and range; None if a seed has no such figure."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    return {"mean": mean(numbers), "min": min(numbers), "max": max(numbers)}


def _number(score: float) -> float | None:
    return score if score < float("inf") else None


def tables(summary: Mapping[str, Any]) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Title, column heads and rows of every table: one a task, then the claims."""
    for task, content in summary["tasks"].items():
        heads = ["optimizer", *(title for _, title, _ in COLUMNS[task]), "learning rate", "CPU s"]
        rows = [_cells(task, entry, row) for entry, row in content["rows"].items()]
        yield f"{content['title']}: mean (lowest to highest) over the seeds", heads, rows
    heads = ["task", "claim", "by", "source", "on the seeds here"]
    claims = [[c["task"], c["claim"], c["figure"], c["source"], c["verdict"]] for c in summary["claims"]]
    if claims:
        yield "What holds", heads, claims


def _cells(task: str, entry: str, row: Record) -> list[str]:
    if row["lr"] is None:
        return [entry, *("lost at every rate" for _ in COLUMNS[task]), "", ""]
    cells = []
    for name, _, digits in COLUMNS[task]:
        figures = row["figures"][name]
        cells.append("not reached" if figures is None else _span(figures, digits))
    return [entry, *cells, f"{row['lr']:g}{' (edge)' if row['at_edge'] else ''}", f"{row['cpu_seconds']:.1f}"]


def _span(figures: Mapping[str, float], digits: int) -> str:
    mean_, low, high = (f"{figures[name]:.{digits}f}" for name in ("mean", "min", "max"))
    return f"{mean_} ({low}-{high})"


def print_tables(summary: Mapping[str, Any], console: Console) -> None:
    """Show every table."""
    for title, heads, rows in tables(summary):
        table = Table(title=title)
        for i, head in enumerate(heads):
            table.add_column(head, justify="left" if i == 0 or title == "What holds" else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in summary["notes"]:
        console.print(note, highlight=False)


def markdown(summary: Mapping[str, Any]) -> str:
    """Every table as Markdown."""
    parts = []
    for title, heads, rows in tables(summary):
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        parts.append("\n".join([f"{title}:", "", *lines, *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join([*parts, *summary["notes"]])
