"""The two documents that are drawn: a nested system, and what happened to it along a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

from nestlearn.reporting.system.values import (
    check_format,
    check_keys,
    check_number,
    check_points,
    check_positions,
    check_strings,
    entries_of,
)

__all__ = [
    "EDGE_KINDS",
    "RUN_FORMAT",
    "SYSTEM_FORMAT",
    "AlarmDocument",
    "ComponentDocument",
    "EdgeDocument",
    "LevelDocument",
    "RunDocument",
    "StageDocument",
    "SystemDocument",
    "TaskDocument",
    "UpdatesDocument",
    "check_run",
    "check_system",
]

SYSTEM_FORMAT = "nestlearn-system-1"
RUN_FORMAT = "nestlearn-run-1"
#: Ways in which knowledge goes from one memory to another (section 3.3), in the paper's order.
EDGE_KINDS = ("parametric", "non-parametric", "backpropagation", "initialisation", "generation")

Points = list[list[float]]


class LevelDocument(TypedDict):
    """Components of one update frequency; ``index`` counts from 1, the fastest."""

    index: int
    frequency: str
    components: list[str]


class ComponentDocument(TypedDict):
    """One associative memory; ``period`` 0 is "with every token", None is "never"."""

    name: str
    kind: str
    objective: str
    context: str
    period: int | None
    unit: str | None
    parameters: int
    bytes: int
    tensors: list[str]
    where: list[str]


class EdgeDocument(TypedDict):
    """Knowledge that goes from one component to another; ``kind`` is one of `EDGE_KINDS`."""

    source: str
    target: str
    kind: str
    what: str


class UnplacedDocument(TypedDict):
    """What an inspection could not place, and why."""

    name: str
    why: str


class SystemDocument(TypedDict):
    """What ``nl.inspect(model, optimizer).to_json()`` gives."""

    format: str
    title: str
    tokens_per_step: int | None
    levels: list[LevelDocument]
    components: list[ComponentDocument]
    edges: list[EdgeDocument]
    unplaced: list[UnplacedDocument]
    notes: list[str]


class StageDocument(TypedDict):
    """A part of the stream, from token ``start`` to token ``end``."""

    name: str
    start: int
    end: int


class UpdatesDocument(TypedDict):
    """The tokens at which a level was updated; ``period`` is in tokens, None where it is not known."""

    name: str
    period: int | None
    updates: list[int]


class TaskDocument(TypedDict):
    """Evaluations of one task, as pairs of tokens and value."""

    name: str
    measure: str
    lower_is_better: bool
    points: Points


class AlarmDocument(TypedDict):
    """Something that a reader should look at, where it was found."""

    tokens: int
    level: str
    kind: str
    sentence: str


class RunDocument(TypedDict):
    """What happened along a stream."""

    format: str
    title: str
    finished: bool
    end: int
    stages: list[StageDocument]
    levels: list[UpdatesDocument]
    tasks: list[TaskDocument]
    loss: Points
    surprises: list[int]
    diagnostics: NotRequired[dict[str, dict[str, Points]]]
    alarms: NotRequired[list[AlarmDocument]]


def check_system(document: Mapping[str, Any]) -> SystemDocument:
    """Make sure that a system can be drawn.

    Args:
        document: what ``nl.inspect(...).to_json()`` gave. Keys that are not known are passed over.

    Returns:
        The same document.

    Raises:
        ValueError: something is missing, of the wrong kind or at odds with the rest; the message names it.
    """
    check_format(document, SYSTEM_FORMAT, "system")
    check_keys(
        document, "system", title=str, levels=list, components=list, edges=list, unplaced=list, notes=list
    )
    check_number(document.get("tokens_per_step"), "system.tokens_per_step", optional=True)
    names = _check_components(document["components"])
    _check_levels(document["levels"], names)
    for place, edge in entries_of(document["edges"], "system.edges"):
        check_keys(edge, place, source=str, target=str, kind=str, what=str)
        for end in ("source", "target"):
            if edge[end] not in names:
                raise ValueError(f"{place}.{end} is {edge[end]!r}, which is not a component")
        if edge["kind"] not in EDGE_KINDS:
            raise ValueError(f"{place}.kind is {edge['kind']!r}; known are {', '.join(EDGE_KINDS)}")
    for place, entry in entries_of(document["unplaced"], "system.unplaced"):
        check_keys(entry, place, name=str, why=str)
    check_strings(document["notes"], "system.notes")
    return cast(SystemDocument, document)


def _check_components(entries: Sequence[Any]) -> set[str]:
    """Return the names of the components."""
    names: set[str] = set()
    for place, entry in entries_of(entries, "system.components"):
        check_keys(entry, place, name=str, kind=str, objective=str, context=str, tensors=list, where=list)
        if entry["name"] in names:
            raise ValueError(
                f"{place}.name is {entry['name']!r}, as another component's is; names are unique"
            )
        names.add(entry["name"])
        for key in ("parameters", "bytes"):
            check_number(entry.get(key), f"{place}.{key}")
        check_number(entry.get("period"), f"{place}.period", optional=True)
        if entry.get("unit") not in (None, "token", "step"):
            raise ValueError(f"{place}.unit is {entry['unit']!r}; it must be 'token', 'step' or null")
        check_strings(entry["tensors"], f"{place}.tensors")
        check_strings(entry["where"], f"{place}.where")
    if not names:
        raise ValueError("system.components is empty: there is nothing to draw")
    return names


def _check_levels(entries: Sequence[Any], names: set[str]) -> None:
    """Make sure that every component is in exactly one level."""
    placed: set[str] = set()
    for place, level in entries_of(entries, "system.levels"):
        check_keys(level, place, frequency=str, components=list)
        check_number(level.get("index"), f"{place}.index")
        for name in check_strings(level["components"], f"{place}.components"):
            if name not in names:
                raise ValueError(f"{place}.components has {name!r}, which is not a component")
            if name in placed:
                raise ValueError(f"{place}.components has {name!r}, which is there already")
            placed.add(name)
    if missing := sorted(names - placed):
        raise ValueError(f"system.levels lacks component {missing[0]!r}: every component has a level")


def check_run(document: Mapping[str, Any]) -> RunDocument:
    """Make sure that a run can be drawn.

    Values may be infinite or not a number, as those of a run that diverged: they are drawn as gaps.

    Args:
        document: the run. Keys that are not known are passed over; diagnostics and alarms may be missing.

    Returns:
        The same document.

    Raises:
        ValueError: something is missing or of the wrong kind; the message names it.
    """
    check_format(document, RUN_FORMAT, "run")
    check_keys(document, "run", title=str, finished=bool, stages=list, levels=list, tasks=list, loss=list)
    check_number(document.get("end"), "run.end")
    for place, stage in entries_of(document["stages"], "run.stages"):
        check_keys(stage, place, name=str)
        check_number(stage.get("start"), f"{place}.start")
        check_number(stage.get("end"), f"{place}.end")
    _check_updates(document["levels"])
    for place, task in entries_of(document["tasks"], "run.tasks"):
        check_keys(task, place, name=str, measure=str, lower_is_better=bool, points=list)
        check_points(task["points"], f"{place}.points")
    check_points(document["loss"], "run.loss")
    check_positions(document.get("surprises", []), "run.surprises")
    _check_diagnostics(document.get("diagnostics", {}))
    for place, alarm in entries_of(document.get("alarms", []), "run.alarms"):
        check_keys(alarm, place, level=str, kind=str, sentence=str)
        check_number(alarm.get("tokens"), f"{place}.tokens")
    return cast(RunDocument, document)


def _check_updates(entries: Sequence[Any]) -> None:
    names: set[str] = set()
    for place, level in entries_of(entries, "run.levels"):
        check_keys(level, place, name=str)
        if level["name"] in names:
            raise ValueError(f"{place}.name is {level['name']!r}, as another level's is; names are unique")
        names.add(level["name"])
        check_number(level.get("period"), f"{place}.period", optional=True)
        check_positions(level.get("updates"), f"{place}.updates")


def _check_diagnostics(levels: Any) -> None:
    if not isinstance(levels, Mapping):
        raise ValueError("run.diagnostics is not an object of levels")
    for level, measures in levels.items():
        if not isinstance(measures, Mapping):
            raise ValueError(f"run.diagnostics[{level!r}] is not an object of measures")
        for measure, points in measures.items():
            check_points(points, f"run.diagnostics[{level!r}][{measure!r}]")
