"""Counting what happens in a daemon: plain numbers that any thread may change. No I/O in here.

A number only ever grows, from 0 at the daemon's start. What goes up and down is counted where it is
limited: by a bridge's `Budget` and pool, by a server's supervisor. `Counters` count by names that
are listed here, `Tally` and `Histogram` by values of labels: of those, no more than a limit is ever
kept, so that nobody fills the memory by inventing them.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Generic, TypeVar


class BridgeCount(enum.StrEnum):
    """The numbers of a bridge."""

    #: Requests whose header was taken.
    REQUESTS = "requests_total"
    #: Of them, those of each version of the protocol.
    REQUESTS_OF_0 = "requests_protocol_0_total"
    REQUESTS_OF_1 = "requests_protocol_1_total"
    #: Requests that did not come to an orderly end.
    REQUESTS_FAILED = "requests_failed_total"
    #: Of them, those that somebody at the bridge ended, or whose certificate was no longer good.
    REQUESTS_ENDED = "requests_ended_total"
    #: Connections that ended before a byte of a request: port checks and health checks.
    PROBES = "probes_total"
    #: Handshakes that failed, took too long, or whose peer may not play that part.
    HANDSHAKES_REFUSED = "handshakes_refused_total"
    #: Connections, requests and downloads refused because their name has its share already.
    OVER_BUDGET = "over_budget_total"
    #: Requests ended because their client sent, or read, slower than the minimum rate.
    TOO_SLOW = "too_slow_total"
    #: Requests of users who are not in a group that is required of them.
    GROUP_REFUSALS = "group_refusals_total"
    #: Requests refused because nobody could be asked about groups.
    GROUP_FAILURES = "group_source_failures_total"
    SERVERS_ATTACHED = "servers_attached_total"
    #: Waiting servers that went before a request came for them.
    SERVERS_DROPPED = "servers_dropped_total"
    #: Checkpoints of servers' signing logs that were asked for and are good, complaints about them,
    #: and times that asking failed.
    LOG_CHECKPOINTS = "signing_log_checkpoints_total"
    LOG_COMPLAINTS = "signing_log_complaints_total"
    LOG_FAILURES = "signing_log_failures_total"


class ServerCount(enum.StrEnum):
    """The numbers of a signing server's supervisor."""

    REQUESTS = "requests_total"
    #: Of them, those of each version of the protocol that came completely.
    REQUESTS_OF_0 = "requests_protocol_0_total"
    REQUESTS_OF_1 = "requests_protocol_1_total"
    WORKERS_STARTED = "workers_started_total"
    WORKERS_CRASHED = "workers_crashed_total"
    #: Times that a request was refused room in the spool.
    SPOOL_REFUSALS = "spool_refusals_total"
    #: Requests whose rights or certificate were taken back, or that somebody at the server ended.
    REQUESTS_ENDED = "requests_ended_total"
    #: Finished handshakes with the bridge.
    ATTACHED = "attached_total"
    #: Requests with a wrong password or passphrase, or of users who do not have the right.
    WRONG_SECRETS = "wrong_secrets_total"
    #: Requests refused, unseen, because wrong secrets came before them.
    DELAYED = "delayed_after_wrong_secrets_total"
    #: Requests that failed because the signing log could not be written.
    LOG_FAILURES = "signing_log_failures_total"


Name = TypeVar("Name", bound=enum.StrEnum)


def requests_of_version(names: type[Name], number: int) -> Name:
    """Of `names`, what counts the requests of this version of the protocol."""
    return names(f"requests_protocol_{number}_total")


class Counters(Generic[Name]):
    """One number for each of `names`."""

    def __init__(self, names: type[Name]) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys(names, 0)

    def add(self, name: Name) -> None:
        """Count one more."""
        with self._lock:
            self._values[name] += 1

    def values(self) -> dict[str, int]:
        """All numbers at this moment, by name."""
        with self._lock:
            return {name.value: value for name, value in self._values.items()}


#: How many sets of labels a `Tally` or `Histogram` keeps apart unless told otherwise.
MAX_LABEL_SETS: Final = 512
#: The value of every label of what came after that many.
OTHER: Final = "other"

_Labels = tuple[tuple[str, str], ...]


class Tally:
    """A count of what happened, by its labels. Past `most` sets of labels, all are `OTHER`."""

    def __init__(self, *, most: int = MAX_LABEL_SETS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: dict[_Labels, int] = {}

    def count(self, times: int = 1, /, **labels: str) -> None:
        """Count that it happened (`times`: so often)."""
        with self._lock:
            key = _key(labels, self._values, self._most)
            self._values[key] = self._values.get(key, 0) + times

    def snapshot(self) -> list[tuple[dict[str, str], int]]:
        """For each set of labels its values, and how often."""
        with self._lock:
            return [(dict(key), value) for key, value in self._values.items()]


@dataclass(frozen=True, slots=True)
class HistogramRow:
    """The observations for one set of labels.

    `counts` is cumulative: how many were at most each of the bounds, and at last how many there
    were. `total` is their sum.
    """

    labels: dict[str, str]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """Sizes of something, by its labels: counted in buckets with these upper `bounds`.

    `bounds` grow. A histogram `without_labels` has its one row, of zeros, before anything was
    observed. Past `most` sets of labels, all are `OTHER`.
    """

    def __init__(
        self, bounds: tuple[float, ...], *, without_labels: bool = False, most: int = MAX_LABEL_SETS
    ) -> None:
        self._bounds = bounds
        self._most = most
        self._lock = threading.Lock()
        self._rows: dict[_Labels, tuple[list[int], float]] = {}
        if without_labels:
            self.begin()

    def begin(self, **labels: str) -> None:
        """Have a row of zeros for these labels, until something is observed for them."""
        with self._lock:
            self._row(labels)

    def observe(self, value: float, /, **labels: str) -> None:
        """Count one of this size."""
        with self._lock:
            key, counts, total = self._row(labels)
            counts[bisect.bisect_left(self._bounds, value)] += 1
            self._rows[key] = counts, total + value

    def _row(self, labels: dict[str, str]) -> tuple[_Labels, list[int], float]:
        key = _key(labels, self._rows, self._most)
        counts, total = self._rows.setdefault(key, ([0] * (len(self._bounds) + 1), 0.0))
        return key, counts, total

    def snapshot(self) -> list[HistogramRow]:
        """The observations until now, for each set of labels."""
        with self._lock:
            return [
                HistogramRow(dict(key), tuple(itertools.accumulate(counts)), total)
                for key, (counts, total) in self._rows.items()
            ]


def _key(labels: dict[str, str], there: Collection[_Labels], most: int) -> _Labels:
    """The key that `labels` are kept under, where these are `there` already."""
    key = tuple(sorted(labels.items()))
    if key in there or len(there) < most:
        return key
    return tuple((name, OTHER) for name, _ in key)
