"""Counting what happens in a daemon: plain numbers that any thread may change. No I/O in here.

A number only ever grows, from 0 at the daemon's start. What goes up and down is counted where it is
limited: by a bridge's `Budget` and pool, by a server's supervisor.
"""

from __future__ import annotations

import enum
import threading
from typing import Generic, TypeVar


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
