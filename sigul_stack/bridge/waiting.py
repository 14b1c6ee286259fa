"""The signing servers that wait at the bridge, and the requests that wait for one.

Invariant: only a live, authenticated server is handed out. A waiting server has nothing to say, so
one whose stream has input has gone; it is looked for all the time and once more when it is handed
out. Requests are served in the order in which they began to wait.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..errors import DeadlineExceeded, TransportError
from ..metrics import BridgeCount, Counters
from ..transport.stream import ByteStream, Deadline, readable

log = logging.getLogger(__name__)

#: Pause between looks whether the client of a waiting request is still there, in seconds.
CLIENT_CHECK_SECONDS = 1.0

T = TypeVar("T")


class WaitingLine:
    """Requests that wait for the same thing, in the order in which they came.

    `changed` is the condition of what they wait for; it is held at each call.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._tickets: deque[object] = deque()

    def __len__(self) -> int:
        return len(self._tickets)

    def wait(
        self, attempt: Callable[[], T | None], client: ByteStream, deadline: Deadline, what: str
    ) -> T:
        """Wait for the request of `client` to be the first and `attempt` to give something.

        `what` is that, in words. Raises `DeadlineExceeded`, `TransportError` where the client goes,
        and what `attempt` raises.
        """
        ticket = object()
        self._tickets.append(ticket)
        try:
            while True:
                if self._tickets[0] is ticket and (found := attempt()) is not None:
                    return found
                if client.has_gone():
                    raise TransportError(f"the client left while it waited for {what}")
                self._changed.wait(min(deadline.remaining(), CLIENT_CHECK_SECONDS))
        finally:
            self._tickets.remove(ticket)
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A waiting server's time of coming (`time.monotonic`), and its handshake's in seconds."""

    at: float
    handshake_seconds: float


class WaitingServers:
    """The pool. `limit` is the most connections that may wait in it."""

    def __init__(self, limit: int, counters: Counters[BridgeCount]) -> None:
        self._limit = limit
        self._counters = counters
        #: In the order of coming.
        self._servers: dict[ByteStream, Arrival] = {}
        self._changed = threading.Condition()
        self._line = WaitingLine(self._changed)
        self._closed = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._watcher = threading.Thread(target=self._watch, name="waiting-servers", daemon=True)
        self._watcher.start()

    def __len__(self) -> int:
        return len(self._servers)

    def waiting(self) -> list[tuple[ByteStream, Arrival]]:
        """The servers that wait at this moment, in the order of coming."""
        with self._changed:
            return list(self._servers.items())

    def add(self, server: ByteStream, handshake_seconds: float = 0.0) -> None:
        """Let `server` wait for a client. Raises `TransportError` where the pool is full."""
        with self._changed:
            self._check_open()
            if len(self._servers) >= self._limit:
                raise TransportError(
                    f"{self._limit} server connections are waiting already: raise"
                    " max-waiting-servers, or lower the servers' workers"
                )
            self._servers[server] = Arrival(time.monotonic(), handshake_seconds)
            self._changed.notify_all()
        self._counters.add(BridgeCount.SERVERS_ATTACHED)
        self._wake()

    def take(self, deadline: Deadline, client: ByteStream) -> ByteStream:
        """A live server for `client`. Raises `DeadlineExceeded`, or `TransportError` if it goes."""
        with self._changed:
            try:
                return self._line.wait(self._pop_live, client, deadline, "a server")
            except DeadlineExceeded:
                raise DeadlineExceeded(
                    "no signing server became free in time: is one running and connected to this"
                    " bridge's server port?"
                ) from None
            finally:
                self._wake()

    def trim(self, surplus: int) -> None:
        """Close `surplus` servers in order, the last to come first, so that they dial again."""
        with self._changed:
            closed = [self._servers.popitem()[0] for _ in range(min(surplus, len(self._servers)))]
        self._wake()
        for server in closed:
            server.close()

    def dismiss(self, theirs: Callable[[ByteStream], bool]) -> int:
        """End the connections of waiting servers that are `theirs`; how many they were."""
        with self._changed:
            dismissed = [server for server in self._servers if theirs(server)]
            for server in dismissed:
                del self._servers[server]
        self._wake()
        for server in dismissed:
            server.discard()
        return len(dismissed)

    def close(self) -> None:
        """End all waiting; servers are closed in order, so that they dial again later."""
        with self._changed:
            self._closed = True
            servers = list(self._servers)
            self._servers.clear()
            self._changed.notify_all()
        self._wake()
        self._watcher.join()
        self._wake_read.close()
        self._wake_write.close()
        for server in servers:
            server.close()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError("the bridge is ending")

    def _pop_live(self) -> ByteStream | None:
        self._check_open()
        while self._servers:
            server = next(iter(self._servers))
            del self._servers[server]
            if not server.has_input():
                return server
            self._drop(server)
        return None

    def _drop(self, server: ByteStream) -> None:
        self._counters.add(BridgeCount.SERVERS_DROPPED)
        log.warning(
            "Waiting server %s (%s) has gone; dropped",
            server.peer.common_name,
            server.peer.address,
        )
        server.discard()

    def _wake(self) -> None:
        # Where this fails, the watcher has the last one still to read, or has ended.
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                by_descriptor = {server.fileno(): server for server in self._servers}
            for descriptor in readable((self._wake_read.fileno(), *by_descriptor)):
                if descriptor == self._wake_read.fileno():
                    self._wake_read.recv(4096)
                    continue
                with self._changed:
                    server = by_descriptor[descriptor]
                    # It may have been handed out since: then its data is a request's.
                    if self._servers.pop(server, None) is not None:
                        self._drop(server)
