"""Looking at a system while it learns: what changes, how, and what is wrong with it."""

from nestlearn.observing.alarms import Alarm
from nestlearn.observing.backends import TrackedRun, Tracker
from nestlearn.observing.diagnostics import Diagnostics
from nestlearn.observing.observer import Observer, observe
from nestlearn.observing.report import Row, TraceError, TraceReport
from nestlearn.observing.run import RunFolder, read_run, read_system
from nestlearn.observing.trace import Trace, trace
from nestlearn.observing.trackers import Track, Trackers, chosen_trackers

__all__ = [
    "Alarm",
    "Diagnostics",
    "Observer",
    "Row",
    "RunFolder",
    "Trace",
    "TraceError",
    "TraceReport",
    "Track",
    "TrackedRun",
    "Tracker",
    "Trackers",
    "chosen_trackers",
    "observe",
    "read_run",
    "read_system",
    "trace",
]
