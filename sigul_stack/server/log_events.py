"""Events in a signing server's log."""

from __future__ import annotations

from ..logevents import ERROR, INFO, LogEvent


class ServerLog(LogEvent):
    """Events of the supervisor and its workers."""

    METRICS_FAIL = "metrics-fail", ERROR, "Metrics cannot be given: {reason!t}; the server goes on"
    METRICS_WRITTEN = "metrics-written", INFO, "The metrics' file is written again"
