"""Events and commands between the bridge's parent and a serving process (`system.processes`)."""

from __future__ import annotations

import enum
import logging
import os
from typing import Final

from ..logevents import tell
from ..system.pipes import ParentPipes
from .log_events import BridgeLog

log = logging.getLogger(__name__)


class BridgeEvent(bytes, enum.Enum):
    """An event of a serving process."""

    #: It can serve.
    READY = b"R"
    #: It takes no more servers, so that the next process may.
    HANDED_OVER = b"H"
    #: A part of a certificate in DER, of a peer that is here; WHOLE follows the last one.
    CERTIFICATE = b"C"
    WHOLE = b"W"
    #: A certificate is good: from a process that looks at them again. Body: its SHA-256.
    GOOD = b"G"
    #: Its loop goes round: from the one that serves, every `BEAT_SECONDS`.
    BEAT = b"B"


class BridgeCommand(bytes, enum.Enum):
    """A command to a serving process."""

    #: From now on, accept servers as well as clients.
    TAKE_SERVERS = b"S"
    #: Another process serves from now on: accept no more clients, let requests finish, end.
    HAND_OVER = b"O"
    #: The bridge is to end: accept nothing, let requests finish, end.
    END = b"E"
    #: A certificate is no longer good: end what its holder has here. Its SHA-256 follows.
    DISTRUST = b"D"


#: Seconds between two `BridgeEvent.BEAT`s, where the loop has nothing else to do meanwhile.
BEAT_SECONDS: Final = 5.0

#: Bytes of the SHA-256 that follows `BridgeCommand.DISTRUST`.
DIGEST_BYTES: Final = 32


def receive_command(parent: ParentPipes) -> BridgeCommand:
    """Wait for the next command. A process whose parent has ended ends here: nobody else would."""
    content = parent.command()
    if not content:
        tell(log, BridgeLog.PARENT_ENDED, process=os.getpid())
        logging.shutdown()
        os._exit(1)
    return BridgeCommand(content)


def receive_digest(parent: ParentPipes) -> bytes:
    """The SHA-256 behind a `DISTRUST` that was received, which came in one piece with it."""
    return os.read(parent.fileno(), DIGEST_BYTES)
