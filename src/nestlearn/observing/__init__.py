"""Looking at a system while it learns: what changes, how, and what is wrong with it."""

from nestlearn.observing.report import Row, TraceError, TraceReport
from nestlearn.observing.trace import Trace, trace

__all__ = ["Row", "Trace", "TraceError", "TraceReport", "trace"]
