"""A bridge's measurements while it works: how long things take, how requests end, who was here.

It records only what nothing else knows. What is held just now, and what `Counters` count, is read
where it is known (`sight`). Every call costs microseconds, and whatever peers do, what is kept is
bounded: labels are known operations, versions and results, and lists have a greatest length.
"""

from __future__ import annotations

import contextlib
import enum
import random
import statistics
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from ..errors import DeadlineExceeded, PeerClosed, ProtocolError, SigulError, shortened
from ..kojihub import KojiError
from ..logcontext import LogContext
from ..metrics import Histogram, Tally
from ..observe.catalogue import BY_NAME
from ..observe.view import LatencySeries, RequestView
from ..protocol.messages import UnknownVersion
from ..transport.stream import Peer
from .budget import OverBudget, ShareTaken, TooManyRequests
from .groups import NotInGroup, SourceFailed
from .register import Visit
from .waiting import NoServer

#: Requests that are over of which details are kept.
MAX_RECENT: Final = 200
#: Names of clients of which the certificate's end is kept, and for how long, in seconds.
MAX_CERTIFICATES: Final = 256
CERTIFICATE_SECONDS: Final = 24 * 3600.0
#: Minutes of which latencies are kept, and how many latencies of each: beyond, a random choice.
SERIES_MINUTES: Final = 60
SERIES_SAMPLES: Final = 64
#: Sets of labels of requests that are counted apart, where labels have names.
MAX_NAMED_SETS: Final = 4096
#: Longest common name that is kept or shown, in bytes.
MAX_NAME_BYTES: Final = 128

#: The label of what a request's header has not told.
UNKNOWN: Final = "unknown"


class Side(enum.StrEnum):
    """The kinds of peers, as labels."""

    CLIENT = "client"
    SERVER = "server"


class Result(enum.StrEnum):
    """The end of a request."""

    OK = "ok"
    #: The server's reply is an error.
    REFUSED = "refused"
    #: No server has seen it: the bridge told its client why, or would have.
    REFUSED_BY_BRIDGE = "refused_by_bridge"
    #: By a person at the bridge, or because its certificate is no longer good.
    ENDED = "ended"
    FAILED = "failed"


class Refusal(enum.StrEnum):
    """The reason for which the bridge refused a connection or request by itself."""

    BUDGET = "budget"
    RATE = "rate"
    GROUP = "group"
    GROUP_SOURCE = "group_source"
    VERSION = "version"
    NO_SERVER = "no_server"
    PROTOCOL = "protocol"
    KOJI = "koji"
    LATE = "late"
    OTHER = "other"


#: The first that fits is the reason.
_REASONS: Final[tuple[tuple[type[BaseException], Refusal], ...]] = (
    (TooManyRequests, Refusal.RATE),
    (OverBudget, Refusal.BUDGET),
    (ShareTaken, Refusal.BUDGET),
    (NoServer, Refusal.NO_SERVER),
    (NotInGroup, Refusal.GROUP),
    (SourceFailed, Refusal.GROUP_SOURCE),
    (UnknownVersion, Refusal.VERSION),
    (ProtocolError, Refusal.PROTOCOL),
    (KojiError, Refusal.KOJI),
    (DeadlineExceeded, Refusal.LATE),
    (BaseException, Refusal.OTHER),
)


@dataclass(frozen=True, slots=True)
class Met:
    """A client that was here: its certificate's end (seconds since 1970) and when it came last."""

    not_after: float
    seen: float


@dataclass(slots=True)
class _Minute:
    number: int
    count: int = 0
    longest: float = 0.0
    some: list[float] = field(default_factory=list)


class _Series:
    """A thing's times in each minute of the last hour. Held by one lock of its owner."""

    def __init__(self) -> None:
        self._minutes: deque[_Minute] = deque(maxlen=SERIES_MINUTES)

    def add(self, minute: int, seconds: float) -> None:
        if not self._minutes or self._minutes[-1].number != minute:
            self._minutes.append(_Minute(minute))
        item = self._minutes[-1]
        item.count += 1
        item.longest = max(item.longest, seconds)
        if len(item.some) < SERIES_SAMPLES:
            item.some.append(seconds)
        elif (place := random.randrange(item.count)) < SERIES_SAMPLES:  # noqa: S311 - a sample
            item.some[place] = seconds

    def points(self, minute: int) -> tuple[tuple[int, float, float, int], ...]:
        return tuple(
            (
                minute - item.number,
                round(statistics.median(item.some), 6),
                round(item.longest, 6),
                item.count,
            )
            for item in self._minutes
            if minute - item.number < SERIES_MINUTES
        )


def _histogram(name: str) -> Histogram:
    metric = BY_NAME[name]
    return Histogram(metric.buckets, without_labels=not metric.labels)


