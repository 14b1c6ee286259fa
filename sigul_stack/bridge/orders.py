"""What the bridge's parent tells its children, and they tell it: single bytes through two pipes.

Invariant: whoever's pipe ends knows that the other process has ended. A child does not outlive its
parent: nobody would end it.
"""

from __future__ import annotations

import enum
import logging
import os
from typing import Final

log = logging.getLogger(__name__)

#: A child's news: it can serve; it takes no more servers, so that the next child may; it cannot
#: serve, and the rest says why.
READY: Final = b"R"
HANDED_OVER: Final = b"H"
FAILED: Final = b"!"


class Order(enum.Enum):
    """What a child is told."""

    #: From now on, accept servers as well as clients.
    TAKE_SERVERS = b"S"
    #: Another child serves from now on: accept no more clients, let requests finish, end.
    HAND_OVER = b"O"
    #: The bridge is to end: accept nothing, let requests finish, end.
    END = b"E"


class Orders:
    """A child's ends of the two pipes."""

    def __init__(self, orders: int, news: int) -> None:
        self._orders = orders
        self._news = news

    def fileno(self) -> int:
        """Readable when there is an order."""
        return self._orders

    def take(self) -> Order:
        """The next order. Where the parent has ended, this process ends at once."""
        content = os.read(self._orders, 1)
        if not content:
            log.error("The bridge's parent process has ended; so does process %d", os.getpid())
            logging.shutdown()
            os._exit(1)
        return Order(content)

    def tell(self, news: bytes) -> None:
        """Tell the parent, which may have ended."""
        try:
            os.write(self._news, news)
        except BrokenPipeError:
            return
