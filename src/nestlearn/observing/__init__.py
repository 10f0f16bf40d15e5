"""Looking at a system while it learns: what changes, how, and what is wrong with it."""

from nestlearn.observing.alarms import Alarm
from nestlearn.observing.diagnostics import Diagnostics
from nestlearn.observing.observer import Observer, observe
from nestlearn.observing.report import Row, TraceError, TraceReport
from nestlearn.observing.run import RunFolder, read_run, read_system
from nestlearn.observing.trace import Trace, trace

__all__ = [
    "Alarm",
    "Diagnostics",
    "Observer",
    "Row",
    "RunFolder",
    "Trace",
    "TraceError",
    "TraceReport",
    "observe",
    "read_run",
    "read_system",
    "trace",
]
