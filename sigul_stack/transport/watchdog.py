"""A watchdog for reads and writes, of which the TLS library limits only each single wait.

NSPR starts its timeout anew for every piece of a TLS record, so a peer that trickles a byte now and
then could hold a call for hours. Each connection notes when its call must be over; this thread
aborts those that are late. Checking costs two attribute writes a call, so it can stay on for bulk
data.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Protocol

#: Pause between looks at the connections, in seconds: a late call ends at most this much later.
PERIOD_SECONDS = 0.5


class Guarded(Protocol):
    """A connection, as the watchdog sees it."""

    #: `time.monotonic()` values by which calls under way must be over; None where none is.
    read_due: float | None
    write_due: float | None

    def expire(self) -> None:
        """End the connection at once: its call under way raises `DeadlineExceeded`."""


class Watchdog:
    """One thread that aborts connections whose call is over its limit."""

    def __init__(self) -> None:
        self._guarded: weakref.WeakSet[Guarded] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def guard(self, connection: Guarded) -> None:
        """Watch `connection` from now on, as long as somebody else holds it."""
        with self._lock:
            self._guarded.add(connection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            now = time.monotonic()
            with self._lock:
                guarded = list(self._guarded)
            for connection in guarded:
                for due in (connection.read_due, connection.write_due):
                    # The library's own timeout comes first where the peer is simply silent.
                    if due is not None and now > due + PERIOD_SECONDS:
                        connection.expire()
