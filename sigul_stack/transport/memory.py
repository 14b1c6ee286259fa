"""The stream interface in memory: what the TLS transport does, without sockets, for tests.

`pair()` gives two connected ends. Buffers are unbounded, so a test's single thread cannot block on
a write; reads wait for at most their timeout.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import DeadlineExceeded, PeerClosed
from .stream import Peer


class _Pipe:
    """Bytes in one direction."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.data = bytearray()
        self.ended = False
        self.broken = False


def nobody(name: str = "memory") -> Peer:
    """A peer of this name, for streams that no handshake made."""
    return Peer(common_name=name, fingerprint="", address="memory")


class MemoryStream:
    """One end of a pair. `split`, where set, cuts reads to that many bytes."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, peer: Peer) -> None:
        self.peer = peer
        self.split: int | None = None
        self.on_write: Callable[[bytes], None] | None = None
        self._in = incoming
        self._out = outgoing

    def read(self, limit: int, timeout: float) -> bytes:
        """See `ByteStream.read`."""
        end = time.monotonic() + timeout
        pipe = self._in
        with pipe.changed:
            while not pipe.data:
                if pipe.broken:
                    raise PeerClosed("the peer ended the connection without a close-notify")
                if pipe.ended:
                    return b""
                left = end - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(f"nothing was received for {timeout:g} s")
                pipe.changed.wait(left)
            count = min(limit, self.split or limit)
            piece = bytes(pipe.data[:count])
            del pipe.data[:count]
            return piece

    def write(self, data: bytes, timeout: float) -> None:
        """See `ByteStream.write`."""
        pipe = self._out
        if self.on_write is not None:
            self.on_write(data)
        with pipe.changed:
            if pipe.broken or pipe.ended:
                raise PeerClosed("the connection has ended")
            pipe.data += data
            pipe.changed.notify_all()

    def fileno(self) -> int:
        """Memory has no descriptor: `pending` tells all."""
        return -1

    def pending(self) -> bool:
        """Whether a read would return at once."""
        with self._in.changed:
            return bool(self._in.data) or self._in.ended or self._in.broken

    def abort(self) -> None:
        """See `ByteStream.abort`."""
        for pipe in (self._in, self._out):
            with pipe.changed:
                pipe.broken = True
                pipe.changed.notify_all()

    def discard(self) -> None:
        """See `ByteStream.discard`."""
        self.abort()

    def close(self) -> None:
        """See `ByteStream.close`."""
        self.end_writing()

    def end_writing(self) -> None:
        """See `ByteStream.end_writing`."""
        with self._out.changed:
            self._out.ended = True
            self._out.changed.notify_all()


def pair(left: Peer | None = None, right: Peer | None = None) -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends; the first sees `left` as its peer, the second `right`."""
    forth, back = _Pipe(), _Pipe()
    return (
        MemoryStream(back, forth, left or nobody()),
        MemoryStream(forth, back, right or nobody()),
    )
