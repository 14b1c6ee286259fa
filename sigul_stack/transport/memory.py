"""The stream interface in memory: what the TLS transport does, without sockets, for tests.

`pair()` gives two connected ends. Buffers are unbounded, so a test's single thread cannot block on
a write; reads wait for at most their timeout.
"""

from __future__ import annotations

import os
import threading
import weakref
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
        self._descriptor: int | None = None

    def is_readable(self) -> bool:
        """Tell whether a read would return at once."""
        return bool(self.data) or self.ended or self.broken

    def descriptor(self) -> int:
        """A descriptor that is readable whenever the pipe is; it lives as long as the pipe."""
        with self.changed:
            if self._descriptor is None:
                self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                weakref.finalize(self, os.close, self._descriptor)
            self.note()
            return self._descriptor

    def note(self) -> None:
        """Tell whoever waits that the pipe has changed; its lock is held."""
        self.changed.notify_all()
        if self._descriptor is not None:
            os.eventfd_write(self._descriptor, 1)
            if not self.is_readable():
                os.eventfd_read(self._descriptor)


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
        pipe = self._in
        with pipe.changed:
            if not pipe.changed.wait_for(pipe.is_readable, timeout):
                raise DeadlineExceeded(f"nothing was received for {timeout:g} s")
            if pipe.broken and not pipe.data:
                raise PeerClosed("the peer ended the connection without a close-notify")
            count = min(limit, self.split or limit)
            piece = bytes(pipe.data[:count])
            del pipe.data[:count]
            pipe.note()
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
            pipe.note()

    def fileno(self) -> int:
        """See `ByteStream.fileno`."""
        return self._in.descriptor()

    def pending(self) -> bool:
        """See `ByteStream.pending`: the descriptor shows all."""
        return False

    def has_input(self) -> bool:
        """See `ByteStream.has_input`."""
        return self._in.is_readable()

    def has_gone(self) -> bool:
        """See `ByteStream.has_gone`."""
        return self._in.ended or self._in.broken

    def was_cut_off(self) -> bool:
        """See `ByteStream.was_cut_off`: `read` raises at such an end."""
        return False

    def is_broken(self) -> bool:
        """See `ByteStream.is_broken`."""
        return self._in.broken

    def is_acknowledged(self, timeout: float) -> bool:
        """See `ByteStream.is_acknowledged`: what is written is there."""
        return True

    def abort(self) -> None:
        """See `ByteStream.abort`."""
        for pipe in (self._in, self._out):
            with pipe.changed:
                pipe.broken = True
                pipe.note()

    def end_reading(self) -> None:
        """See `ByteStream.end_reading`."""
        with self._in.changed:
            self._in.ended = True
            self._in.note()

    def reset_on_close(self, on: bool = True) -> None:
        """See `ByteStream.reset_on_close`: nobody is blocked in a write here."""

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
            self._out.note()


def pair(left: Peer | None = None, right: Peer | None = None) -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends; the first sees `left` as its peer, the second `right`."""
    forth, back = _Pipe(), _Pipe()
    return (
        MemoryStream(back, forth, left or nobody()),
        MemoryStream(forth, back, right or nobody()),
    )
