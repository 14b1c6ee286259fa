"""What a worker tells its supervisor through their pipe: messages of one size, a byte and a number.

Each is written at once and far shorter than what a pipe takes whole, so a reader never sees half a
message. The end of the pipe is the end of the worker.
"""

from __future__ import annotations

import contextlib
import enum
import os
import struct
from dataclasses import dataclass
from typing import Final

_FORM: Final = struct.Struct("!cd")


class Event(enum.Enum):
    """What has happened to the worker."""

    #: Its handshake with the bridge is done, in so many seconds; it waits for a request.
    ATTACHED = b"A"
    #: The waiting connection is over; it dials again.
    DETACHED = b"D"
    #: A request has come.
    BUSY = b"B"


@dataclass(frozen=True, slots=True)
class News:
    """One message. `seconds` belongs to ATTACHED."""

    event: Event
    seconds: float = 0.0


class Reporter:
    """A worker's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def attached(self, handshake_seconds: float) -> None:
        """The worker waits at the bridge."""
        self._tell(Event.ATTACHED, handshake_seconds)

    def detached(self) -> None:
        """The worker waits no longer, though no request has come."""
        self._tell(Event.DETACHED)

    def busy(self) -> None:
        """A request has come."""
        self._tell(Event.BUSY)

    def _tell(self, event: Event, seconds: float = 0.0) -> None:
        # A request is served to its end even where the supervisor has not lived to hear of it.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._descriptor, _FORM.pack(event.value, seconds))


def read_news(descriptor: int) -> News | None:
    """The next message; None once the worker has ended. Waits where there is none yet."""
    data = os.read(descriptor, _FORM.size)
    if len(data) < _FORM.size:
        return None
    event, seconds = _FORM.unpack(data)
    return News(Event(event), seconds)
