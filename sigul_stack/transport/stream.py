"""The byte stream that everything above the sockets is written against, and time limits.

Two implementations: `nss.TLSConnection` and `memory.MemoryStream`. Every read and write has a limit
in seconds, which bounds the whole call however slowly the peer trickles.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from ..errors import DeadlineExceeded
from ..records import dataclass, field

#: The amount to ask for where any will do, in bytes.
READ_BYTES = 256 * 1024
#: Most data bytes of one TLS record (RFC 8446, 5.1), so the most that NSS gives at once.
RECORD_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's identity, as its TLS handshake proved it.

    `common_name` is the certificate's CN, `fingerprint` its SHA-256 in lower-case hex, `address`
    where it came from, `certificate` itself in DER; empty where no handshake was. `not_after` is
    when the certificate ends, in seconds since 1970; 0 where it is not known.
    """

    common_name: str
    fingerprint: str
    address: str
    certificate: bytes = field(default=b"", repr=False)
    not_after: float = 0.0


class ByteStream(Protocol):
    """A connected, authenticated, bidirectional stream.

    One thread may read while another writes. All limits are in seconds.
    """

    peer: Peer

    def read(self, limit: int, timeout: float) -> bytes:
        """Read 1 to `limit` bytes; empty at the peer's orderly end.

        Raises `DeadlineExceeded`, `PeerClosed` (ended without a close-notify), `TransportError`.
        """

    def write(self, data: bytes, timeout: float) -> None:
        """Send all of `data`. Raises `DeadlineExceeded`, `PeerClosed`, `TransportError`."""

    def fileno(self) -> int:
        """A descriptor to poll for input; `pending` input does not show on it."""

    def pending(self) -> bool:
        """Tell whether input is here that polling the descriptor would not show."""

    def has_input(self) -> bool:
        """Tell whether a read would return at once: with data, the end or an error."""

    def has_gone(self) -> bool:
        """Tell whether the peer has closed its side; data from before may be unread."""

    def was_cut_off(self) -> bool:
        """Tell whether the peer's end, which `read` has met, came without a close-notify."""

    def is_broken(self) -> bool:
        """Tell whether nothing can come or go any more: the peer's machine has reset it.

        That is so at once where a peer ended by a reset, and about a minute after one that closed
        both directions, and no word of it but the end of one.
        """

    def is_acknowledged(self, timeout: float) -> bool:
        """Wait until the peer's machine has all that was written; False after `timeout` seconds.

        A machine that vanished without a word, by a power cut or behind a firewall that forgot the
        connection, looks like one that waits until something is sent to it.
        """

    def abort(self) -> None:
        """End the connection at once, without a close-notify; from any thread, never raises.

        A read or write under way in another thread fails.
        """

    def end_reading(self) -> None:
        """Have reads give what is here and then the end; from any thread, never raises.

        A read under way in another thread ends. Writing goes on.
        """

    def reset_on_close(self, on: bool = True) -> None:
        """Have `close` or `discard` reset the connection: a peer that is sending has an error then.

        So does the kernel where this process is killed. Not `on`: as usual again. What was written
        and is not acknowledged may be lost. Never raises.
        """

    def end_writing(self) -> None:
        """Send a close-notify and half-close; reading goes on. From any thread, never raises."""

    def discard(self) -> None:
        """Abort and free the connection's descriptors; no other thread may be using it."""

    def close(self) -> None:
        """End the connection in order, or quietly where it is already broken. Never raises."""


def readable(descriptors: Iterable[int], seconds: float | None = None) -> set[int]:
    """Wait until some of the descriptors have input; those that have, none after `seconds`."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {item for item, _events in poll.poll(None if seconds is None else seconds * 1000)}


class Deadline:
    """A limit on several steps together: each step asks what remains of it."""

    def __init__(
        self, seconds: float, what: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._what = what
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Seconds left. Raises `DeadlineExceeded` where none are."""
        left = self._end - self._clock()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self) -> DeadlineExceeded:
        """The error that says what took too long; the limit of one step would mislead."""
        return DeadlineExceeded(f"{self._what} took longer than the limit of {self._seconds:g} s")
