"""The view of a bridge: what its page, `sigul-stack status` and `/status.json` show, as a document.

Made by the bridge at one moment (`bridge.measures`), read by whoever shows it. JSON, every value's
unit in its name, times ISO 8601 in UTC; no secret, and nothing that the status socket does not
tell as well. Readers pass over what they do not know.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.status import WaitingServer, WatchedLog


@dataclass(frozen=True, slots=True)
class CertificateView:
    """A certificate: of the bridge itself, of a waiting server, or of a client that is here."""

    role: str
    common_name: str
    not_after: str
    days_left: float


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request under way, or one of the last that are over.

    `state` is that of `sigul_bridge_connections` while it is under way, else its result
    (`sigul_bridge_requests_total`). `id` is empty where no inner session was begun.
    """

    id: str
    connection: str
    common_name: str
    op: str
    version: int
    state: str
    began: str
    queue_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class LatencySeries:
    """What one thing took over the last hour: a point for each minute in which it happened.

    A point is (how many minutes ago, median seconds, longest seconds, how often).
    """

    name: str
    points: tuple[tuple[int, float, float, int], ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that a person should see to, by the alert's name (docs/observe.md)."""

    name: str
    text: str
    cure: str
    since: str


@dataclass(frozen=True, slots=True)
class BridgeView:
    """A bridge's state at `now`."""

    version: str
    pid: int
    started: str
    now: str
    connections: dict[str, int]
    totals: dict[str, int]
    servers: tuple[WaitingServer, ...]
    certificates: tuple[CertificateView, ...]
    under_way: tuple[RequestView, ...]
    recent: tuple[RequestView, ...]
    latency: tuple[LatencySeries, ...]
    budgets: dict[str, float]
    conditions: tuple[Condition, ...]
    logs: tuple[WatchedLog, ...]
    log_interval_seconds: float
