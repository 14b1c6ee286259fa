"""The view of a bridge: what its page, `sigul-stack status` and `/status.json` show, as a document.

Made by the bridge at one moment (`bridge.sight`), read by whoever shows it. JSON, every value's
unit in its name, times ISO 8601 in UTC; no secret, and nothing that the status socket does not
tell as well. Readers pass over what they do not know.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ..errors import RemoteProtocolError, shortened
from ..protocol.status import WaitingServer, WatchedLog

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CertificateView:
    """A certificate: of the bridge itself, of a waiting server, or of a client of late.

    `role` is "bridge", "server" or "client". `days_left` is below 0 where it has ended.
    """

    role: str
    common_name: str
    not_after: str
    days_left: float


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request under way, or one of the last that are over.

    `state` is that of `sigul_bridge_connections` while it is under way, else its result
    (`sigul_bridge_requests_total`). `id` is empty where no inner session was begun, `op` is empty
    and `version` -1 where its header has not told them. Its times count from when its header was
    whole.
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
    """A thing's times over the last hour: a point for each minute in which it happened.

    A point is (how many minutes ago, median seconds, longest seconds, how often); the oldest first.
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
    """A bridge's state at `now`.

    `connections` are counts by state (`sigul_bridge_connections`), `totals` those of
    `metrics.BridgeCount`, `budgets` parts of limits in use (`sigul_bridge_budget_used_ratio`).
    Lists have their first `MAX_LISTED` items, `recent` the newest first.
    """

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


#: The lists of a view that may be cut, and what their items are.
_LISTS: Final[Mapping[str, type[Any]]] = {
    "recent": RequestView,
    "under_way": RequestView,
    "servers": WaitingServer,
    "certificates": CertificateView,
    "logs": WatchedLog,
    "conditions": Condition,
}


def encode_view(view: BridgeView, limit: int | None = None) -> bytes:
    """The document as bytes; `limit`: in at most so many, for which lists lose their last items."""
    document = dataclasses.asdict(view)
    data = _encode(document)
    while limit is not None and len(data) > limit:
        sizes = {name: len(_encode(document[name])) for name in _LISTS if document[name]}
        if not sizes:
            break
        longest = max(sizes, key=lambda name: sizes[name])
        document[longest] = document[longest][: len(document[longest]) // 2]
        data = _encode(document)
    return data


def _encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def decode_view(data: bytes) -> BridgeView:
    """The view in a document. Raises `ProtocolError`."""
    try:
        document = json.loads(data)
        lists = {
            name: tuple(_build(cls, item) for item in document[name])
            for name, cls in _LISTS.items()
        }
        latency = tuple(
            LatencySeries(
                str(series["name"]),
                tuple(
                    (int(ago), float(median), float(longest), int(count))
                    for ago, median, longest, count, *_ in series["points"]
                ),
            )
            for series in document["latency"]
        )
        return _build(
            BridgeView,
            document,
            **lists,
            latency=latency,
            connections={str(name): int(count) for name, count in document["connections"].items()},
            totals={str(name): int(count) for name, count in document["totals"].items()},
            budgets={str(name): float(used) for name, used in document["budgets"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RemoteProtocolError(
            f"this is no view of a bridge ({shortened(repr(error))})",
            "is the bridge older than this program, or the address another program's?",
        ) from None


def _build(cls: type[T], document: Mapping[str, Any], **given: object) -> T:
    """An instance of `cls`; what is not given is text or a number, as its annotations say."""
    values = dict(given)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if item.name not in given:
            value = document[item.name]
            wanted = _TYPES[str(item.type)]
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise TypeError(f"{item.name} is a {type(value).__name__}")
            values[item.name] = value
    return cls(**values)


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
}
