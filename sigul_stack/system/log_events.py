"""Child processes' events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import ERROR, INFO, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


class SystemLog(LogEvent):
    """Child processes' lines."""

    CHILD_CRASHED = "child-crashed", ERROR, "A process of this daemon failed in an unforeseen way"
    CHILD_KILLED = "child-killed", ERROR, "Process {process} is killed: {reason!t}"
    CHILD_NOT_STARTED = "child-not-started", ERROR, "No process can be started: {why!t}"
    CONFIGURATION_READ_AGAIN = "configuration-read-again", INFO, (
        "Reading configuration and certificates again"
    )
    CONFIGURATION_NOT_TAKEN = "configuration-not-taken", ERROR, (
        "The new configuration is not taken, the former one stays: {reason!t}"
    )
    CHILD_TOO_SLOW = "child-too-slow", ERROR, (
        "Process {process} did not do what it was told in time; it is killed"
    )
