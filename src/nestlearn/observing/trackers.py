"""A run's numbers on their way to trackio, TensorBoard or W&B. ``metrics.jsonl`` has them in any case."""

from __future__ import annotations

import atexit
import json
import math
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nestlearn.observing.backends import BACKENDS, TrackedRun, Tracker

#: Says what "auto" means, for a shell, a machine or a test.
VARIABLE = "NESTLEARN_TRACK"
#: In the run's folder: what the trackers know the run by.
IDENTITY = "tracking.json"
Track = str | Sequence[str]


def chosen_trackers(track: Track, folder: Path | None) -> tuple[str, ...]:
    """The trackers that an option ``track`` means.

    Args:
        track: ``"auto"``, ``"none"``, names of trackers, or one string of them with commas. ``"auto"`` is
            what the environment variable NESTLEARN_TRACK says, otherwise trackio where it is installed.
        folder: The run's folder; without one nothing is tracked.

    Returns:
        Names, each a key of :data:`~nestlearn.observing.backends.BACKENDS`.

    Raises:
        ValueError: For a tracker that is not known or not installed, and for trackers without a folder.
    """
    names, said = _names(track), f"track={track!r}"
    automatic = names == ["auto"]
    if automatic:
        said = f"{VARIABLE}={os.environ.get(VARIABLE, '')!r}"
        names = _names(os.environ.get(VARIABLE) or "auto")
        if names == ["auto"]:
            names = ["trackio"] if installed("trackio") else ["none"]
    if names in ([], ["none"]) or (automatic and folder is None):
        return ()
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise ValueError(
            f"{said} names no tracker {unknown[0]!r}: choose from {', '.join(BACKENDS)}, with commas, or "
            "auto or none alone"
        )
    for name in names:
        if not installed(name):
            extra = name if name == "wandb" else "'nestlearn[trackers]'"
            raise ValueError(f"{said}: {name} is not installed; pip install {extra}")
    if folder is None:
        raise ValueError(
            f"{said} needs the folder of a run, where its metrics are kept: give one, or track none"
        )
    return tuple(dict.fromkeys(names))


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """What of an event of ``metrics.jsonl`` a tracker can show: finite numbers by name.

    ===========  ===========================================================================================
    step         ``loss``, ``lr_factor``, ``cpu_seconds``; ``surprise`` is 1 where a context has ended
    evaluation   ``evaluation/MEASURE/TASK``
    diagnostics  ``levels/LEVEL/MEASURE``
    alarm        ``alarms/LEVEL/KIND`` is 1
    ===========  ===========================================================================================
    """
    found: dict[str, Any] = {}
    if event["event"] == "step":
        found = {name: event.get(name) for name in ("loss", "lr_factor", "cpu_seconds")}
        found |= {"surprise": 1.0} if event.get("surprised") else {}
    elif event["event"] == "evaluation":
        measure = str(event.get("measure", "bits per byte")).replace(" ", "_")
        values = event.get("values", event.get("bits_per_byte", {}))
        found = {f"evaluation/{measure}/{task}": value for task, value in values.items()}
    elif event["event"] == "diagnostics":
        levels = event["levels"].items()
        found = {f"levels/{level}/{name}": value for level, own in levels for name, value in own.items()}
    elif event["event"] == "alarm":
        found = {f"alarms/{event['level']}/{event['kind']}": 1.0}
    return {name: float(v) for name, v in found.items() if v is not None and math.isfinite(v)}


class Trackers:
    """The trackers of one run, opened at its first event.

    Events of one position are put together and passed on when the next position begins. A tracker that fails
    is left out from then on, with one warning: it never stops the run.

    Args:
        folder: The run's folder; None for none.
        track: As for :func:`chosen_trackers`.

    Raises:
        ValueError: As :func:`chosen_trackers`.
    """

    def __init__(self, folder: Path | None, track: Track) -> None:
        self.names = chosen_trackers(track, folder)
        self.folder = folder
        self._open: dict[str, Tracker] | None = None
        self._goes_on: int | None = None
        self._position, self._values = -1, dict[str, float]()

    def resume(self, position: int) -> None:
        """What comes is the rest of the run that the folder has.

        Args:
            position: Where it goes on, in tokens of the stream.
        """
        self._goes_on = position

    def write(self, event: Mapping[str, Any]) -> None:
        """Take in an event of ``metrics.jsonl``."""
        values = numbers(event) if self.names else {}
        if values:
            if event["tokens"] != self._position:
                self._pass_on()
                self._position = event["tokens"]
            self._values |= values

    def close(self) -> None:
        """Pass on what is kept back, and close all trackers; a later event opens them again."""
        self._pass_on()
        if self._open is not None:
            atexit.unregister(self.close)
            for name, tracker in list(self._open.items()):
                self._guarded(name, tracker.close)
            self._open, self._goes_on = None, self._position

    def _pass_on(self) -> None:
        values, self._values = self._values, {}
        if not values:
            return
        if self._open is None:
            self._begin()
        for name, tracker in list((self._open or {}).items()):
            self._guarded(name, tracker.log, dict(values), self._position)

    def _begin(self) -> None:
        """Open all trackers. Those whose loop forgets to close them are closed when Python ends."""
        assert self.folder is not None
        name = "/".join(self.folder.resolve().parts[-2:]).lstrip("/")
        run = TrackedRun(self.folder, _identity(self.folder, self._goes_on is not None), name, self._goes_on)
        opened = self._open = dict[str, Tracker]()
        atexit.register(self.close)
        for key in self.names:
            tracker = self._guarded(key, BACKENDS[key], run)
            if tracker is not None:
                opened[key] = tracker

    def _guarded(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call of a tracker returns; one that fails returns None and is left out from now on."""
        try:
            return call(*arguments)
        except Exception as error:  # of another library, for any reason: the run is worth more
            self.names = tuple(own for own in self.names if own != name)
            if self._open is not None:
                self._open.pop(name, None)
            warnings.warn(
                f"{name} failed ({type(error).__name__}: {error}) and is left out from here; "
                f"{self.folder}/metrics.jsonl has everything",
                RuntimeWarning,
                stacklevel=2,
            )
            return None


def _identity(folder: Path, goes_on: bool) -> str:
    """What trackers know a run by: as before if it goes on, otherwise drawn."""
    file = folder / IDENTITY
    if goes_on and file.is_file():
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["id"])
        except (ValueError, KeyError, TypeError):
            pass  # damaged: the rest is a run of its own, which is no reason to stop
    made = uuid.uuid4().hex
    beside = file.with_name(f".{IDENTITY}.tmp")
    beside.write_text(json.dumps({"id": made}) + "\n", encoding="utf-8")
    beside.replace(file)
    return made


def _names(track: Track) -> list[str]:
    """Names of an option.

    Raises:
        ValueError: If it is no string and no list of strings.
    """
    parts = track.split(",") if isinstance(track, str) else track
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"track must be auto, none, or names of trackers; got {track!r}")
    return [part.strip() for part in parts if part.strip()]


def installed(name: str) -> bool:
    """Whether what a tracker needs is there; those that name no package need none."""
    package = getattr(BACKENDS[name], "package", None)
    return package is None or package in sys.modules or find_spec(package) is not None


__all__ = ["IDENTITY", "VARIABLE", "Track", "Trackers", "chosen_trackers", "installed", "numbers"]
