"""The numbers of a signing server, as its supervisor keeps them, and as metrics.

What workers tell is counted here as they tell it, and no more of it is believed than its form: who
breaks into one can make numbers wrong, and nothing else. There are no more operations, versions and
outcomes than are known; a user's name is kept only where that user has proven who he is, and given
away only where `metrics-names` says so.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import Final

from ..logevents import tell
from ..metrics import Histogram, ServerCount, Tally
from ..observe.catalogue import SECONDS
from ..observe.exposition import Samples
from ..protocol.operations import BRIDGE_OPERATIONS, OPERATIONS
from ..protocol.status import ServerStatus
from .log_events import ServerLog
from .phases import UNKNOWN, Measured, Outcome, Phase

log = logging.getLogger(__name__)

#: Seconds between two writings of the metrics' file, and those that one of them may take.
FILE_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 10.0
#: Sets of labels of requests that are kept apart: with users' names, too, the text is less than a
#: status socket takes at once.
MAX_REQUEST_LABELS: Final = 256

#: Each number of `ServerCount` that is a metric of its own.
_COUNTERS: Final = {
    ServerCount.WORKERS_STARTED: "sigul_server_workers_started_total",
    ServerCount.WORKERS_CRASHED: "sigul_server_workers_crashed_total",
    ServerCount.WRONG_SECRETS: "sigul_server_unlock_failures_total",
    ServerCount.DELAYED: "sigul_server_delayed_total",
    ServerCount.REQUESTS_ENDED: "sigul_server_requests_ended_total",
    ServerCount.SPOOL_REFUSALS: "sigul_server_spool_refusals_total",
    ServerCount.LOG_FAILURES: "sigul_server_signing_log_failures_total",
}


class ServerMeasures:
    """Counts of what happened since the supervisor's start, beside its `Counters`."""

    def __init__(self) -> None:
        self._requests = Tally(most=MAX_REQUEST_LABELS)
        self._phases = Histogram(SECONDS)
        self._handshakes = Histogram(SECONDS, without_labels=True)
        for phase in Phase:
            self._phases.begin(phase=phase)

    def attached(self, seconds: float) -> None:
        """A worker's handshake with the bridge has taken so long."""
        self._handshakes.observe(seconds)

    def request(self, measured: Measured, user: str) -> None:
        """A request of that user is over; empty where no user is known."""
        op = measured.op if measured.op in OPERATIONS or measured.op in BRIDGE_OPERATIONS else ""
        self._requests.count(
            op=op or UNKNOWN,
            version=measured.version,
            result=measured.outcome,
            user=user if measured.proven else "",
        )
        for phase, seconds in measured.seconds.items():
            self._phases.observe(seconds, phase=phase)

    def lost(self, op: str, version: str, *, ended: bool) -> None:
        """A request is over whose worker could not tell of it: it was ended, or crashed."""
        self.request(Measured(Outcome.ENDED if ended else Outcome.FAILED, op, version), "")

    def samples(
        self, status: ServerStatus, *, spooled: int, spool_limit: int | None, names: bool
    ) -> Samples:
        """All metrics of the server, whose state is `status`. Sizes are in bytes."""
        samples = Samples(names=names)
        samples.add("sigul_server_info", 1, version=status.version)
        samples.add("sigul_server_start_time_seconds", _seconds(status.started))
        samples.add("sigul_server_metrics_timestamp_seconds", time.time())
        for state, count in (
            ("attached", status.workers_attached),
            ("dialling", status.workers_dialling),
            ("busy", status.workers_busy),
        ):
            samples.add("sigul_server_workers", count, state=state)
        for counted, name in _COUNTERS.items():
            samples.add(name, status.totals[counted])
        samples.add_histogram("sigul_server_handshake_seconds", self._handshakes)
        samples.add_histogram("sigul_server_phase_seconds", self._phases)
        samples.add_tally("sigul_server_requests_total", self._requests)
        samples.add("sigul_server_spool_bytes", spooled)
        if spool_limit is not None:
            samples.add("sigul_server_spool_limit_bytes", spool_limit)
        if status.signing_log_time:
            samples.add("sigul_server_signing_log_leaves", status.signing_log_size)
            samples.add(
                "sigul_server_signing_log_checkpoint_timestamp_seconds",
                _seconds(status.signing_log_time),
            )
        return samples


class FileTurns:
    """The turns of writing the metrics' file. Failures are told of once, and so is their end."""

    def __init__(self) -> None:
        self._due = 0.0
        self._fails = False

    def is_due(self) -> bool:
        """Whether it is to be written now; then the next time is later."""
        if self.remaining():
            return False
        self._due = time.monotonic() + FILE_SECONDS
        return True

    def soon(self) -> None:
        """Have it written at once: it may be another file."""
        self._due = 0.0

    def remaining(self) -> float:
        """Seconds until it is to be written."""
        return max(0.0, self._due - time.monotonic())

    def ended(self, failure: str) -> None:
        """It was written; or was not, because of `failure`."""
        if failure and not self._fails:
            tell(log, ServerLog.METRICS_FAIL, reason=failure)
        elif self._fails and not failure:
            tell(log, ServerLog.METRICS_WRITTEN)
        self._fails = bool(failure)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
