"""The chunk layer: two streams, outer and inner, inside one TLS session's direction.

Layout (docs/protocol.md, "Chunks"):

    u32 head   bit 31: 1 = inner, 0 = outer;  bits 0–30: length L
    L bytes    of that stream;  L = 0 is the end of that stream in that direction

Boundaries carry no meaning to this reader, but for a request's first two: a client that cuts them
as `encode_listening` does listens to a bridge's own word. Nothing of the outer stream may follow
its end. What follows the inner stream's is dropped: old clients send the inner close-notify that
late.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from ..errors import LocalProtocolError, RemoteProtocolError
from .codec import U32_BYTES, pack_u32, unpack_u32

_INNER_BIT: Final = 0x8000_0000
_LENGTH_MASK: Final = 0x7FFF_FFFF

#: Largest chunk that may be written to anybody, in bytes: a client in the field spins for ever over
#: a larger one.
MAX_CHUNK: Final = 1024**2
#: Largest chunk in which this package writes payloads, in bytes; smaller ones keep the other
#: stream's wait short.
MAX_WRITTEN_CHUNK: Final = 256 * 1024


#: Bytes of the first two chunks of a client that listens: no other client cuts an integer.
_LISTENING_CUT: Final = (1, 3)


class Stream(enum.Enum):
    """The two streams of a connection."""

    OUTER = "outer"
    INNER = "inner"


def encode_head(stream: Stream, length: int) -> bytes:
    """The head of a chunk of `length` bytes (0: the end of `stream`)."""
    if not 0 <= length <= _LENGTH_MASK:
        raise LocalProtocolError(f"a chunk cannot have {length} bytes")
    return pack_u32(length | (_INNER_BIT if stream is Stream.INNER else 0))


def encode_chunk(stream: Stream, data: bytes | memoryview) -> bytes:
    """A whole chunk, head and data in one piece, so that one send carries both.

    Raises `LocalProtocolError` for one that is larger than anybody may be sent.
    """
    if len(data) > MAX_CHUNK:
        raise LocalProtocolError(f"a chunk of {len(data)} bytes is not sent to anybody")
    return b"".join((encode_head(stream, len(data)), data))


def encode_listening(data: bytes) -> list[bytes]:
    """The first chunks, of `data`, of a client that listens to a bridge's own word."""
    pieces, rest = [], data
    for size in _LISTENING_CUT:
        pieces.append(encode_chunk(Stream.OUTER, rest[:size]))
        rest = rest[size:]
    return [*pieces, encode_chunk(Stream.OUTER, rest)]


END_OF_OUTER: Final = encode_head(Stream.OUTER, 0)
END_OF_INNER: Final = encode_head(Stream.INNER, 0)


class ChunkDecoder:
    """Takes the bytes of a TLS session's direction, gives the pieces of its two streams.

    Pieces come out as they arrive, cut where the input or a chunk was cut; an empty piece is the
    end of that stream.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._stream = Stream.OUTER
        self._left = 0
        self._late = False
        self._ended: set[Stream] = set()
        #: The first chunks' heads.
        self._first: list[int] = []

    @property
    def between_chunks(self) -> bool:
        """Whether the input so far ends at a chunk's boundary (where a TLS session may end)."""
        return not self._head and self._left == 0

    @property
    def left(self) -> int:
        """The bytes that are still to come of the chunk in which the input so far ends."""
        return self._left

    @property
    def listens(self) -> bool | None:
        """Whether the writer listens to a bridge's own word; None as long as that is not known.

        It is that of a client that cuts its first chunks as `encode_listening` does.
        """
        if any(head != size for head, size in zip(self._first, _LISTENING_CUT, strict=False)):
            return False
        return True if len(self._first) == len(_LISTENING_CUT) else None

    def ended(self, stream: Stream) -> bool:
        """Whether `stream` has come to its end."""
        return stream in self._ended

    def whole(self, data: bytes) -> memoryview | None:
        """The content of `data`, where that is one whole chunk of the outer stream: it is taken.

        None for anything else, of which nothing is taken: it is to be fed.
        """
        if (
            len(data) <= U32_BYTES
            or not self.between_chunks
            or Stream.OUTER in self._ended
            or len(self._first) < len(_LISTENING_CUT)
            or unpack_u32(data[:U32_BYTES]) != len(data) - U32_BYTES
        ):
            return None
        return memoryview(data)[U32_BYTES:]

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[Stream, bytes]]:
        """The pieces in `data`, in order. Raises `ProtocolError` for data behind the outer end.

        The iterator must be used up before the next call. Once it has raised, so does every next.
        """
        view = memoryview(data)
        while view:
            if self._left == 0:
                missing = U32_BYTES - len(self._head)
                self._head += view[:missing]
                view = view[missing:]
                if len(self._head) < U32_BYTES:
                    return
                self._begin(unpack_u32(bytes(self._head)))
                self._head.clear()
                if self._left == 0 and not self._late:
                    self._ended.add(self._stream)
                    yield self._stream, b""
                continue
            if isinstance(data, bytes) and self._left >= view.nbytes == len(data):
                piece = data
            else:
                piece = bytes(view[: self._left])
            view = view[len(piece) :]
            self._left -= len(piece)
            if not self._late:
                yield self._stream, piece

    def _begin(self, head: int) -> None:
        if len(self._first) < len(_LISTENING_CUT):
            self._first.append(head)
        stream = Stream.INNER if head & _INNER_BIT else Stream.OUTER
        late = stream in self._ended
        if late and stream is Stream.OUTER:
            raise RemoteProtocolError("a chunk of the outer stream follows its end")
        self._stream, self._left, self._late = stream, head & _LENGTH_MASK, late
