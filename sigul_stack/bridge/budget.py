"""One budget for each certificate's common name: all that its connections hold at this bridge.

Whoever holds a certificate may ask for as much as it likes. What is over its share of turns, of
payload, of downloads or of requests a second waits, in the order in which it came, and is refused
where that takes too long; a connection too many is refused at once. Of the last places for clients
no name gets more than a few, so that there are some for others, too.

Invariant: what is counted in a block, or by a `Download`, is given back at its end; nothing is kept
of a name that holds nothing and has asked for nothing of late.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NoReturn

from ..config.bridge import BridgeSettings
from ..errors import DeadlineExceeded, PeerClosed, TransportError, as_busy, quoted
from ..logevents import tell
from ..metrics import BridgeCount, Counters
from ..transport.stream import ByteStream, Deadline
from . import waiting
from .log_events import BridgeLog
from .waiting import WaitingLine

log = logging.getLogger(__name__)

#: Connections that a name may have to get one of the last places (`client-reserve`) as well.
FEW_CONNECTIONS: Final = 4
#: Refused clients of one name that are waited for until they have read why, at once.
REFUSALS_PER_USER: Final = 4
#: Requests that a name may send at once after a pause: as many as are allowed in so many seconds.
BURST_SECONDS: Final = 4.0
#: Part of the download directory's file system that stays free, and its bytes at most.
FREE_PART: Final = 0.05
FREE_BYTES: Final = 256 * 1024**2
#: Names of which the time of the last request is kept before those that have none are forgotten.
MAX_TIMES: Final = 1024


class OverBudget(TransportError):
    """A certificate's name has its share already, and no wait would help."""


class TooManyRequests(OverBudget):
    """A certificate's name sends requests faster than it may, and has done so for long."""


class ShareTaken(DeadlineExceeded):
    """A certificate's name has its share, and nothing of it was given back in time."""


class _Held(enum.Enum):
    """A thing that is counted for a name, and for all names together under the name ''."""

    CONNECTION = enum.auto()
    #: A request whose first bytes have come.
    REQUEST = enum.auto()
    #: A request that has, or may have, a server.
    UNDER_WAY = enum.auto()
    #: Bytes that requests under way have announced.
    PAYLOAD = enum.auto()
    DOWNLOAD = enum.auto()
    #: Bytes of downloads that are here or were promised; of these, those that may not be here yet.
    DOWNLOAD_BYTES = enum.auto()
    EXPECTED_BYTES = enum.auto()
    REFUSAL = enum.auto()


