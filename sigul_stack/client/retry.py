"""Trying a request again where that is safe, with growing, spread pauses, and saying so.

Invariant: a request is sent again only where no server can have acted on it. That is so by its
course: a server acts once it has the inner session's fields, so one that failed before the first
byte of these left this machine was not acted on, whatever anybody says. Of one that failed later
nobody here knows, and it is never sent again; but for an answer with the server's own proof that
it was busy and did nothing.

Safe is not enough: who was refused a right, or sees a wrong certificate, is not helped by another
try. `is_worth_it` has what is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from ..errors import BridgeRefused, DeadlineExceeded, PeerClosed, SigulError, TransportError
from ..logevents import tell
from .log_events import ClientLog

_log = logging.getLogger(__name__)

#: The first pause and the longest, in seconds; doubled in between.
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
#: The part of a pause that is waited at least. By the rest clients are spread, which a bridge's end
#: has made fail in one moment.
LEAST_PART: Final = 0.5

#: Faults of a network or of a bridge that is not there, by the names that kernel, resolver and NSPR
#: give them.
PASSING: Final = frozenset(
    {
        "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT",
        "EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN", "ENETRESET",
        "EAI_AGAIN",
    }
)  # fmt: skip


def is_worth_it(error: SigulError) -> bool:
    """Tell whether a request that failed so, and was not acted on, may succeed a little later."""
    if error.busy:
        return True
    if isinstance(error, BridgeRefused):
        return False
    if isinstance(error, DeadlineExceeded | PeerClosed):
        return True
    return isinstance(error, TransportError) and error.symbol in PASSING


def pause_seconds(failures: int, spread: float) -> float:
    """The pause after so many failures (1 or more), in seconds; `spread` is between 0 and 1."""
    doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16)
    return min(doubled, LONGEST_PAUSE_SECONDS) * (LEAST_PART + (1 - LEAST_PART) * spread)


def _any_part() -> float:
    """A number between 0 and 1, at random."""
    import random  # which takes a small request's time, and is of use after a failure alone

    return random.random()  # noqa: S311 - it spreads clients, and keeps nothing from anybody


class Retries:
    """The tries of one request, or of several that share one limit. Safe to use from threads.

    No try begins later than `limit` seconds after the first failure, or after the first one since
    a request succeeded; 0: none is made again. A try that has begun takes what it takes.
    """

    def __init__(
        self,
        limit: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
        spread: Callable[[], float] = _any_part,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._wait = wait
        self._spread = spread
        self._lock = threading.Lock()
        self._failing_since: float | None = None

    def again(self, error: SigulError, failures: int) -> bool:
        """Wait before another try of a request, and say so; False where there is to be none.

        The request has failed `failures` times, with `error` now, and was not acted on.
        """
        if self._limit <= 0 or not is_worth_it(error):
            return False
        with self._lock:
            now = self._clock()
            if self._failing_since is None:
                self._failing_since = now
            left = self._failing_since + self._limit - now
        if left <= 0:
            tell(_log, ClientLog.GAVE_UP, tries=failures, seconds=self._limit)
            return False
        pause = min(pause_seconds(failures, self._spread()), left)
        tell(_log, ClientLog.TRYING_AGAIN, cause=error.problem, seconds=round(pause, 1))
        self._wait(pause)
        return True

    def succeeded(self) -> None:
        """Note that a request came through."""
        with self._lock:
            self._failing_since = None
