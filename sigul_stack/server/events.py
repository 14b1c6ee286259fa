"""The events that a worker sends its supervisor (`system.processes`)."""

from __future__ import annotations

import enum
import struct
from typing import Final


class WorkerEvent(bytes, enum.Enum):
    """An event of a worker."""

    #: Its handshake with the bridge is done; it waits for a request. Body: `HANDSHAKE_SECONDS`.
    ATTACHED = b"A"
    #: The waiting connection is over; it dials again.
    DETACHED = b"D"
    #: A request has come.
    BUSY = b"B"
    #: A request was refused room in the spool.
    SPOOL_REFUSED = b"S"


#: The length of a handshake, in seconds.
HANDSHAKE_SECONDS: Final = struct.Struct("!d")
