"""The chunk layer on a byte stream: reading and writing the outer stream.

A `ChunkedStream` belongs to one thread at a time. Inner data that arrives while the outer stream is
read is kept for the inner session, up to a limit, or dropped once that session is over: some peers
end it late, or never.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from ..errors import DeadlineExceeded, PeerClosed, RemoteProtocolError
from ..protocol.chunks import (
    END_OF_OUTER,
    ChunkDecoder,
    Stream,
    encode_chunk,
    encode_listening,
)
from ..protocol.codec import Parser, run_parser
from .stream import READ_BYTES, ByteStream, Deadline

T = TypeVar("T")

#: Most bytes of a stream that are kept while the other one is being read. A TLS handshake and a
#: field map are far smaller; a peer that sends more before its turn is cut off.
MAX_KEPT_BYTES: Final = 1024**2


#: How long a reader of much lets more arrive, in seconds, after a read that brought little and left
#: nothing: a read and a hash of one TLS record cost nearly as much as of sixteen, and so does being
#: woken for each. So a request of a few hundred KiB and more is up to this much later.
GATHER_SECONDS: Final = 0.001
#: A read that brought less is a small one, in bytes.
SMALL_READ: Final = READ_BYTES // 2


class ChunkedStream:
    """Outer-stream reads and writes over `stream`; `timeout` is each wait's limit in seconds."""

    def __init__(self, stream: ByteStream, timeout: float) -> None:
        self.stream = stream
        self.timeout = timeout
        self.keep_inner = True
        self.inner: deque[bytes] = deque()
        self.inner_ended = False
        self._outer: deque[bytes] = deque()
        self._outer_ended = False
        self._decoder = ChunkDecoder()
        self._kept = 0
        #: Bytes that the last read brought.
        self._brought = READ_BYTES

    # ------------------------------------------------------------------------------------ reading

    def receive(self, timeout: float | None = None) -> None:
        """Read once from the stream and sort what came into `inner` and the outer queue.

        Raises `PeerClosed` at the stream's end, `ProtocolError` for a broken chunk layer or a peer
        that sends too much before its turn.
        """
        data = self.stream.read(READ_BYTES, self.timeout if timeout is None else timeout)
        if not data:
            where = "" if self._decoder.between_chunks else " in the middle of a chunk"
            raise PeerClosed(f"the peer ended the connection{where} where more was due")
        self._sort(data)

    def begin(self, deadline: Deadline) -> bool:
        """Wait for the peer's first bytes, and sort them; False where it ends without any."""
        try:
            data = self.stream.read(READ_BYTES, deadline.remaining())
        except DeadlineExceeded:
            raise deadline.exceeded() from None
        self._sort(data)
        return bool(data)

    def _sort(self, data: bytes) -> None:
        self._brought = len(data)
        for stream, piece in self._decoder.feed(data):
            if stream is Stream.OUTER:
                if piece:
                    self._keep(self._outer, piece)
                else:
                    self._outer_ended = True
            elif not piece:
                self.inner_ended = True
            elif self.keep_inner:
                self._keep(self.inner, piece)

    def _keep(self, queue: deque[bytes], piece: bytes) -> None:
        self._kept += len(piece)
        if self._kept > MAX_KEPT_BYTES:
            raise RemoteProtocolError(
                f"the peer sent more than {MAX_KEPT_BYTES} bytes of one stream before the other's"
                " end"
            )
        queue.append(piece)

    def take_inner(self) -> bytes:
        """The next kept piece of the inner stream; empty where there is none."""
        if not self.inner:
            return b""
        piece = self.inner.popleft()
        self._kept -= len(piece)
        return piece

    def drop_inner(self) -> None:
        """From now on, forget what arrives on the inner stream."""
        self.keep_inner = False
        while self.take_inner():
            pass

    def read(self, limit: int, deadline: Deadline | None = None) -> bytes:
        """1 to `limit` bytes of the outer stream; empty at its end."""
        while not self._outer:
            if self._outer_ended:
                return b""
            # Only where it would have to wait anyway: who sends faster is never kept waiting, in
            # records however small.
            if limit >= READ_BYTES and self._brought < SMALL_READ and not self.stream.has_input():
                time.sleep(GATHER_SECONDS)
            try:
                self.receive(None if deadline is None else deadline.remaining())
            except DeadlineExceeded:
                if deadline is None:
                    raise
                raise deadline.exceeded() from None
        piece = self._outer.popleft()
        if len(piece) > limit:
            self._outer.appendleft(piece[limit:])
            piece = piece[:limit]
        self._kept -= len(piece)
        return piece

    def read_exactly(self, count: int, deadline: Deadline | None = None) -> bytes:
        """Exactly `count` bytes of the outer stream; for small counts. `PeerClosed` if it ends."""
        piece = self.read(count, deadline) if count else b""
        if len(piece) == count:
            return piece
        parts = bytearray(piece)
        while len(parts) < count:
            piece = self.read(count - len(parts), deadline)
            if not piece:
                raise PeerClosed("the peer ended its outer stream where more was due")
            parts += piece
        return bytes(parts)

    def parse(self, parser: Parser[T], deadline: Deadline | None = None) -> T:
        """Run `parser` on the outer stream; all of it within `deadline` where one is given."""
        return run_parser(parser, lambda count: self.read_exactly(count, deadline))

    def parse_unless_ended(self, parser: Parser[T], deadline: Deadline | None = None) -> T | None:
        """Run `parser` on the outer stream; None where the stream ends before its first byte."""
        first = self.read(1, deadline)
        if not first:
            return None

        def read_exactly(count: int) -> bytes:
            nonlocal first
            ahead, first = first[:count], first[count:]
            return ahead + self.read_exactly(count - len(ahead), deadline)

        return run_parser(parser, read_exactly)

    def hand_over(self) -> tuple[list[tuple[Stream, bytes]], ChunkDecoder]:
        """Give away what has arrived and is unread, ends included, and the decoder to go on with.

        For a forwarder that takes the stream over; the order within each stream is kept.
        """
        pieces = [(Stream.OUTER, piece) for piece in self._outer]
        pieces += [(Stream.INNER, piece) for piece in self.inner]
        if self._outer_ended:
            pieces.append((Stream.OUTER, b""))
        if self.inner_ended:
            pieces.append((Stream.INNER, b""))
        self._outer.clear()
        self.inner.clear()
        return pieces, self._decoder

    def inner_within(self, data: bytes) -> Iterator[bytes]:
        """The pieces of the inner stream in `data`, which was read behind all that is here.

        For whoever forgets the rest: nothing can be read here any more. Raises `ProtocolError`.
        """
        return (piece for stream, piece in self._decoder.feed(data) if stream is Stream.INNER)

    @property
    def outer_waiting(self) -> bool:
        """Whether outer data has arrived that nobody has read yet."""
        return bool(self._outer)

    @property
    def listens(self) -> bool | None:
        """Whether the peer, a client, listens to a bridge's own word; None: not known yet."""
        return self._decoder.listens

    # ------------------------------------------------------------------------------------ writing

    def write_listening(self, data: bytes) -> None:
        """Send a request's first bytes as a client does that listens to a bridge's own word."""
        for chunk in encode_listening(data):
            self.stream.write(chunk, self.timeout)

    def write(self, data: bytes) -> None:
        """Send `data` on the outer stream as exactly one chunk; nothing where it is empty."""
        if data:
            self.stream.write(encode_chunk(Stream.OUTER, data), self.timeout)

    def end(self) -> None:
        """End the outer stream."""
        self.stream.write(END_OF_OUTER, self.timeout)

    def write_inner(self, data: bytes) -> None:
        """Send `data` on the inner stream, in a TLS record of its own."""
        self.stream.write(encode_chunk(Stream.INNER, data), self.timeout)

    def wait_for_close(
        self,
        timeout: float,
        most: int | None = None,
        look: Callable[[bytes], None] = lambda _data: None,
    ) -> None:
        """Read and forget until the peer closes, at most `timeout` seconds; never raises.

        Where `most` is given, so many bytes are read at most. `look` is given them.

        Closing first could make the kernel reset the connection and throw away what the peer has
        not read yet.
        """
        deadline = Deadline(timeout, "waiting for the peer to close")
        with contextlib.suppress(Exception):  # whatever went wrong, the connection is over
            while data := self.stream.read(READ_BYTES, deadline.remaining()):
                look(data)
                if most is not None and (most := most - len(data)) <= 0:
                    return
