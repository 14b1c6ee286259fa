"""Events and commands between a worker and its supervisor (`system.processes`)."""

from __future__ import annotations

import enum
import math
import struct
from datetime import UTC, datetime
from typing import Final

from ..metrics import ServerCount
from ..protocol.hello import is_request_id
from ..system.pipes import BadEvent, require


class WorkerEvent(bytes, enum.Enum):
    """An event of a worker, or of a process that looks at certificates again."""

    #: Its handshake with the bridge is done; it waits for a request. Body: `HANDSHAKE_SECONDS`.
    ATTACHED = b"A"
    #: The waiting connection is over; it dials again.
    DETACHED = b"D"
    #: A request has come.
    BUSY = b"B"
    #: Something to count: the body names one of `metrics.ServerCount`.
    COUNTED = b"N"
    #: The client's certificate in DER, or its next part; it is whole where CLIENT comes.
    CERTIFICATE = b"C"
    #: The inner session has told whose request it is. Body: `encode_client`.
    CLIENT = b"U"
    #: Its request is over. Body: `phases.Phases.encode`.
    MEASURED = b"M"
    #: A certificate is good. Body: its SHA-256.
    GOOD = b"G"
    #: Of the signing log's writer: how large the log is by now. Body: `encode_logged`.
    LOGGED = b"L"


class WorkerCommand(bytes, enum.Enum):
    """A command to a worker that serves a request."""

    #: Newer certificates are in use than it has opened: go on once the client's is found good.
    STALE = b"S"
    #: The client's certificate is good.
    GOOD = b"G"
    #: End the request: the client's certificate is no longer good.
    DISTRUSTED = b"D"
    #: End the request: somebody at the server wants that (`sigul-stack requests end`).
    END = b"E"


#: The length of a handshake, in seconds.
HANDSHAKE_SECONDS: Final = struct.Struct("!d")
_LOGGED: Final = struct.Struct("!Qd")
#: Most bytes of each name that the supervisor is told.
_NAME_BYTES: Final = 255
#: The version of the protocol whose requests a number counts.
VERSION_OF: Final = {ServerCount.REQUESTS_OF_0: "0", ServerCount.REQUESTS_OF_1: "1"}
#: What a worker may count; the supervisor counts all else itself.
_COUNTS: Final = {
    item.encode(): item
    for item in (
        *VERSION_OF,
        *(ServerCount.SPOOL_REFUSALS, ServerCount.WRONG_SECRETS, ServerCount.DELAYED),
    )
}


def decode_handshake(body: bytes) -> float:
    """The seconds in the body of `ATTACHED`. Raises `BadEvent`."""
    require(len(body) == HANDSHAKE_SECONDS.size, "its handshake's length is no number")
    (seconds,) = HANDSHAKE_SECONDS.unpack(body)
    require(math.isfinite(seconds) and seconds >= 0, "its handshake's length is none")
    return float(seconds)


def decode_count(body: bytes) -> ServerCount:
    """The number that the body of `COUNTED` names. Raises `BadEvent`."""
    require(body in _COUNTS, "it counts what is not a worker's to count")
    return _COUNTS[body]


def encode_logged(size: int, when: float) -> bytes:
    """The number of the log's leaves, and the time of its last checkpoint (s since 1970)."""
    return _LOGGED.pack(size, when)


def decode_logged(body: bytes) -> tuple[int, datetime]:
    """The size and time that `encode_logged` was given. Raises `BadEvent`."""
    require(len(body) == _LOGGED.size, "the log's size is no number")
    size, when = _LOGGED.unpack(body)
    try:
        return size, datetime.fromtimestamp(when, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadEvent("the log's time is none") from None


def encode_client(common_name: str, user: str, op: str, request: str = "") -> bytes:
    """The name in a client's certificate, the user that it speaks for, the operation, the id."""
    return b"\0".join(
        name.replace("\0", "?").encode("utf-8", "replace")[:_NAME_BYTES]
        for name in (common_name, user, op, request)
    )


def decode_client(body: bytes) -> tuple[str, str, str, str]:
    """The names that `encode_client` was given, as far as they were not cut. Raises `BadEvent`."""
    names = body.split(b"\0")
    require(len(names) == 4, "it tells its client in another number of names")
    require(max(map(len, names)) <= _NAME_BYTES, "it tells a longer name than there may be")
    common_name, user, op, request = (name.decode("utf-8", "replace") for name in names)
    require(not request or is_request_id(request), "it tells an id that is none")
    return common_name, user, op, request
