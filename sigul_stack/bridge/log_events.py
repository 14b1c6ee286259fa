"""The bridge's events of the log: see `logevents`. A name, once there, stays."""

from __future__ import annotations

from ..logevents import ERROR, INFO, WARNING, LogEvent

# Each event in few lines: ruff would have five of each.
# fmt: off


class BridgeLog(LogEvent):
    """The bridge's lines."""

    MANAGEMENT_SERVED = "management-served", INFO, (
        "Metrics and page are at {address!t} in process {process}"
    )
    MANAGEMENT_ACCEPT_FAILED = "management-accept-failed", WARNING, (
        "Accepting a connection at the management address failed: {why!t}"
    )
    MANAGEMENT_ANSWER_FAILED = "management-answer-failed", ERROR, (
        "An answer at the management address failed in an unforeseen way"
    )
    CONDITIONS_FAILED = "conditions-failed", ERROR, (
        "Looking at the bridge's conditions failed in an unforeseen way"
    )
