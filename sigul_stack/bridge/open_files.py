"""The number of peers that a bridge takes, fitted to the files that its process may open.

Without that, the bridge would take peers until it can open nothing, its own certificate database
neither, and fail those that it has.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Final

from ..config.bridge import BridgeSettings
from ..system.open_files import CURE, USUAL, raise_limit

log = logging.getLogger(__name__)

#: Open files of a peer: its socket, and NSS's duplicate of that.
_PEER: Final = 2
#: Of a client with its request under way: its own and its server's, an RPM and its source in Koji.
_CLIENT: Final = 2 * _PEER + 2
#: The ports that peers come to, each with its own handshakes.
_PORTS: Final = 2
#: At a management address: its connections, and the sockets and the poll of who serves it.
_MANAGEMENT: Final = 20


def fitted(settings: BridgeSettings) -> BridgeSettings:
    """`settings` with no more peers than files may be opened for; a warning where that is fewer."""
    wanted = USUAL + _files(settings)
    limit = raise_limit(wanted)
    if limit >= wanted:
        return settings
    share = max(0, limit - USUAL) / _files(settings)

    def part(count: int) -> int:
        return max(1, int(count * share))

    less = dataclasses.replace(
        settings,
        max_clients=part(settings.max_clients),
        max_handshakes=part(settings.max_handshakes),
        max_waiting_servers=part(settings.max_waiting_servers),
    )
    log.warning(
        "This process may open %d files, and needs %d for max-clients %d: it takes %d clients,"
        " %d waiting servers, and %d peers of a port in their handshake; %s",
        limit, wanted, settings.max_clients, less.max_clients, less.max_waiting_servers,
        less.max_handshakes, CURE,
    )  # fmt: skip
    return less


def _files(settings: BridgeSettings) -> int:
    return (
        _CLIENT * settings.max_clients
        + _PEER * settings.max_waiting_servers
        + _PORTS * _PEER * settings.max_handshakes
        + (_MANAGEMENT if settings.management.listen is not None else 0)
    )
