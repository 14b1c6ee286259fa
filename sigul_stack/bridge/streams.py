"""Filters for the outer streams of requests and replies: what passes, and how it is cut.

Both filters take the outer bytes as they arrive and give the chunks to send on; no I/O. The cut
towards a client is the one that the strictest readers in the field insist on (docs/protocol.md,
"Habits of peers"): header with its code in one chunk, the payload length in one of its own, payload
chunks that end where the payload does, its code in one of 64 bytes.

What has to be fetched or stored is asked of the request's `KojiSession`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from ..errors import ProtocolError, RemoteProtocolError, Status, TransportError, printable
from ..formats.rpm_head import Buffer, CorruptRPM, Head, Header, read_head, read_header
from ..formats.rpm_tags import Region
from ..kojihub import KojiError
from ..protocol.authentication import DIGEST_BYTES
from ..protocol.chunks import MAX_WRITTEN_CHUNK
from ..protocol.codec import Fields, Parser, pack_u32
from ..protocol.knowledge import KNOWS, encode_trailer, words_in
from ..protocol.messages import (
    UnknownVersion,
    bridge_refusal,
    bridge_subrefusal,
    read_reply_header,
    read_sub_header,
)
from ..protocol.operations import Operation, fault_of_subrequest
from ..protocol.versions import Version
from .head_room import UNCOUNTED_BYTES
from .koji import FetchedRPM, KojiSession

T = TypeVar("T")

#: Asks for a count of bytes: gathered into one piece (True), or up to so many as they come (False).
_Ask = tuple[bool, int]
#: It is given bytes. What comes in no certain size may be a view, where one was fed.
_Steps = Generator[_Ask, Any, T]
#: A chunk to send on, or an RPM whose content is to be sent in chunks, and closed.
Piece = bytes | memoryview | FetchedRPM


#: Why an RPM passes without its content where there is no room for it.
_NO_ROOM = TransportError(
    "the requests of this certificate have more bytes under way than they may"
    " (max-bytes-in-flight-per-user)",
    "send them one after the other",
)


class WordNotHeard(RemoteProtocolError):
    """A server refuses without proof, and its client does not know such a word."""


class _OuterFilter:
    """Runs `_run` over bytes as they come, and collects the chunks that it emits.

    `finished` tells that the message is complete; `at_boundary` that the stream may end here.
    """

    def __init__(self) -> None:
        self.finished = False
        self.at_boundary = False
        self._boundary_next = False
        self._failure: ProtocolError | None = None
        #: What follows the message's end is dropped, and no error.
        self._forgets_rest = False
        self._chunks: list[Piece] = []
        self._gathered = bytearray()
        self._unread = 0
        self._steps = self._run()
        self._ask: _Ask = (False, 0)
        self._advance(None)

    def _run(self) -> _Steps[None]:
        raise NotImplementedError

    def close(self) -> None:
        """End it, in the middle of a message too: what it counts there is counted no more."""
        self._steps.close()

    def feed(self, data: bytes | memoryview) -> list[Piece]:
        """Take `data`; return what to send on: of the middle of a payload that very object.

        Raises `ProtocolError`, and from then on at every call.
        """
        if self._failure is not None:
            raise self._failure
        rest = memoryview(data)
        while rest:
            if self.finished:
                if self._forgets_rest:
                    break
                raise RemoteProtocolError(f"{len(rest)} bytes follow the end of the message")
            gather, count = self._ask
            if not gather:
                # The middle of a payload, which is most of what passes here: seldom copied.
                part, rest = rest[:count], rest[count:]
                self._advance(data if part.nbytes == len(data) else bytes(part))
                continue
            missing = count - len(self._gathered)
            piece, rest = rest[:missing], rest[missing:]
            self._gathered += piece
            if len(self._gathered) == count:
                whole = bytes(self._gathered)
                self._gathered.clear()
                self._advance(whole)
                del whole  # it may be large
            else:
                self.at_boundary = False
        chunks, self._chunks = self._chunks, []
        return chunks

    def _advance(self, answer: bytes | memoryview | None) -> None:
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

    def _emit(self, chunk: Piece) -> None:
        """Have a chunk sent on; in several where it is larger than any that is written."""
        if not isinstance(chunk, FetchedRPM) and len(chunk) > MAX_WRITTEN_CHUNK:
            starts = range(0, len(chunk), MAX_WRITTEN_CHUNK)
            self._chunks += (chunk[start : start + MAX_WRITTEN_CHUNK] for start in starts)
        else:
            self._chunks.append(chunk)

    def _payload(self, length: int, *, keep: bool = True) -> _Steps[None]:
        """Let `length` bytes through, or drop them, as they come."""
        while length:
            piece = yield (False, length)
            length -= len(piece)
            if keep:
                self._emit(piece)

    def _parse(
        self,
        parser: Parser[T],
        *,
        may_end_before: bool = False,
        limit: int | None = None,
        before: Callable[[int], None] = lambda _count: None,
    ) -> _Steps[T]:
        """Run a parser of the protocol; the stream may end before its first byte if so told.

        It reads no more than `limit` bytes, where one is given; of those, `_unread` are left.
        `before` is called with each count of bytes before they are gathered, and may raise.
        """
        try:
            wanted = next(parser)
            self._boundary_next = may_end_before
            self._unread = limit or 0
            while True:
                if limit is not None and wanted > self._unread:
                    raise CorruptRPM("the server sent an RPM that is truncated")
                before(wanted)
                self._unread -= wanted
                wanted = parser.send((yield (True, wanted)))
        except StopIteration as end:
            value: T = end.value
            return value


class RequestFilter(_OuterFilter):
    """A request's outer stream behind its header and payload length: payload, then subrequests.

    `length` is the payload's, in bytes. With subrequests, `max_total` limits all their payloads
    together, in bytes, and the stream goes on until its end: an RPM over the limit is let through
    without its content. So is one for which `holding`, a block in which its length counts, tells
    that there is no room.
    """

    def __init__(
        self,
        version: Version,
        operation: Operation,
        length: int,
        max_total: int,
        koji: KojiSession,
        holding: Callable[[int], AbstractContextManager[bool]] = lambda _length: nullcontext(True),
    ) -> None:
        self._version = version
        self._operation = operation
        self._length = length
        self._max_total = max_total
        self._koji = koji
        self._holding = holding
        #: The subrequests that have come completely.
        self.subrequests = 0
        super().__init__()

    def _run(self) -> _Steps[None]:
        passed = 0
        if self._koji.lacks_name() and not self._operation.subrequests:
            passed = yield from self._with_head(self._length, None)
        yield from self._payload(self._length - passed)
        total = 0
        while self._operation.subrequests:
            header = yield from self._parse(read_sub_header(), may_end_before=True)
            # The server refuses the one that is.
            odd = fault_of_subrequest(header.fields) is not None
            self._emit(header.encode())
            length = yield from self._parse(self._version.read_length())
            if length > self._operation.max_subpayload:
                raise RemoteProtocolError(
                    f"a subrequest's payload of {length} bytes is over the limit"
                )
            if not odd:
                self._koji.note(header.fields)
            if odd or length or "rpm-name" not in header.fields:
                with self._holding(length) as has_room:
                    # One RPM too many costs that RPM alone: the server gets it without content.
                    keep = total + length <= self._max_total and has_room
                    if keep:
                        total += length
                    elif not (odd or has_room):
                        self._koji.refuse(header.fields["id"], _NO_ROOM)
                    self._emit(self._version.encode_length(length if keep else 0))
                    passed = 0
                    if keep and not odd and self._koji.lacks_name(header.fields):
                        passed = yield from self._with_head(length, header.fields["id"])
                    yield from self._payload(length - passed, keep=keep)
            else:
                total += self._fetch(header.fields, self._max_total - total)
            self._emit((yield (True, DIGEST_BYTES)))
            self.subrequests += 1

    def _with_head(self, length: int, number: bytes | None) -> _Steps[int]:
        """Let an RPM's head through, and have it remembered which RPM it is of.

        Returns its length in bytes, or what has passed until it was found to be none, or too large.
        """
        parser, passed = read_head(), 0
        try:
            wanted = next(parser)
            while wanted <= min(length - passed, UNCOUNTED_BYTES):
                piece = yield (True, wanted)
                passed += wanted
                self._emit(piece)
                wanted = parser.send(piece)
        except StopIteration as end:
            self._koji.note_head(end.value, number)
        except CorruptRPM:
            pass  # the server says so
        return passed

    def _fetch(self, fields: Fields, limit: int) -> int:
        """Fetch an RPM and send it on; returns its length. The client's MAC is of no payload."""
        found = self._koji.fetch_for(fields, min(limit, self._operation.max_subpayload))
        if found is None:
            self._emit(self._version.encode_length(0))
            return 0
        self._emit(self._version.encode_length(found.length))
        self._emit(found)
        return found.length


