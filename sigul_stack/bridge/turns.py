"""How many requests of one client's certificate are under way at once.

Whoever holds a certificate may ask for as much as it likes: what is over the limit waits for one of
its own to end, in the order in which it came, so that the servers are there for others, too.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator

from ..errors import DeadlineExceeded, TransportError
from ..transport.stream import ByteStream, Deadline
from .waiting import CLIENT_CHECK_SECONDS, has_gone

log = logging.getLogger(__name__)


class Turns:
    """The requests under way, at most `limit` for each name in a client's certificate."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way: Counter[str] = Counter()
        self._queues: dict[str, deque[object]] = {}
        self._changed = threading.Condition()
        self._closed = False

    @contextlib.contextmanager
    def turn(self, client: ByteStream, deadline: Deadline) -> Iterator[None]:
        """Have one of the client's requests under way in the block, once it is its turn.

        Raises `DeadlineExceeded`, or `TransportError` where the client goes.
        """
        name = client.peer.common_name
        with self._changed:
            self._wait(name, client, deadline)
            self._under_way[name] += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way[name] -= 1
                if not self._under_way[name]:
                    del self._under_way[name]
                self._changed.notify_all()

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait(self, name: str, client: ByteStream, deadline: Deadline) -> None:
        ticket = object()
        queue = self._queues.setdefault(name, deque())
        queue.append(ticket)
        try:
            if not self._is_next(name, ticket):
                log.info("Waiting for another request of '%s' to end (max-requests-per-user)", name)
            while not self._is_next(name, ticket):
                if self._closed:
                    raise TransportError("the bridge is ending")
                if has_gone(client):
                    raise TransportError("the client left while it waited for its turn")
                self._changed.wait(min(deadline.remaining(), CLIENT_CHECK_SECONDS))
        except DeadlineExceeded:
            raise DeadlineExceeded(
                f"'{name}' has {self._limit} requests under way, which is all that it may"
                " (max-requests-per-user), and none of them ended in time"
            ) from None
        finally:
            queue.remove(ticket)
            if not queue:
                del self._queues[name]
            self._changed.notify_all()

    def _is_next(self, name: str, ticket: object) -> bool:
        return self._queues[name][0] is ticket and self._under_way[name] < self._limit
