"""The status of a bridge, made of what it knows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime

from .. import __version__
from ..protocol.status import MAX_LISTED, BridgeStatus, WaitingServer
from ..transport.stream import ByteStream
from .waiting import Arrival


def describe(
    waiting: Sequence[tuple[ByteStream, Arrival]],
    in_flight: int,
    totals: Mapping[str, int],
    started: datetime,
    now: float,
) -> BridgeStatus:
    """The status at `now` (`time.monotonic`)."""
    return BridgeStatus(
        version=__version__,
        pid=os.getpid(),
        started=started.isoformat(timespec="seconds"),
        servers_waiting=len(waiting),
        servers=tuple(
            WaitingServer(
                server.peer.common_name,
                server.peer.address,
                round(now - arrival.at, 3),
                round(arrival.handshake_seconds, 6),
            )
            for server, arrival in waiting[:MAX_LISTED]
        ),
        requests_in_flight=in_flight,
        totals=totals,
    )
