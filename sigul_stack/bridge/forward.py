"""One paired request: two threads that move chunks, one in each direction.

Client to server goes in the caller's thread, server to client in a second one. Both know of the
request its `RequestState`; `TRANSITIONS` has all that can become of it. The reply's last byte
decides the end: the client is told, the server is let go, and the client has a moment to close
first, so that no reset throws away what it has not read. Nothing waits for either inner end:
clients end theirs late, or never. A close-notify is sent only when all is well; a request that
fails ends in a reset of both connections, so that a peer in the middle of sending notices.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import logging
import threading
import time
from collections.abc import Collection, Iterator
from typing import BinaryIO, Final

from ..errors import DeadlineExceeded, PeerClosed, RemoteProtocolError, TransportError
from ..protocol.chunks import (
    END_OF_INNER,
    END_OF_OUTER,
    MAX_WRITTEN_CHUNK,
    ChunkDecoder,
    Stream,
    encode_chunk,
)
from ..transport.payload import MIN_PAYLOAD_RATE
from ..transport.stream import READ_BYTES, ByteStream
from .register import Visit
from .streams import ReplyFilter, RequestFilter

log = logging.getLogger(__name__)

#: Seconds for a reply to be complete once its client has gone. Some clients close as soon as they
#: have read an error's header.
CLIENT_GONE_SECONDS: Final = 2.0


#: Seconds for what was written to a peer to arrive before its connection is reset.
LAST_WORDS_SECONDS: Final = 1.0


class RequestState(enum.Enum):
    """The stage that a request has reached."""

    #: The inner session is open: the server waits for the client's secrets.
    INNER_SESSION = enum.auto()
    #: The server has, or needs, no more secrets: it works, or replies.
    WORKING = enum.auto()
    #: The reply is complete; the client may still read, and be late with its inner end.
    REPLIED = enum.auto()
    #: The client has closed after its reply.
    CLOSED = enum.auto()
    FAILED = enum.auto()


class RequestEvent(enum.Enum):
    """An observation of either thread that may change the state."""

    INNER_END = enum.auto()
    #: A piece of the reply. Some servers never end their inner stream; none replies before it has
    #: heard all.
    REPLY = enum.auto()
    REPLY_END = enum.auto()
    CLIENT_END = enum.auto()
    ERROR = enum.auto()


#: The next state; an event that is not listed changes nothing. After its reply, nothing that a
#: client does is a failure any more.
TRANSITIONS: Final = {
    (RequestState.INNER_SESSION, RequestEvent.INNER_END): RequestState.WORKING,
    (RequestState.INNER_SESSION, RequestEvent.REPLY): RequestState.WORKING,
    (RequestState.INNER_SESSION, RequestEvent.REPLY_END): RequestState.REPLIED,
    (RequestState.INNER_SESSION, RequestEvent.ERROR): RequestState.FAILED,
    (RequestState.WORKING, RequestEvent.REPLY_END): RequestState.REPLIED,
    (RequestState.WORKING, RequestEvent.ERROR): RequestState.FAILED,
    (RequestState.REPLIED, RequestEvent.CLIENT_END): RequestState.CLOSED,
}
_WELL: Final = frozenset({RequestState.REPLIED, RequestState.CLOSED})
_OVER: Final = _WELL | {RequestState.FAILED}


class Progress:
    """The state of a request, shared by two threads."""

    def __init__(self) -> None:
        self._state = RequestState.INNER_SESSION
        self._changed = threading.Condition()

    @property
    def state(self) -> RequestState:
        """The present state."""
        return self._state

    def advance(self, event: RequestEvent) -> bool:
        """Take note of an event; True where that changes the state."""
        with self._changed:
            state = TRANSITIONS.get((self._state, event))
            if state is not None:
                self._state = state
                self._changed.notify_all()
            return state is not None

    def wait_for(self, states: Collection[RequestState], seconds: float | None) -> bool:
        """Wait for one of `states`; False after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state in states, seconds)


