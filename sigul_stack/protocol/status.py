"""A daemon's status: one JSON document, written by the daemon, read by `health`.

It names who waits and for how long, and holds no secret. Lists are cut at `MAX_LISTED`, so that a
document stays far smaller than what a socket takes at once; the counts beside them are whole.
Readers pass over keys that they do not know.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ..errors import RemoteProtocolError

T = TypeVar("T")

#: Most servers or workers that a document lists.
MAX_LISTED: Final = 100


@dataclass(frozen=True, slots=True)
class WaitingServer:
    """A signing server's connection that waits at the bridge for a request. Times in seconds."""

    common_name: str
    address: str
    waiting_seconds: float
    handshake_seconds: float


@dataclass(frozen=True, slots=True)
class RequestUnderWay:
    """A request under way: the name in its client's certificate, the user and the operation.

    Those are empty where the request has not told them yet. `seconds` is how long it has been
    there. `request` is its id in the logs (`protocol.hello`), empty as long as there is none.
    """

    common_name: str
    user: str
    op: str
    seconds: float
    request: str = ""


@dataclass(frozen=True, slots=True)
class WatchedLog:
    """A server's signing log, as the bridge has seen it: its name, and how many leaves it has.

    `seconds` is how long ago that was checked, -1 where it never was in the bridge's life.
    `complaint` says what is wrong with it; empty where nothing is.
    """

    common_name: str
    origin: str
    size: int
    seconds: float
    complaint: str


@dataclass(frozen=True, slots=True)
class BridgeStatus:
    """A bridge's status. `started` is ISO 8601, UTC; `totals` are `metrics.BridgeCount`'s."""

    version: str
    pid: int
    started: str
    servers_waiting: int
    servers: tuple[WaitingServer, ...]
    requests_in_flight: int
    totals: Mapping[str, int]
    requests: tuple[RequestUnderWay, ...] = ()
    #: SHA-256 of the files that it has loaded, in hex, by their paths.
    loaded: Mapping[str, str] = field(default_factory=dict)
    #: The signing logs of servers that have one, and how often they are asked, in seconds.
    logs: tuple[WatchedLog, ...] = ()
    log_interval: float = 0.0


@dataclass(frozen=True, slots=True)
class AttachedWorker:
    """A worker that waits at the bridge for a request. Times in seconds."""

    pid: int
    attached_seconds: float
    handshake_seconds: float


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A signing server's status. `started` is ISO 8601, UTC; `totals` are `ServerCount`'s."""

    version: str
    pid: int
    started: str
    workers_attached: int
    #: Workers that try to reach the bridge.
    workers_dialling: int
    workers_busy: int
    workers: tuple[AttachedWorker, ...]
    totals: Mapping[str, int]
    requests: tuple[RequestUnderWay, ...] = ()
    #: SHA-256 of the files that it has loaded, in hex, by their paths.
    loaded: Mapping[str, str] = field(default_factory=dict)
    #: The leaves of its signing log, and when its last checkpoint was made (ISO 8601, UTC); 0 and
    #: empty where it has none, or has not told yet.
    signing_log_size: int = 0
    signing_log_time: str = ""


def encode_status(status: BridgeStatus | ServerStatus) -> bytes:
    """The document as bytes."""
    document = {
        "component": "bridge" if isinstance(status, BridgeStatus) else "server",
        **dataclasses.asdict(status),
    }
    return json.dumps(document).encode() + b"\n"


def decode_status(data: bytes) -> BridgeStatus | ServerStatus:
    """The status in a document. Raises `ProtocolError`."""
    try:
        document = json.loads(data)
        # Daemons of former versions do not tell all of this.
        requests = tuple(_build(RequestUnderWay, item) for item in document.get("requests", ()))
        loaded = {str(path): str(digest) for path, digest in document.get("loaded", {}).items()}
        if document["component"] == "bridge":
            return _build(
                BridgeStatus,
                document,
                servers=tuple(_build(WaitingServer, item) for item in document["servers"]),
                requests=requests,
                loaded=loaded,
                logs=tuple(_build(WatchedLog, item) for item in document.get("logs", ())),
                log_interval=float(document.get("log_interval", 0)),
            )
        return _build(
            ServerStatus,
            document,
            workers=tuple(_build(AttachedWorker, item) for item in document["workers"]),
            requests=requests,
            loaded=loaded,
            signing_log_size=int(document.get("signing_log_size", 0)),
            signing_log_time=str(document.get("signing_log_time", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RemoteProtocolError(
            f"this is no daemon's status ({error!r})",
            "is status-socket another program's socket?",
        ) from None


def encode_ended(count: int) -> bytes:
    """The answer to a command that has ended so many requests."""
    return json.dumps({"ended": count}).encode() + b"\n"


def decode_ended(data: bytes) -> int:
    """The number in such an answer. Raises `ProtocolError`."""
    try:
        count = json.loads(data)["ended"]
        if isinstance(count, int):
            return count
    except (ValueError, KeyError, TypeError):
        pass
    raise RemoteProtocolError(
        "the daemon does not know this command", "it is older than this program: start it again"
    )


def _build(cls: type[T], document: Mapping[str, Any], **given: object) -> T:
    """An instance of `cls`, whose fields have the types that their annotations name."""
    values = dict(given)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        # One with a default is of a later version than the first.
        is_old = item.name not in document and item.default is not dataclasses.MISSING
        if item.name not in given and not is_old:
            value = document[item.name]
            if not isinstance(value, _TYPES[str(item.type)]):
                raise TypeError(f"{item.name} is a {type(value).__name__}")
            values[item.name] = value
    return cls(**values)


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "Mapping[str, int]": (dict,),
}
