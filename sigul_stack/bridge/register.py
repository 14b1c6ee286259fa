"""The clients' requests at a bridge, by the name in their certificates, and their end before time.

Whoever ends a request stops its client's reading side and its server's connection, so whatever the
request's thread waits for there fails; the thread then tells the client why, where no reply has
begun, in the bridge's own refusal. A thread that waits for something else, such as a download, is
not waited for: the client is told in its stead, and cut off.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ..errors import RemoteProtocolError, TransportError
from ..logcontext import LogContext, current, work_for
from ..metrics import BridgeCount, Counters
from ..protocol.status import MAX_LISTED, RequestUnderWay
from ..transport.stream import ByteStream

log = logging.getLogger(__name__)

#: Seconds for a request's own thread to tell its client why, before that is done in its stead.
PATIENCE_SECONDS: Final = 2.0
#: Seconds for what was told to arrive, before the connection ends.
LAST_WORDS_SECONDS: Final = 1.0


class RequestEnded(RemoteProtocolError):
    """A request was ended before its time by somebody at the bridge, or with a certificate."""


@dataclass(slots=True, eq=False)
class Visit:
    """A client's visit, from its handshake to the end of its connection."""

    client: ByteStream
    #: Tells the client why it is refused.
    refuse: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    #: A byte of a request has come.
    is_request: bool = False
    #: What its header says, once that has come, and the protocol's version; -1: not known yet.
    user: str = ""
    op: str = ""
    version: int = -1
    #: When its header was whole, when a server had it, and when its reply was complete; 0: not yet
    #: (`time.monotonic`).
    headed_at: float = 0.0
    paired_at: float = 0.0
    answered_at: float = 0.0
    #: The server's reply is an error.
    is_refused: bool = False
    #: Bytes that were forwarded to the server, and to the client: of one thread each.
    up: int = 0
    down: int = 0
    #: The server that serves it.
    server: ByteStream | None = None
    #: Something of the reply may have been sent to the client.
    replied: bool = False
    #: Why it is to end; empty where it is not.
    reason: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    #: What the log's lines about it are about: it has the request's id, once there is one.
    context: LogContext | None = field(default_factory=current)
    #: Taken for good by the thread that tells the client.
    _told: threading.Lock = field(default_factory=threading.Lock)
    _insisting: threading.Thread | None = None

    @property
    def request(self) -> str:
        """The request's id in the logs; empty as long as there is none."""
        return "" if self.context is None else self.context.request

    def paired(self, server: ByteStream) -> None:
        """Take note of its server. Raises `RequestEnded`."""
        self.server, self.paired_at = server, time.monotonic()
        self.check()

    def check(self) -> None:
        """Raise `RequestEnded` where it is to end."""
        if self.reason:
            raise RequestEnded(f"The request is ended: {self.reason}")

    def cut(self) -> None:
        """Have all that its thread does with its connections fail."""
        insisting = threading.Thread(target=self._insist, name="end-request", daemon=True)
        insisting.start()
        self._insisting = insisting
        if self.server is not None:
            self.server.abort()
        self.client.end_reading()

    def _insist(self) -> None:
        work_for(self.context)
        if not self.over.wait(PATIENCE_SECONDS):
            self.tell()
            self.over.wait(PATIENCE_SECONDS)
            self.client.abort()

    def tell(self) -> None:
        """Tell the client why its request ends, once, where no reply has begun."""
        if not self.replied and self._told.acquire(blocking=False):
            self.refuse(self.reason)
            self.client.is_acknowledged(LAST_WORDS_SECONDS)

    def leave(self) -> None:
        """Be over: nobody else uses the client's connection any more."""
        self.over.set()
        if self._insisting is not None:
            self._insisting.join()


class Register:
    """All visits at a bridge, for all threads."""

    def __init__(self, counters: Counters[BridgeCount]) -> None:
        self._counters = counters
        self._visits: list[Visit] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def visit(self, client: ByteStream, refuse: Callable[[str], None]) -> Iterator[Visit]:
        """A client's visit, in the block. `refuse` tells the client a reason; may not raise.

        Raises `RequestEnded` where the visit was ended, whatever the block raised then.
        """
        visit = Visit(client, refuse)
        with self._lock:
            self._visits.append(visit)
        try:
            yield visit
        except Exception as error:
            if not visit.reason:
                raise
            visit.tell()
            raise RequestEnded(f"The request is ended: {visit.reason}") from error
        finally:
            with self._lock:
                self._visits.remove(visit)
            visit.leave()

    def visits(self) -> list[Visit]:
        """The visits at this moment, in the order of coming."""
        with self._lock:
            return list(self._visits)

    def listed(self, now: float) -> tuple[RequestUnderWay, ...]:
        """List what is under way at `now` (`time.monotonic`): the oldest, up to MAX_LISTED."""
        return tuple(
            RequestUnderWay(
                item.client.peer.common_name,
                item.user,
                item.op,
                round(now - item.began, 3),
                item.request,
            )
            for item in self.visits()[:MAX_LISTED]
        )

    def end(self, theirs: Callable[[Visit], bool], reason: str) -> int:
        """End the visits that are `theirs`, for a `reason` that clients are told; how many."""
        with self._lock:
            ended = [item for item in self._visits if not item.reason and theirs(item)]
            for item in ended:
                item.reason = reason
        for item in ended:
            self._counters.add(BridgeCount.REQUESTS_ENDED)
            with contextlib.suppress(TransportError):
                item.cut()
        return len(ended)
