"""What the bridge lets through of a request's and a reply's outer stream, and how it is cut.

Both filters take the outer bytes as they arrive and give the chunks to send on; no I/O. The cut
towards a client is the one that the strictest readers in the field insist on (docs/protocol.md,
"Habits of peers"): header with its code in one chunk, the payload length in one of 8 bytes, payload
chunks that end where the payload does, its code in one of 64 bytes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from ..errors import ProtocolError, Status
from ..protocol.codec import Parser, pack_u32, pack_u64, read_u64
from ..protocol.messages import (
    DIGEST_BYTES,
    UnknownVersion,
    read_reply_header,
    read_sub_header,
)
from ..protocol.operations import Operation, check_subrequest

T = TypeVar("T")

#: Asks for a count of bytes: gathered into one piece (True), or up to so many as they come (False).
_Ask = tuple[bool, int]
_Steps = Generator[_Ask, bytes, T]


class _OuterFilter:
    """Runs `_run` over bytes as they come, and collects the chunks that it emits.

    `finished` tells that the message is complete; `at_boundary` that the stream may end here.
    """

    def __init__(self) -> None:
        self.finished = False
        self.at_boundary = False
        self._boundary_next = False
        self._failure: ProtocolError | None = None
        self._chunks: list[bytes] = []
        self._gathered = bytearray()
        self._steps = self._run()
        self._ask: _Ask = (False, 0)
        self._advance(None)

    def _run(self) -> _Steps[None]:
        raise NotImplementedError

    def feed(self, data: bytes) -> list[bytes]:
        """Take `data`; return the chunks to send on.

        Raises `ProtocolError`, and from then on at every call.
        """
        if self._failure is not None:
            raise self._failure
        rest = memoryview(data)
        while rest:
            if self.finished:
                raise ProtocolError(f"{len(rest)} bytes follow the end of the message")
            gather, count = self._ask
            piece, rest = _split(rest, count - len(self._gathered))
            self._gathered += piece
            if not gather or len(self._gathered) == count:
                whole = bytes(self._gathered)
                self._gathered.clear()
                self._advance(whole)
            else:
                self.at_boundary = False
        chunks, self._chunks = self._chunks, []
        return chunks

    def _advance(self, answer: bytes | None) -> None:
        self._boundary_next = False
        try:
            self._ask = next(self._steps) if answer is None else self._steps.send(answer)
            self.at_boundary = self._boundary_next
        except StopIteration:
            self.finished = self.at_boundary = True
        except ProtocolError as error:
            self._failure = error
            self.at_boundary = False
            raise

    def _emit(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def _payload(self, length: int, *, keep: bool = True) -> _Steps[None]:
        """Let `length` bytes through, or drop them, as they come."""
        while length:
            piece = yield (False, length)
            length -= len(piece)
            if keep:
                self._emit(piece)

    def _parse(self, parser: Parser[T], *, may_end_before: bool = False) -> _Steps[T]:
        """Run a parser of the protocol; the stream may end before its first byte if so told."""
        try:
            wanted = next(parser)
            self._boundary_next = may_end_before
            while True:
                wanted = parser.send((yield (True, wanted)))
        except StopIteration as end:
            value: T = end.value
            return value


def _split(view: memoryview, count: int) -> tuple[memoryview, memoryview]:
    return view[:count], view[count:]


class RequestFilter(_OuterFilter):
    """A request's outer stream behind its header and payload length: payload, then subrequests.

    `length` is the payload's, in bytes. With subrequests, `max_total` limits all their payloads
    together, in bytes, and the stream goes on until its end: an RPM over the limit is let through
    without its content.
    """

    def __init__(self, operation: Operation, length: int, max_total: int) -> None:
        self._operation = operation
        self._length = length
        self._max_total = max_total
        super().__init__()

    def _run(self) -> _Steps[None]:
        yield from self._payload(self._length)
        total = 0
        while self._operation.subrequests:
            header = yield from self._parse(read_sub_header(), may_end_before=True)
            check_subrequest(header.fields)
            self._emit(header.encode())
            length = yield from self._parse(read_u64())
            if length > self._operation.max_subpayload:
                raise ProtocolError(f"a subrequest's payload of {length} bytes is over the limit")
            # One RPM too many costs that RPM alone: the server is told of it, without content.
            keep = total + length <= self._max_total
            if keep:
                total += length
            self._emit(pack_u64(length if keep else 0))
            yield from self._payload(length, keep=keep)
            self._emit((yield (True, DIGEST_BYTES)))


class ReplyCutter(_OuterFilter):
    """A reply's outer stream, cut for a client. `keep_payload` false drops payloads on the way."""

    def __init__(self, operation: Operation, *, keep_payload: bool = True) -> None:
        self._operation = operation
        self._keep_payload = keep_payload
        #: Whether the reply is an error, whose header is all that its client may read.
        self.is_error = False
        super().__init__()

    def _run(self) -> _Steps[None]:
        try:
            header = yield from self._parse(read_reply_header())
        except UnknownVersion:
            self._emit(pack_u32(Status.UNKNOWN_VERSION))
            return
        self._emit(header.encode())
        self.is_error = header.status != Status.OK
        subreplies = self._operation.subrequests and header.status == Status.OK
        yield from self._body(keep=self._keep_payload or subreplies)
        while subreplies:
            subheader = yield from self._parse(read_sub_header(), may_end_before=True)
            self._emit(subheader.encode())
            yield from self._body(keep=self._keep_payload)

    def _body(self, *, keep: bool) -> _Steps[None]:
        """Payload length, payload and code. A dropped payload has length 0 but keeps its code."""
        length = yield from self._parse(read_u64())
        self._emit(pack_u64(length if keep else 0))
        yield from self._payload(length, keep=keep)
        self._emit((yield (True, DIGEST_BYTES)))