class ReplyFilter(_OuterFilter):
    """A reply's outer stream, cut for a client. `keep_payload` false drops payloads on the way.

    `listens` tells whether the client knows what is said without proof (`encode_listening`).

    Signatures that are to be stored are so before their client hears of them.
    """

    def __init__(
        self,
        version: Version,
        operation: Operation,
        koji: KojiSession,
        *,
        keep_payload: bool = True,
        listens: bool = True,
    ) -> None:
        self._version = version
        self._operation = operation
        self._keep_payload = keep_payload
        self._listens = listens
        self._koji = koji
        #: The reply is an error, whose header is all that its client may read.
        self.is_error = False
        #: The server does not speak the request's version.
        self.version_is_unknown = False
        #: What the bridge has to say behind the reply, before the stream's end.
        self.trailer = b""
        #: The words that the server has said; None: none were asked for, or the reply is an error.
        self.server_words: frozenset[str] | None = None
        #: The subrequests that have been answered.
        self.subreplies = 0
        super().__init__()

    def _run(self) -> _Steps[None]:
        try:
            header = yield from self._parse(read_reply_header(self._version))
        except UnknownVersion:
            # Some servers give it the shape of other errors; its client reads four bytes.
            self._emit(pack_u32(Status.UNKNOWN_VERSION))
            self.version_is_unknown = self.is_error = self._forgets_rest = True
            return
        self.is_error = header.status != Status.OK
        if header.is_without_proof and not self._listens:
            raise WordNotHeard(
                f"the server refuses: {printable(header.message)}; its client knows no such word"
            )
        subreplies = self._operation.subrequests and header.status == Status.OK
        if KNOWS in header.fields and not (self._operation.subrequests or self.is_error):
            self.trailer = encode_trailer()
        if not self.is_error:
            self.server_words = words_in(header.fields)
        if self._koji.stores and not subreplies and not self.is_error:
            yield from self._stored(header.encode(), None)
            return
        self._emit(header.encode())
        yield from self._body(keep=self._keep_payload or subreplies)
        while subreplies:
            subheader = yield from self._parse(read_sub_header(), may_end_before=True)
            number = subheader.fields.blob("id")
            reason = self._koji.reason(number)
            if reason is not None:
                # The server can say only that no RPM came.
                length = yield from self._parse(self._version.read_length())
                yield from self._refused(reason, number, length)
            elif self._koji.stores and subheader.fields.integer("status") == Status.OK:
                yield from self._stored(subheader.encode(), number)
            else:
                self._emit(subheader.encode())
                yield from self._body(keep=self._keep_payload)
            self._koji.forget(number)
            self.subreplies += 1

    def _body(self, *, keep: bool) -> _Steps[None]:
        """Payload length, payload and code. A dropped payload has length 0 but keeps its code."""
        length = yield from self._parse(self._version.read_length())
        self._emit(self._version.encode_length(length if keep else 0))
        yield from self._payload(length, keep=keep)
        self._emit((yield (True, DIGEST_BYTES)))

    def _refused(self, reason: str, number: bytes | None, left: int) -> _Steps[None]:
        """Say `reason` in the place of the server's answer, of which `left` bytes are dropped.

        It is of the subrequest with this `id`; where None, of the request.
        """
        self._chunks += (
            bridge_refusal(reason, self._version)
            if number is None
            else bridge_subrefusal(number, reason, self._version)
        )
        yield from self._payload(left, keep=False)
        yield (True, DIGEST_BYTES)

    def _stored(self, header: bytes, number: bytes | None) -> _Steps[None]:
        """A message with a signed RPM, or its signature header, which is stored first."""
        length = yield from self._parse(self._version.read_length())
        # It is held until it has been sent on, however the request ends.
        with self._koji.head_room() as room:
            head: Head | None = None
            try:
                if self._koji.head_signing:
                    signature: Header = yield from self._parse(
                        read_header(Region.SIGNATURE), limit=length, before=room
                    )
                    parts: tuple[Buffer, ...] = (signature.raw,)
                else:
                    head = yield from self._parse(read_head(), limit=length, before=room)
                    signature, parts = head.signature, head.parts
            except KojiError as error:
                yield from self._unstored(str(error), number, self._unread)
                return
            left = length - sum(map(len, parts))
            reason = self._koji.store(signature, head, number)
            if reason is not None:
                yield from self._unstored(reason, number, left)
                return
            keep = self._keep_payload
            self._emit(header)
            self._emit(self._version.encode_length(length if keep else 0))
            for part in parts if keep else ():
                self._emit(bytes(part))
            yield from self._payload(left, keep=keep)
            self._emit((yield (True, DIGEST_BYTES)))

    def _unstored(self, reason: str, number: bytes | None, left: int) -> _Steps[None]:
        """A signed RPM that is not stored, for that `reason`; `left` bytes of it are to come."""
        if number is None:
            self.is_error, self.trailer = True, b""
        yield from self._refused(reason, number, left)
