"""The signing servers that wait at the bridge, and the requests that wait for one.

Invariant: only a live, authenticated server is handed out. A waiting server has nothing to say, so
one whose stream has input has gone; it is looked for all the time and once more when it is handed
out. None is handed out late in the hour after which servers of 1.3 and 1.4 end, where another waits
(docs/decisions/0047). Of the requests that wait, that of the name with the fewest servers comes
first, and the last servers are left to names that have none: nobody who waits for one does so
behind another's dozen.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import DeadlineExceeded, PeerClosed, TransportError, as_word
from ..logcontext import LogContext, about, current
from ..metrics import BridgeCount, Counters
from ..transport.stream import ByteStream, Deadline, readable

log = logging.getLogger(__name__)

#: Pause between looks whether the client of a waiting request is still there, in seconds.
CLIENT_CHECK_SECONDS = 1.0

#: How long a server may have waited to be handed out in its turn, in seconds. A child of 1.3 and
#: 1.4 ends an hour after it was forked, in the middle of a request if need be.
YOUNG_SECONDS = 1800.0

T = TypeVar("T")


class NoServer(DeadlineExceeded):
    """No signing server was free for a request in time."""


class WaitingLine:
    """Requests that wait for the same thing: in order for each name, and fair between the names.

    `changed` is the condition of what they wait for; it is held at each call. `rank` tells how much
    a client's name has of it already: who has least comes first, of those the one that waits
    longest. None: the name may have no more just now. It may raise, which ends the waiting. Where
    there is no `rank`, no name waits for another.
    """

    def __init__(
        self, changed: threading.Condition, rank: Callable[[str], int | None] | None = None
    ) -> None:
        self._changed = changed
        self._rank = rank
        self._numbers = itertools.count()
        self._tickets: dict[str, deque[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._tickets.values()))

    def count(self, name: str) -> int:
        """The requests of `name` that wait."""
        return len(self._tickets.get(name, ()))

    def wait(
        self, attempt: Callable[[], T | None], client: ByteStream, deadline: Deadline, what: str
    ) -> T:
        """Wait for the request of `client` to be the next and `attempt` to give something.

        `what` is that, in words. Raises `DeadlineExceeded`, `PeerClosed` where the client goes, and
        what `attempt` raises.
        """
        name = client.peer.common_name
        ticket = next(self._numbers)
        self._tickets.setdefault(name, deque()).append(ticket)
        try:
            while True:
                if self._is_next(name, ticket) and (found := attempt()) is not None:
                    return found
                if client.has_gone():
                    raise PeerClosed(f"the client left while it waited for {what}")
                self._changed.wait(min(deadline.remaining(), CLIENT_CHECK_SECONDS))
        finally:
            self._tickets[name].remove(ticket)
            if not self._tickets[name]:
                del self._tickets[name]
            self._changed.notify_all()

    def _is_next(self, name: str, ticket: int) -> bool:
        if self._tickets[name][0] != ticket:
            return False
        if self._rank is None:
            return True
        mine = self._rank(name)
        if mine is None:
            return False
        for other, tickets in self._tickets.items():
            rank = mine if other == name else self._rank(other)
            if rank is not None and (rank, tickets[0]) < (mine, ticket):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Arrival:
    """A waiting server's time of coming (`time.monotonic`), and its handshake's in seconds."""

    at: float
    handshake_seconds: float
    #: What the log's lines about its connection are about.
    context: LogContext | None = field(default_factory=current)


class WaitingServers:
    """The pool. `limit` is the most connections that may wait in it.

    A name leaves as many waiting as it has already, up to `reserve`; and always fewer than have
    been waiting at once, so that a site with one worker has no reserve. Who has waited less than
    `young_seconds` comes before others.
    """

    def __init__(
        self,
        limit: int,
        counters: Counters[BridgeCount],
        reserve: int = 0,
        young_seconds: float = YOUNG_SECONDS,
    ) -> None:
        self._limit = limit
        self._young_seconds = young_seconds
        self._reserve = reserve
        self._counters = counters
        #: In the order of coming.
        self._servers: dict[ByteStream, Arrival] = {}
        self._changed = threading.Condition()
        self._line = WaitingLine(self._changed, self._rank)
        #: By client's name, the servers that it has.
        self._taken: Counter[str] = Counter()
        #: The most that have waited at once since no client had any.
        self._most_waiting = 0
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
            self._most_waiting = max(self._most_waiting, len(self._servers))
            self._changed.notify_all()
        self._counters.add(BridgeCount.SERVERS_ATTACHED)
        self._wake()

    def take(
        self,
        deadline: Deadline,
        client: ByteStream,
        prefers: Callable[[ByteStream], bool] = lambda _server: True,
    ) -> ByteStream:
        """A live server for `client`, to be told of by `give_back` once the client has it no more.

        It is one of those that `prefers` is true of if there are any: the one that waits longest of
        those that have not waited long, else the one that came last.
        Raises `DeadlineExceeded`, or `TransportError` if the client goes or the bridge ends.
        """
        name = client.peer.common_name
        with self._changed:
            try:
                server = self._line.wait(
                    lambda: self._pop_live(name, prefers), client, deadline, "a server"
                )
            except DeadlineExceeded:
                raise NoServer(
                    "no signing server became free in time: is one running and connected to this"
                    " bridge's server port?"
                ) from None
            finally:
                self._wake()
            self._taken[name] += 1
            return server

    def take_spare(self, name: str, *, last: bool) -> ByteStream | None:
        """A live server of this name for the bridge itself, which does not wait again; else None.

        None where a request waits for a server, and, unless `last`, where no other one is left.
        """
        with self._changed:
            while not self._closed and not self._line and len(self._servers) > (0 if last else 1):
                theirs = [item for item in self._servers if item.peer.common_name == name]
                if not theirs:
                    break
                # The one that came last: those before it are handed out first.
                server = theirs[-1]
                arrival = self._servers.pop(server)
                self._wake()
                if not server.has_input():
                    return server
                self._drop(server, arrival)
            return None

    def give_back(self, client: ByteStream) -> None:
        """Note that `client` has one server less, which does not wait again."""
        name = client.peer.common_name
        with self._changed:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]
            if not self._taken:
                self._most_waiting = len(self._servers)
            self._changed.notify_all()

    def trim(self, surplus: int) -> None:
        """Close `surplus` servers in order, the last to come first, so that they dial again.

        From then on there is no reserve: each that is left is for one of the clients that are.
        """
        with self._changed:
            self._reserve = 0
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

    def _rank(self, name: str) -> int | None:
        """The servers that `name` has; None where those that wait are left to others."""
        self._check_open()
        taken = self._taken[name]
        reserve = min(taken, self._reserve, self._most_waiting - 1)
        return None if len(self._servers) <= reserve else taken

    def _pop_live(self, name: str, prefers: Callable[[ByteStream], bool]) -> ByteStream | None:
        while self._servers and self._rank(name) is not None:
            server = self._choose(prefers)
            arrival = self._servers.pop(server)
            if not server.has_input():
                return server
            self._drop(server, arrival)
        return None

    def _choose(self, prefers: Callable[[ByteStream], bool]) -> ByteStream:
        """The server that is next, of those that wait."""
        able = [*filter(prefers, self._servers)] or [*self._servers]
        since = time.monotonic() - self._young_seconds
        return next((server for server in able if self._servers[server].at >= since), able[-1])

    def _drop(self, server: ByteStream, arrival: Arrival) -> None:
        self._counters.add(BridgeCount.SERVERS_DROPPED)
        with about(arrival.context):
            log.warning(
                "Waiting server %s (%s) has gone; dropped",
                as_word(server.peer.common_name),
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
                    arrival = self._servers.pop(server, None)
                    if arrival is not None:
                        self._drop(server, arrival)
