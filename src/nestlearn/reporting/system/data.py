"""What the page gets of the two documents: all of it where it is short, less of it where it is long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nestlearn.reporting.system.document import RunDocument, SystemDocument, check_run
from nestlearn.reporting.system.thinning import spans, thin_points, thin_positions
from nestlearn.reporting.system.words import folded

__all__ = ["BUDGETS", "Budget", "run_data", "run_payload", "system_data"]


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a page may hold.

    Attributes:
        points: of all series together, and of all spans of updates.
        each: of one series at most.
        names: of tensors or modules of one component.
        entries: of alarms, surprises and stages, each.
        letters: of one text.
    """

    points: int
    each: int
    names: int
    entries: int
    letters: int


#: From generous to meagre; a page takes the first that keeps it small enough.
BUDGETS = (
    Budget(40_000, 3000, 60, 400, 400),
    Budget(16_000, 900, 20, 200, 200),
    Budget(4000, 300, 5, 50, 60),
)


def system_data(system: SystemDocument, budget: Budget = BUDGETS[0]) -> dict[str, Any]:
    """Return a system for the page, with long lists of names cut and their true length beside them."""
    components = []
    for component in system["components"]:
        where = folded(component["where"])
        components.append(
            {
                **{
                    key: component.get(key)
                    for key in ("name", "kind", "period", "unit", "parameters", "bytes")
                },
                "objective": _cut(component["objective"], budget),
                "context": _cut(component["context"], budget),
                "tensors": [_cut(name, budget) for name in component["tensors"][: budget.names]],
                "tensorCount": len(component["tensors"]),
                "where": [_cut(name, budget) for name in where[: budget.names]],
                "whereCount": len(where),
            }
        )
    return {
        "title": _cut(system["title"], budget),
        "tokensPerStep": system["tokens_per_step"],
        "levels": [dict(level) for level in system["levels"]],
        "components": components,
        "edges": [{**edge, "what": _cut(edge["what"], budget)} for edge in system["edges"]],
        "unplaced": [
            {key: _cut(entry[key], budget) for key in ("name", "why")}
            for entry in system["unplaced"][: budget.entries]
        ],
        "notes": [_cut(note, budget) for note in system["notes"][: budget.entries]],
    }


def run_payload(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a server should answer a live page with: a run, thinned out, that is valid JSON.

    Args:
        document: the run.

    Raises:
        ValueError: the run cannot be drawn; the message names the place.
    """
    return run_data(check_run(document))


def run_data(run: RunDocument, budget: Budget = BUDGETS[0]) -> dict[str, Any]:
    """Return a run for the page, thinned out to a budget, with true counts."""
    diagnostics = run.get("diagnostics", {})
    series = sum(map(len, diagnostics.values())) + len(run["tasks"]) + 1
    most = min(budget.each, budget.points // series)
    alarms = run.get("alarms", [])
    surprises = run.get("surprises", [])
    return {
        "title": _cut(run["title"], budget),
        "finished": run["finished"],
        "end": run["end"],
        "stages": [
            {**stage, "name": _cut(stage["name"], budget)} for stage in run["stages"][: budget.entries]
        ],
        "levels": [
            {
                "name": level["name"],
                "period": level.get("period"),
                "count": len(level["updates"]),
                "spans": spans(level["updates"], min(1500, budget.points // (2 * len(run["levels"])))),
            }
            for level in run["levels"]
        ],
        "tasks": [
            {**task, "name": _cut(task["name"], budget), "points": thin_points(task["points"], most)}
            for task in run["tasks"]
        ],
        "loss": thin_points(run["loss"], most),
        "surprises": thin_positions(surprises, budget.entries),
        "surpriseCount": len(surprises),
        "diagnostics": {
            level: {measure: thin_points(points, most) for measure, points in measures.items()}
            for level, measures in diagnostics.items()
        },
        "alarms": [
            {**alarm, "sentence": _cut(alarm["sentence"], budget)} for alarm in alarms[: budget.entries]
        ],
        "alarmCount": len(alarms),
    }


def _cut(text: str, budget: Budget) -> str:
    return text if len(text) <= budget.letters else f"{text[: budget.letters - 1]}…"
