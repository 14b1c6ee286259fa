"""The signing servers that wait at the bridge, and the requests that wait for one.

Invariant: only a live, authenticated server is handed out. A waiting server has nothing to say, so
one whose socket becomes readable has gone; it is looked for all the time and once more when it is
handed out. Requests are served in the order in which they began to wait.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from dataclasses import dataclass

from ..errors import DeadlineExceeded, TransportError
from ..metrics import BridgeCount, Counters
from ..transport.stream import ByteStream, Deadline

log = logging.getLogger(__name__)

#: How often a waiting request looks whether its client is still there, in seconds.
CLIENT_CHECK_SECONDS = 1.0
#: Pauses between looks whether sent data has been acknowledged, in seconds.
_FIRST_ACKNOWLEDGE_PAUSE = 0.0001
_LONGEST_ACKNOWLEDGE_PAUSE = 0.005


def is_silent(stream: ByteStream) -> bool:
    """Whether a waiting server has neither spoken nor gone, which would be the end of it."""
    if stream.pending():
        return False
    descriptor = stream.fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
    return not poll.poll(0)


def has_gone(stream: ByteStream) -> bool:
    """Whether the peer has closed its side, though it may have sent data before."""
    descriptor = stream.fileno()
    if descriptor < 0:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))


def has_received(stream: ByteStream, seconds: float) -> bool:
    """Whether the peer's machine acknowledges within `seconds` all that has been written to it.

    A machine that vanished without a word, by a power cut or behind a firewall that forgot the
    connection, looks like one that waits until something is sent to it.
    """
    descriptor = stream.fileno()
    if descriptor < 0:
        return True
    with socket.socket(fileno=os.dup(descriptor)) as tcp:
        if tcp.family == socket.AF_UNIX:
            return True
        end = time.monotonic() + seconds
        pause = _FIRST_ACKNOWLEDGE_PAUSE
        while struct.unpack("i", fcntl.ioctl(tcp, termios.TIOCOUTQ, b"\0" * 4))[0]:
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_ACKNOWLEDGE_PAUSE)
    return True


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a waiting server came (`time.monotonic`), and its handshake's length in seconds."""

    at: float
    handshake_seconds: float


class WaitingServers:
    """The pool. `limit` is the most connections that may wait in it."""

    def __init__(self, limit: int, counters: Counters[BridgeCount]) -> None:
        self._limit = limit
        self._counters = counters
        self._servers: deque[ByteStream] = deque()
        self._arrivals: dict[ByteStream, Arrival] = {}
        self._tickets: deque[object] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._watcher = threading.Thread(target=self._watch, name="waiting-servers", daemon=True)
        self._watcher.start()

    def __len__(self) -> int:
        return len(self._servers)

    def waiting(self) -> list[tuple[ByteStream, Arrival]]:
        """Who waits at this moment, in the order of coming."""
        with self._changed:
            return [(server, self._arrivals[server]) for server in self._servers]

    def add(self, server: ByteStream, handshake_seconds: float = 0.0) -> None:
        """Let `server` wait for a client. Raises `TransportError` where the pool is full."""
        with self._changed:
            if self._closed:
                raise TransportError("the bridge is ending")
            if len(self._servers) >= self._limit:
                raise TransportError(
                    f"{self._limit} server connections are waiting already: raise"
                    " max-waiting-servers, or lower the servers' workers"
                )
            self._servers.append(server)
            self._arrivals[server] = Arrival(time.monotonic(), handshake_seconds)
            self._changed.notify_all()
        self._counters.add(BridgeCount.SERVERS_ATTACHED)
        self._wake()

    def take(self, deadline: Deadline, client: ByteStream) -> ByteStream:
        """A live server for `client`. Raises `DeadlineExceeded`, or `TransportError` if it goes."""
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
            try:
                while True:
                    if self._closed:
                        raise TransportError("the bridge is ending")
                    if self._tickets[0] is ticket and (server := self._pop_live()) is not None:
                        return server
                    if has_gone(client):
                        raise TransportError("the client left while it waited for a server")
                    self._changed.wait(min(deadline.remaining(), CLIENT_CHECK_SECONDS))
            except DeadlineExceeded:
                raise DeadlineExceeded(
                    "no signing server became free in time: is one running and connected to this"
                    " bridge's server port?"
                ) from None
            finally:
                self._tickets.remove(ticket)
                self._changed.notify_all()
                self._wake()

    def trim(self, surplus: int) -> None:
        """Close `surplus` servers in order, so that they dial again."""
        with self._changed:
            closed = [self._servers.pop() for _ in range(min(surplus, len(self._servers)))]
        self._wake()
        for server in closed:
            server.close()

    def close(self) -> None:
        """End all waiting; servers are closed in order, so that they dial again later."""
        with self._changed:
            self._closed = True
            servers = list(self._servers)
            self._servers.clear()
            self._arrivals.clear()
            self._changed.notify_all()
        self._wake()
        self._watcher.join()
        self._wake_read.close()
        self._wake_write.close()
        for server in servers:
            server.close()

    def _pop_live(self) -> ByteStream | None:
        while self._servers:
            server = self._servers.popleft()
            del self._arrivals[server]
            if is_silent(server):
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
        try:
            self._wake_write.send(b"\0")
        except OSError:
            return  # the watcher has not read the last one yet and will look at all, or has ended

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                by_descriptor = {server.fileno(): server for server in self._servers}
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            for descriptor in by_descriptor:
                if descriptor >= 0:
                    poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
            for descriptor, _events in poll.poll():
                if descriptor == self._wake_read.fileno():
                    self._wake_read.recv(4096)
                    continue
                with self._changed:
                    server = by_descriptor[descriptor]
                    # It may have been handed out since: then its data is a request's.
                    if server in self._servers:
                        self._servers.remove(server)
                        del self._arrivals[server]
                        self._drop(server)