class Budget:
    """Counts for all threads, within `settings`. Times are in seconds, sizes in bytes."""

    def __init__(
        self,
        settings: BridgeSettings,
        counters: Counters[BridgeCount],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._counts: Counter[tuple[_Held, str]] = Counter()
        #: By name, when a request would come that followed all before at just the allowed rate.
        self._times: dict[str, float] = {}
        self._changed = threading.Condition()
        # Names do not wait for each other here.
        self._turns = WaitingLine(self._changed)
        self._downloads = WaitingLine(self._changed)
        self._closed = False

    @property
    def connected(self) -> int:
        """Clients that are connected and authenticated."""
        return self._counts[_Held.CONNECTION, ""]

    @property
    def in_flight(self) -> int:
        """Requests that have begun and are not over."""
        return self._counts[_Held.REQUEST, ""]

    def used(self) -> dict[str, float]:
        """The part of each limit that is in use.

        `connections` and `downloads` (their bytes) are of all names together, `requests` and
        `payloads` (their bytes) of the name that has most of them.
        """
        settings = self._settings
        with self._changed:
            most = dict.fromkeys(_Held, 0)
            for (held, name), count in self._counts.items():
                if name:
                    most[held] = max(most[held], count)
            connections = self._counts[_Held.CONNECTION, ""]
            downloads = self._counts[_Held.DOWNLOAD_BYTES, ""]
        return {
            "connections": connections / settings.max_clients,
            "requests": most[_Held.UNDER_WAY] / settings.max_requests_per_user,
            "payloads": most[_Held.PAYLOAD] / settings.max_bytes_in_flight_per_user,
            "downloads": downloads / settings.koji.max_download_size,
        }

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # --------------------------------------------------------------------------------- what is held

    def connection(self, client: ByteStream) -> AbstractContextManager[None]:
        """Count a connected client in the block; `OverBudget` where it is one too many."""
        name = client.peer.common_name
        return self._holding(name, {_Held.CONNECTION: 1}, lambda: self._check_room(name))

    def request(self, client: ByteStream) -> AbstractContextManager[None]:
        """Count a request that is in flight in the block."""
        return self._holding(client.peer.common_name, {_Held.REQUEST: 1})

    def turn(
        self, client: ByteStream, length: int, deadline: Deadline
    ) -> AbstractContextManager[None]:
        """Have a request under way in the block, with `length` bytes, once it is its turn.

        Raises `DeadlineExceeded`, or `TransportError` where the client goes or the bridge ends.
        """
        name = client.peer.common_name
        return self._holding(
            name,
            {_Held.UNDER_WAY: 1, _Held.PAYLOAD: length},
            lambda: self._wait_for_turn(client, length, deadline),
        )

    @contextlib.contextmanager
    def payload(self, client: ByteStream, length: int) -> Iterator[bool]:
        """Count bytes of one RPM of a request under way in the block; False where too many are."""
        name = client.peer.common_name
        with self._changed:
            only = self._counts[_Held.UNDER_WAY, name] <= 1
            admitted = only or self._has_room(name, length)
        if not admitted:
            self._counters.add(BridgeCount.OVER_BUDGET)
        with self._holding(name, {_Held.PAYLOAD: length if admitted else 0}):
            yield admitted

    @contextlib.contextmanager
    def refusal(self, client: ByteStream) -> Iterator[bool]:
        """Count a client that is being refused; tells whether there is time to wait for it."""
        name = client.peer.common_name
        with self._changed:
            waits = self._counts[_Held.REFUSAL, name] < REFUSALS_PER_USER
        with self._holding(name, {_Held.REFUSAL: int(waits)}):
            yield waits

    @contextlib.contextmanager
    def _holding(
        self, name: str, what: dict[_Held, int], admit: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Count more in the block, once `admit` has let it in or raised."""
        with self._changed:
            admit()
            self._add(name, what)
        try:
            yield
        finally:
            with self._changed:
                self._add(name, {held: -count for held, count in what.items()})

    def _add(self, name: str, what: dict[_Held, int]) -> None:
        for key in ((held, owner) for held in what for owner in (name, "")):
            self._counts[key] += what[key[0]]
            if not self._counts[key]:
                del self._counts[key]
        self._changed.notify_all()

    def _refuse(
        self,
        problem: str,
        cure: str,
        kind: type[OverBudget] = OverBudget,
        *,
        busy: bool = True,
    ) -> NoReturn:
        self._counters.add(BridgeCount.OVER_BUDGET)
        error = kind(problem, cure)
        raise as_busy(error) if busy else error

    def _give_up(self, problem: str, cure: str) -> NoReturn:
        """Refuse what has waited for its share."""
        self._counters.add(BridgeCount.OVER_BUDGET)
        raise as_busy(ShareTaken(problem, cure))

    def _check_open(self) -> None:
        if self._closed:
            raise as_busy(TransportError("the bridge is ending", "try again"))

    # ----------------------------------------------------------------------- connections, requests

    def _check_room(self, name: str) -> None:
        settings, mine = self._settings, self._counts[_Held.CONNECTION, name]
        if mine >= settings.max_connections_per_user:
            self._refuse(
                f"{quoted(name)} has {mine} connections here, which is all that it may"
                " (max-connections-per-user)",
                "wait for some of them to end",
            )
        reserve = min(settings.client_reserve, settings.max_clients // 4)
        full = self.connected >= settings.max_clients
        if full or (self.connected >= settings.max_clients - reserve and mine >= FEW_CONNECTIONS):
            self._refuse(
                f"{self.connected} clients are connected already (max-clients)"
                + ("" if full else f", and {quoted(name)} has {mine} of these connections"),
                "try again later",
            )

    def await_rate(self, client: ByteStream, deadline: Deadline) -> bool:
        """Wait until a further request of the client's name keeps to the allowed rate.

        Tells whether it had to. Raises `OverBudget` where `deadline` would be over before, or
        `TransportError` where the client goes or the bridge ends.
        """
        name, rate = client.peer.common_name, self._settings.max_request_rate
        with self._changed:
            now = self._clock()
            due = max(self._times.get(name, 0.0), now) + 1 / rate
            begin = due - BURST_SECONDS
            if begin - now > deadline.remaining():
                self._refuse(
                    f"{quoted(name)} has sent more than {rate} requests a second for long"
                    " (max-request-rate)",
                    "send fewer",
                    TooManyRequests,
                )
            self._times[name] = due
            if len(self._times) > MAX_TIMES:
                self._times = {name: at for name, at in self._times.items() if at > now}
            if begin > now:
                tell(log, BridgeLog.REQUEST_DELAYED, name=name, seconds=begin - now)
            while (left := begin - self._clock()) > 0:
                self._check_open()
                if client.has_gone():
                    raise PeerClosed("the client left while it waited (max-request-rate)")
                self._changed.wait(min(left, waiting.CLIENT_CHECK_SECONDS))
        return begin > now

    def _wait_for_turn(self, client: ByteStream, length: int, deadline: Deadline) -> None:
        name = client.peer.common_name
        if self._turns.count(name) or not self._may_begin(name, length):
            tell(log, BridgeLog.REQUEST_AWAITS_TURN, name=name)
        try:
            self._turns.wait(
                lambda: self._may_begin(name, length) or None, client, deadline, "its turn"
            )
        except DeadlineExceeded:
            count = self._counts[_Held.UNDER_WAY, name]
            if count < self._settings.max_requests_per_user:
                size = self._counts[_Held.PAYLOAD, name]
                self._give_up(
                    f"{quoted(name)} has requests of {size} bytes under way, none of which ended in"
                    f" time: {length} more are over max-bytes-in-flight-per-user",
                    "send them one after the other",
                )
            self._give_up(
                f"{quoted(name)} has {count} requests under way, which is all that it may"
                " (max-requests-per-user), and none of them ended in time",
                "send fewer at once",
            )

    def _may_begin(self, name: str, length: int) -> bool:
        self._check_open()
        count = self._counts[_Held.UNDER_WAY, name]
        # Its only request may be of any size.
        return not count or (
            count < self._settings.max_requests_per_user and self._has_room(name, length)
        )

    def _has_room(self, name: str, length: int) -> bool:
        limit = self._settings.max_bytes_in_flight_per_user
        return self._counts[_Held.PAYLOAD, name] + length <= limit

    # ----------------------------------------------------------------------------------- downloads

    def download(self, client: ByteStream, deadline: Deadline) -> Download:
        """A place to fetch one RPM, once there is one for the client's name.

        Raises `DeadlineExceeded`, or `TransportError` where the client goes or the bridge ends.
        """
        name, limit = client.peer.common_name, self._settings.koji.max_downloads_per_user

        def attempt() -> bool | None:
            self._check_open()
            return self._counts[_Held.DOWNLOAD, name] < limit or None

        with self._changed:
            try:
                self._downloads.wait(attempt, client, deadline, "a download")
            except DeadlineExceeded:
                self._give_up(
                    f"{limit} RPMs are being fetched for {quoted(name)}, which is all that it may"
                    " (max-downloads-per-user), and none of them was done in time",
                    "send fewer at once",
                )
            self._add(name, {_Held.DOWNLOAD: 1})
        return Download(self, client, deadline)

    def _promise(self, client: ByteStream, length: int, deadline: Deadline) -> None:
        """Have room for `length` bytes of a download; see `Download.promise`."""
        name, limit = client.peer.common_name, self._settings.koji.max_download_size
        if length > limit // 2:
            self._refuse(
                f"an RPM of {length} bytes is over half of max-download-size, {limit} bytes",
                "raise it at the bridge, or send the RPM itself",
                busy=False,
            )
        with self._changed:
            while not self._fits(name, length):
                self._check_open()
                if client.has_gone():
                    raise PeerClosed("the client left while it waited for a download")
                try:
                    left = deadline.remaining()
                except DeadlineExceeded:
                    self._give_up(
                        f"there was no room in time for an RPM of {length} bytes from Koji"
                        " (max-download-size, and what is free in download-directory)",
                        "try again later",
                    )
                self._changed.wait(min(left, waiting.CLIENT_CHECK_SECONDS))
            self._add(name, {_Held.DOWNLOAD_BYTES: length, _Held.EXPECTED_BYTES: length})

    def _fits(self, name: str, length: int) -> bool:
        koji, counts = self._settings.koji, self._counts
        if (
            counts[_Held.DOWNLOAD_BYTES, name] + length > koji.max_download_size // 2
            or counts[_Held.DOWNLOAD_BYTES, ""] + length > koji.max_download_size
        ):
            return False
        disk = os.statvfs(koji.download_directory or Path(tempfile.gettempdir()))
        free = disk.f_bavail * disk.f_frsize - counts[_Held.EXPECTED_BYTES, ""] - length
        return free >= min(FREE_BYTES, disk.f_blocks * disk.f_frsize * FREE_PART)


class Download:
    """A place for one RPM from Koji, made by `Budget.download`; to be closed."""

    def __init__(self, budget: Budget, client: ByteStream, deadline: Deadline) -> None:
        self._budget = budget
        self._client = client
        self._deadline = deadline
        self._held: dict[_Held, int] = {_Held.DOWNLOAD: 1}

    def promise(self, length: int) -> None:
        """Wait for room for so many bytes, which may come from then on.

        Raises `OverBudget` where it could never be, `DeadlineExceeded`, or `TransportError` where
        the client goes or the bridge ends.
        """
        self._budget._promise(self._client, length, self._deadline)
        self._held |= {_Held.DOWNLOAD_BYTES: length, _Held.EXPECTED_BYTES: length}

    def has_come(self, length: int) -> None:
        """Note that all of it is here, and that it is of `length` bytes."""
        more = length - self._held.get(_Held.DOWNLOAD_BYTES, 0)
        self._change({_Held.DOWNLOAD_BYTES: more})
        self._change({_Held.EXPECTED_BYTES: -self._held.get(_Held.EXPECTED_BYTES, 0)})

    def close(self) -> None:
        """Give the place back; again is nothing."""
        self._change({held: -count for held, count in self._held.items()})

    def _change(self, what: dict[_Held, int]) -> None:
        with self._budget._changed:
            self._budget._add(self._client.peer.common_name, what)
            for held, count in what.items():
                self._held[held] = self._held.get(held, 0) + count
