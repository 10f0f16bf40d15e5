"""The folder of a run: what is written while it goes on, and what reports read.

``system.json`` is the nested system, ``run.json`` the title and the planned length, ``metrics.jsonl`` one
event a line: steps, evaluations, diagnostics and alarms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nestlearn.levels import NestedSystem
from nestlearn.observing.trackers import Track, Trackers

FORMAT = "nestlearn-run-1"
EVENTS, SYSTEM, RUN = "metrics.jsonl", "system.json", "run.json"
Event = Mapping[str, Any]


class RunFolder:
    """Writes events of a run.

    Args:
        path: The folder; made if needed.
        track: Where events go besides, see :func:`~nestlearn.observing.trackers.chosen_trackers`.

    Attributes:
        trackers: Those that are chosen.

    Raises:
        ValueError: For a tracker that is not known or not installed.
    """

    def __init__(self, path: Path | str, track: Track = "none") -> None:
        self.path = Path(path)
        self.trackers = Trackers(self.path, track)
        self._events: int | None = None

    def begin(self, system: NestedSystem, title: str, planned_tokens: int | None = None) -> None:
        """Write what is known before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        system.save(self.path / SYSTEM)
        about = {"format": FORMAT, "title": title, "planned_tokens": planned_tokens}
        (self.path / RUN).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (self.path / EVENTS).touch()

    def write(self, event: Event) -> None:
        """Append one event."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        if self._events is not None:
            self._events += 1
        self.trackers.write(event)

    def events(self) -> int:
        """How many events there are; the file is read the first time only."""
        if self._events is None:
            file = self.path / EVENTS
            self._events = sum(1 for _ in _events(file)) if file.is_file() else 0
        return self._events

    def cut(self, events: int) -> None:
        """Leave out all but the first so many events: the file is replaced as a whole."""
        file = self.path / EVENTS
        if file.is_file():
            kept = [json.dumps(event) + "\n" for event, _ in zip(_events(file), range(events), strict=False)]
            beside = file.with_name(f".{EVENTS}.tmp")
            beside.write_text("".join(kept), encoding="utf-8")
            beside.replace(file)
        self._events = None


def read_system(path: Path | str) -> NestedSystem | None:
    """The nested system of a run's folder; None if it has none.

    Raises:
        ValueError: If the file is damaged.
    """
    file = Path(path) / SYSTEM
    return NestedSystem.load(file) if file.is_file() else None


def read_run(path: Path | str) -> dict[str, Any]:
    """What happened in a run so far, as one JSON document.

    Args:
        path: The run's folder.

    Returns:
        Keys ``format``, ``title``, ``finished``, ``end`` (tokens so far), ``stages``, ``levels`` (with the
        positions of their updates), ``tasks`` (evaluations), ``loss``, ``surprises``, ``diagnostics`` and
        ``alarms``; see docs/inspecting.md.

    Raises:
        ValueError: If the folder has no run, or a line of it is no event.
    """
    folder = Path(path)
    if not (folder / EVENTS).is_file():
        raise ValueError(f"{folder} has no {EVENTS}: it is not the folder of a training run")
    run = _Reader(folder)
    for event in _events(folder / EVENTS):
        run.take(event)
    return run.document()


def _events(path: Path) -> Iterator[Event]:
    """Events of a file that may still be written to: the last line may be half there."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            return
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}, is no event: {error}") from error
        if not isinstance(event, dict) or "event" not in event:
            raise ValueError(f"{path}, line {number}, is no event: it has no key 'event'")
        yield event


class _Reader:
    """Puts events together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = folder / RUN
        try:
            self.about = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"{about} is not JSON: {error}") from error
        self.end, self.closed = 0, False
        self.updates: dict[str, list[int]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.loss: list[list[float]] = []
        self.stages: list[dict[str, Any]] = []
        self.surprises: list[int] = []
        self.series: dict[str, dict[str, list[list[float]]]] = {}
        self.alarms: list[dict[str, Any]] = []

    def take(self, event: Event) -> None:
        """Take in one event; kinds that are not known are passed over."""
        take = {
            "step": self._step,
            "evaluation": self._evaluation,
            "diagnostics": self._diagnostics,
            "alarm": self._alarm,
            "end": self._end,
        }.get(event["event"])
        if take is not None:
            try:
                take(event)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{self.folder / EVENTS} has a damaged event {dict(event)}: {error}"
                ) from error

    def document(self) -> dict[str, Any]:
        """See :func:`read_run`."""
        planned, periods = self.about.get("planned_tokens"), self._periods()
        return {
            "format": FORMAT,
            "title": str(self.about.get("title") or self.folder),
            "finished": self.closed or (planned is not None and self.end >= planned),
            "end": self.end,
            "stages": self.stages,
            "levels": [
                {"name": name, "period": periods.get(name), "updates": self.updates.get(name, [])}
                for name in dict.fromkeys([*(periods if self.updates else ()), *self.updates])
            ],
            "tasks": list(self.tasks.values()),
            "loss": self.loss,
            "surprises": self.surprises,
            "diagnostics": self.series,
            "alarms": self.alarms,
        }

    def _periods(self) -> dict[str, int]:
        """Periods of the levels, in tokens where they are known."""
        system = read_system(self.folder)
        if system is None:
            return {}
        step = system.tokens_per_step
        return {
            c.name: c.period if c.unit == "token" else c.period * (step or 1)
            for c in system.components
            if c.kind == "parameters" and c.period
        }

    def _step(self, event: Event) -> None:
        tokens = int(event["tokens"])
        self.end = max(self.end, tokens)
        if event.get("loss") is not None:
            self.loss.append([tokens, float(event["loss"])])
        for name in event.get("due", ()):
            self.updates.setdefault(str(name), []).append(tokens)
        if event.get("surprised"):
            self.surprises.append(tokens)
        stage = event.get("language", event.get("stage"))
        if stage is None:
            return
        if not self.stages or self.stages[-1]["name"] != str(stage):
            begin = self.stages[-1]["end"] if self.stages else 0
            self.stages.append({"name": str(stage), "start": begin, "end": tokens})
        self.stages[-1]["end"] = tokens

    def _evaluation(self, event: Event) -> None:
        tokens = int(event["tokens"])
        self.end = max(self.end, tokens)
        measure = str(event.get("measure", "bits per byte"))
        lower = bool(event.get("lower_is_better", True))
        for name, value in event.get("values", event.get("bits_per_byte", {})).items():
            task = {"name": str(name), "measure": measure, "lower_is_better": lower, "points": []}
            self.tasks.setdefault(str(name), task)["points"].append([tokens, float(value)])

    def _diagnostics(self, event: Event) -> None:
        for level, values in event["levels"].items():
            for measure, value in values.items():
                points = self.series.setdefault(str(level), {}).setdefault(str(measure), [])
                points.append([int(event["tokens"]), float(value)])

    def _alarm(self, event: Event) -> None:
        self.alarms.append({key: event[key] for key in ("tokens", "level", "kind", "sentence")})

    def _end(self, event: Event) -> None:
        self.closed = True


__all__ = ["EVENTS", "FORMAT", "RUN", "SYSTEM", "Event", "RunFolder", "read_run", "read_system"]