class Forwarding:
    """A client and a server joined for one request.

    `idle_timeout` is the longest time in seconds in which neither direction moves; `close_timeout`
    the seconds that the client has to close once its reply is complete. The client of a `visit`
    that is ended is left to be told why.
    """

    def __init__(
        self,
        client: ByteStream,
        server: ByteStream,
        request: RequestFilter,
        reply: ReplyFilter,
        *,
        idle_timeout: float,
        close_timeout: float,
        visit: Visit | None = None,
    ) -> None:
        self._client = client
        self._server = server
        self._request = request
        self._reply = reply
        self._idle_timeout = idle_timeout
        self._close_timeout = close_timeout
        self._visit = visit
        self._progress = Progress()
        self._error: Exception | None = None
        self._moved_at = time.monotonic()
        #: The number of threads that do something else than to move bytes.
        self._working_threads = 0
        self._lock = threading.Lock()

    def run(self, early: list[tuple[Stream, bytes]], decoder: ChunkDecoder) -> None:
        """Forward until the reply is complete. `early` and `decoder` continue the header's read.

        Both connections are over afterwards, closed in order where all went well. Raises what
        ended the request before that; then the caller frees them.
        """
        downstream = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._downstream,),
            name="forward-reply",
            daemon=True,
        )
        downstream.start()
        try:
            self._upstream(early, decoder)
        except Exception as error:  # noqa: BLE001 - raised below, once no thread uses the sockets
            self._fail(error)
        finally:
            self._progress.advance(RequestEvent.CLIENT_END)
            downstream.join()
        if self._error is not None:
            for stream in (
                (self._server,) if self._is_to_be_told() else (self._client, self._server)
            ):
                # What was written before may be an answer, and would be lost with a reset.
                stream.is_acknowledged(LAST_WORDS_SECONDS)
                stream.reset_on_close()
            raise self._error
        self._client.close()
        self._server.close()

    # ---------------------------------------------------------------------------- client → server

    def _upstream(self, early: list[tuple[Stream, bytes]], decoder: ChunkDecoder) -> None:
        # Only while more of a message is due: the time between those of a batch, and the time in
        # which the server takes nothing because it works on one, are not the client's.
        waited = 0.0
        received = 0
        self._send_up(early)
        while True:
            started = time.monotonic()
            data = self._read_client()
            waited += time.monotonic() - started
            if self._request.at_boundary:
                # Between two messages a client may well be silent.
                waited, received = 0.0, 0
            if not data:
                return
            received += len(data)
            allowed = self._idle_timeout + received / MIN_PAYLOAD_RATE
            if not self._request.finished and waited > allowed:
                raise DeadlineExceeded(
                    f"the client sent its payload slower than {MIN_PAYLOAD_RATE} bytes/s"
                )
            self._send_up(list(decoder.feed(data)))

    def _read_client(self) -> bytes:
        """Read from the client; empty once it has left and may leave."""
        while True:
            patience: float | None = CLIENT_GONE_SECONDS
            try:
                data = self._client.read(READ_BYTES, self._idle_timeout)
            except DeadlineExceeded:
                if self._idle():
                    raise
                continue
            except TransportError:
                data = b""
            else:
                if not data and self._request.at_boundary:
                    # Some clients close their side once the request is out, and go on reading: the
                    # reply's own limits end the wait. But one whose secrets the server still waits
                    # for has left, and must not keep it.
                    later = set(RequestState) - {RequestState.INNER_SESSION}
                    patience = None if self._progress.wait_for(later, CLIENT_GONE_SECONDS) else 0
            if data:
                self._moved_at = time.monotonic()
                return data
            if not self._progress.wait_for(_OVER, patience):
                raise PeerClosed("the client left before its reply was complete")
            return b""

    def _send_up(self, pieces: list[tuple[Stream, bytes]]) -> None:
        for stream, piece in pieces:
            if stream is Stream.INNER:
                self._write_server(self._inner_chunk(piece))
            elif piece:
                with self._working():
                    found = self._request.feed(piece)
                for part in found:
                    if isinstance(part, bytes):
                        self._write_server(encode_chunk(Stream.OUTER, part))
                    else:
                        self._send_file(part)
            elif self._request.at_boundary:
                self._write_server(END_OF_OUTER)
            else:
                raise RemoteProtocolError("the client ended its request in the middle")

    def _send_file(self, file: BinaryIO) -> None:
        with file:
            while data := file.read(MAX_WRITTEN_CHUNK):
                self._write_server(encode_chunk(Stream.OUTER, data))
                self._moved_at = time.monotonic()

    def _write_server(self, chunk: bytes) -> None:
        try:
            self._server.write(chunk, self._idle_timeout)
        except TransportError:
            # A server may end before it has read everything, once it has replied.
            if not self._progress.wait_for(_OVER, CLIENT_GONE_SECONDS):
                raise

    # ---------------------------------------------------------------------------- server → client

    def _downstream(self) -> None:
        try:
            self._forward_reply()
        except Exception as error:  # noqa: BLE001 - raised by the other thread
            self._fail(error)

    def _forward_reply(self) -> None:
        decoder = ChunkDecoder()
        while not self._reply.finished:
            data = self._read_server()
            ended = False
            for stream, piece in decoder.feed(data):
                if stream is Stream.INNER:
                    self._write_client(self._inner_chunk(piece))
                    continue
                self._progress.advance(RequestEvent.REPLY)
                with self._working():
                    found = self._reply.feed(piece)
                if found and self._visit is not None:
                    self._visit.replied = True
                for chunk in found:
                    assert isinstance(chunk, bytes)  # noqa: S101 - only requests have files
                    self._write_client(encode_chunk(Stream.OUTER, chunk))
                ended = not piece
            if ended:
                if not self._reply.at_boundary:
                    raise RemoteProtocolError("the server ended its reply in the middle")
                break
        # Over first, so that a client that closes on its end finds all in order.
        self._progress.advance(RequestEvent.REPLY_END)
        self._write_client(END_OF_OUTER)
        self._server.end_writing()
        log.info("[FORWARD] forward_two_way loop completed normally")
        if not self._progress.wait_for({RequestState.CLOSED}, self._close_timeout):
            log.info("The client did not close within %g s of its reply", self._close_timeout)
            self._client.abort()
            if not self._request.at_boundary:
                self._client.reset_on_close()

    def _read_server(self) -> bytes:
        while True:
            try:
                data = self._server.read(READ_BYTES, self._idle_timeout)
            except DeadlineExceeded:
                if self._idle():
                    raise
                continue
            if not data:
                raise PeerClosed(
                    "the server ended the connection without a reply: its log has the reason"
                )
            self._moved_at = time.monotonic()
            return data

    def _write_client(self, chunk: bytes) -> None:
        try:
            self._client.write(chunk, self._idle_timeout)
        except TransportError:
            if self._progress.state not in _WELL and not self._reply.is_error:
                raise
            log.info("The client left before it had read the end of its reply")
        self._moved_at = time.monotonic()

    # ------------------------------------------------------------------------------------- either

    def _inner_chunk(self, piece: bytes) -> bytes:
        """Encode a piece of the inner stream, or its end where the piece is empty."""
        if piece:
            return encode_chunk(Stream.INNER, piece)
        self._progress.advance(RequestEvent.INNER_END)
        return END_OF_INNER

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Run a block in which nothing moves: Koji may be asked there, with limits of its own."""
        with self._lock:
            self._working_threads += 1
        try:
            yield
        finally:
            with self._lock:
                self._working_threads -= 1
            self._moved_at = time.monotonic()

    def _idle(self) -> bool:
        return not self._working_threads and time.monotonic() - self._moved_at >= self._idle_timeout

    def _fail(self, error: Exception) -> None:
        """End both connections without a close-notify; the other direction's thread fails too."""
        if self._progress.advance(RequestEvent.ERROR):
            self._error = error
            if not self._is_to_be_told():
                self._client.abort()
            self._server.abort()

    def _is_to_be_told(self) -> bool:
        """Tell whether the client is to hear why its request ends."""
        visit = self._visit
        return visit is not None and bool(visit.reason) and not visit.replied
