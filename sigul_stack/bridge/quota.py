"""Counts the clients and their requests, and holds them to their limits.

Whoever holds a certificate may ask for as much as it likes: what is over the limit waits for one of
its own to end, in the order in which it came, so that the servers are there for others, too.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ..errors import DeadlineExceeded, TransportError
from ..transport.stream import ByteStream, Deadline
from .waiting import WaitingLine

log = logging.getLogger(__name__)


class _Stage(enum.Enum):
    """A stage of a client's visit; one in a later stage is counted in the earlier ones, too."""

    CONNECTED = enum.auto()
    #: The first bytes of a request have come.
    IN_FLIGHT = enum.auto()
    #: The request has, or may have, a server.
    UNDER_WAY = enum.auto()


class RequestQuota:
    """Counts for all threads. At most `max_clients` are connected at once.

    At most `max_per_user` requests are under way for each name in a client's certificate.
    """

    def __init__(self, max_clients: int, max_per_user: int) -> None:
        self._max_clients = max_clients
        self._max_per_user = max_per_user
        #: By stage, and for those under way by the client's name.
        self._counts: Counter[tuple[_Stage, str]] = Counter()
        self._changed = threading.Condition()
        self._lines: dict[str, WaitingLine] = {}
        self._closed = False

    @property
    def connected(self) -> int:
        """Clients that are connected and authenticated."""
        return self._counts[_Stage.CONNECTED, ""]

    @property
    def in_flight(self) -> int:
        """Requests that have begun and are not over."""
        return self._counts[_Stage.IN_FLIGHT, ""]

    def connection(self, client: ByteStream) -> AbstractContextManager[None]:
        """Count a connected client in the block; `TransportError` where it is one too many."""
        return self._counted(_Stage.CONNECTED, admit=lambda: self._check_room(client))

    def request(self) -> AbstractContextManager[None]:
        """Count a request that is in flight in the block."""
        return self._counted(_Stage.IN_FLIGHT)

    def turn(self, client: ByteStream, deadline: Deadline) -> AbstractContextManager[None]:
        """Have one of the client's requests under way in the block, once it is its turn.

        Raises `DeadlineExceeded`, or `TransportError` where the client goes.
        """
        name = client.peer.common_name
        return self._counted(_Stage.UNDER_WAY, name, lambda: self._wait(name, client, deadline))

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def _counted(
        self, stage: _Stage, name: str = "", admit: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Count one more in the block, once `admit` has let it in or raised."""
        with self._changed:
            admit()
            self._counts[stage, name] += 1
        try:
            yield
        finally:
            with self._changed:
                self._counts[stage, name] -= 1
                if not self._counts[stage, name]:
                    del self._counts[stage, name]
                self._changed.notify_all()

    def _check_room(self, client: ByteStream) -> None:
        if self.connected >= self._max_clients:
            raise TransportError(
                f"{self._max_clients} clients are connected already (max-clients);"
                f" {client.peer.address} is sent away"
            )

    def _wait(self, name: str, client: ByteStream, deadline: Deadline) -> None:
        line = self._lines.setdefault(name, WaitingLine(self._changed))
        if line or self._is_full(name):
            log.info("Waiting for another request of '%s' to end (max-requests-per-user)", name)
        try:
            line.wait(lambda: self._attempt(name), client, deadline, "its turn")
        except DeadlineExceeded:
            raise DeadlineExceeded(
                f"'{name}' has {self._max_per_user} requests under way, which is all that it may"
                " (max-requests-per-user), and none of them ended in time"
            ) from None
        finally:
            if not line:
                del self._lines[name]

    def _attempt(self, name: str) -> bool | None:
        if self._closed:
            raise TransportError("the bridge is ending")
        return None if self._is_full(name) else True

    def _is_full(self, name: str) -> bool:
        return self._counts[_Stage.UNDER_WAY, name] >= self._max_per_user