class Measures:
    """The measurements of one bridge process, for all its threads. `names`: labels have names."""

    def __init__(self, *, names: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.names = names
        self._clock = clock
        self.handshake_seconds = _histogram("sigul_bridge_handshake_seconds")
        self.queue_seconds = _histogram("sigul_bridge_queue_seconds")
        self.request_seconds = _histogram("sigul_bridge_request_seconds")
        self.handshakes_failed = Tally()
        self.requests = Tally(most=MAX_NAMED_SETS)
        self.refusals = Tally()
        # What has never happened yet is 0, and not absent.
        for side in Side:
            self.handshakes_failed.count(0, side=side.value)
        for reason in Refusal:
            self.refusals.count(0, reason=reason.value)
        self._lock = threading.Lock()
        #: The newest first. Of one that is refused the id may come while it is told why.
        self._recent: deque[tuple[RequestView, LogContext | None]] = deque(maxlen=MAX_RECENT)
        self._series = {
            name: _Series() for name in ("handshake client", "handshake server", "queue", "request")
        }
        #: By common name, the one that came last at the end.
        self._met: OrderedDict[str, Met] = OrderedDict()
        #: Bytes of requests that are over.
        self._up = self._down = 0

    # ------------------------------------------------------------------------------------- as told

    def shook_hands(self, kind: str, peer: Peer, seconds: float) -> None:
        """Take note of a finished handshake of a "client" or "server"."""
        self.handshake_seconds.observe(seconds, side=kind)
        with self._lock:
            self._add(f"handshake {kind}", seconds)
            if kind == Side.CLIENT and peer.not_after:
                name = shown_name(peer)
                self._met[name] = Met(peer.not_after, self._clock())
                self._met.move_to_end(name)
                if len(self._met) > MAX_CERTIFICATES:
                    self._met.popitem(last=False)

    def refused_handshake(self, kind: str) -> None:
        """Take note of a handshake that failed, or of a peer that may not play its part."""
        self.handshakes_failed.count(side=kind)

    def queued(self, visit: Visit) -> None:
        """Take note that a request has its server."""
        seconds = visit.paired_at - visit.headed_at
        self.queue_seconds.observe(seconds)
        with self._lock:
            self._add("queue", seconds)

    @contextlib.contextmanager
    def visit(self, visit: Visit) -> Iterator[None]:
        """Take note of how a client's visit, which is the block, ends."""
        try:
            yield
        except BaseException as error:
            self._over(visit, error)
            raise
        self._over(visit, None)

    def _over(self, visit: Visit, error: BaseException | None) -> None:
        result = result_of(visit, error)
        if error is not None and result is Result.REFUSED_BY_BRIDGE:
            reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
            self.refusals.count(reason=reason.value)
        if not visit.is_request:
            return
        op = visit.op or UNKNOWN
        labels = {"op": op, "version": UNKNOWN if visit.version < 0 else str(visit.version)}
        if self.names:
            labels["client"] = shown_name(visit.client.peer)
        self.requests.count(result=result.value, **labels)
        took = visit.answered_at - visit.headed_at if visit.answered_at else 0.0
        if took:
            self.request_seconds.observe(took, op=op)
        view = request_view(visit, self._clock(), datetime.now(UTC), result)
        with self._lock:
            self._recent.appendleft((view, visit.context))
            if took:
                self._add("request", took)
            # At once, so that nobody sees these bytes twice or not at all (`moved`).
            self._up, self._down = self._up + visit.up, self._down + visit.down
            visit.up = visit.down = 0

    def _add(self, name: str, seconds: float) -> None:
        self._series[name].add(int(self._clock() // 60), seconds)

    # ------------------------------------------------------------------------------------ as asked

    def moved(self, visits: Callable[[], list[Visit]]) -> tuple[int, int]:
        """Bytes that were forwarded up and down until now; `visits` gives those under way."""
        with self._lock:
            here = visits()
            return (
                self._up + sum(visit.up for visit in here),
                self._down + sum(visit.down for visit in here),
            )

    def recent(self) -> tuple[RequestView, ...]:
        """The last requests that are over, the newest first."""
        with self._lock:
            recent = list(self._recent)
        return tuple(
            view
            if context is None or view.id == context.request
            else replace(view, id=context.request)
            for view, context in recent
        )

    def latency(self) -> tuple[LatencySeries, ...]:
        """The times of the last hour."""
        minute = int(self._clock() // 60)
        with self._lock:
            return tuple(
                LatencySeries(name, series.points(minute)) for name, series in self._series.items()
            )

    def met(self) -> dict[str, float]:
        """The clients that were here in the last day, and when the certificate of each ends.

        By common names; of several certificates, that which was here last. In seconds since 1970.
        """
        since = self._clock() - CERTIFICATE_SECONDS
        with self._lock:
            return {name: met.not_after for name, met in self._met.items() if met.seen >= since}


def result_of(visit: Visit, error: BaseException | None) -> Result:
    """The end of a visit, with that error or without one."""
    if visit.reason:
        return Result.ENDED
    if visit.is_refused:
        return Result.REFUSED
    if error is None:
        return Result.OK
    # A client that has gone is told nothing; a server that has the request may have done it.
    told = isinstance(error, SigulError | OSError) and not isinstance(error, PeerClosed)
    return Result.REFUSED_BY_BRIDGE if told and visit.server is None else Result.FAILED


def shown_name(peer: Peer) -> str:
    """The common name of a peer, as it is kept and shown: not longer than MAX_NAME_BYTES."""
    return shortened(peer.common_name, MAX_NAME_BYTES)


def state_of(visit: Visit) -> str:
    """The state of a visit under way, as `sigul_bridge_connections` has it."""
    if visit.server is not None:
        return "forwarded"
    return "queued" if visit.headed_at else "header"


def request_view(visit: Visit, at: float, now: datetime, result: Result | None) -> RequestView:
    """A visit as it is shown at the moment `at` (`time.monotonic`), which is `now`.

    `result` is None while it is under way. Its times begin with its header, or with the visit where
    that has not come.
    """
    began = visit.headed_at or visit.began
    waited = (visit.paired_at or at) - visit.headed_at if visit.headed_at else 0.0
    return RequestView(
        id=visit.request,
        connection="" if visit.context is None else visit.context.connection,
        common_name=shown_name(visit.client.peer),
        op=visit.op,
        version=visit.version,
        state=state_of(visit) if result is None else result.value,
        began=datetime.fromtimestamp(now.timestamp() - (at - began), UTC).isoformat(
            timespec="seconds"
        ),
        queue_seconds=round(waited, 6),
        seconds=round((visit.answered_at or at) - began, 6),
    )
