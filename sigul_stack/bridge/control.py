"""Events and commands between the bridge's parent and a serving process (`system.processes`)."""

from __future__ import annotations

import enum
import logging
import os

from ..system.processes import ParentPipes

log = logging.getLogger(__name__)


class BridgeEvent(bytes, enum.Enum):
    """An event of a serving process."""

    #: It can serve.
    READY = b"R"
    #: It takes no more servers, so that the next process may.
    HANDED_OVER = b"H"


class BridgeCommand(bytes, enum.Enum):
    """A command to a serving process."""

    #: From now on, accept servers as well as clients.
    TAKE_SERVERS = b"S"
    #: Another process serves from now on: accept no more clients, let requests finish, end.
    HAND_OVER = b"O"
    #: The bridge is to end: accept nothing, let requests finish, end.
    END = b"E"


def receive_command(parent: ParentPipes) -> BridgeCommand:
    """Wait for the next command. A process whose parent has ended ends here: nobody else would."""
    content = parent.command()
    if not content:
        log.error("The bridge's parent process has ended; so does process %d", os.getpid())
        logging.shutdown()
        os._exit(1)
    return BridgeCommand(content)
