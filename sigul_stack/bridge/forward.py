"""One paired request: two threads that move chunks, one in each direction.

Client to server goes in the caller's thread, server to client in a second one. Both know of the
request its state (`request_states`), and what can become of it. The reply's last byte
decides the end: the client is told, the server is let go, and the client has a moment to close
first, so that no reset throws away what it has not read. Nothing waits for either inner end:
clients end theirs late, or never. A close-notify is sent only when all is well; a request that
fails ends in a reset of both connections, so that a peer in the middle of sending notices. A client
that has heard nothing of its reply yet, and is the one at fault, is told why before.

A client must keep to a minimum rate, whenever it is the one that is waited for: in the middle of
its payload or of a subrequest, and while it reads. Between two subrequests it may pause.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

from ..errors import DeadlineExceeded, PeerClosed, RemoteProtocolError, TransportError
from ..logevents import tell
from ..protocol.chunks import (
    END_OF_INNER,
    END_OF_OUTER,
    MAX_WRITTEN_CHUNK,
    ChunkDecoder,
    Stream,
    encode_chunk,
)
from ..transport.rate import RateMeter
from ..transport.request_id import RequestWatch
from ..transport.stream import READ_BYTES, RECORD_BYTES, ByteStream
from .koji import FetchedRPM
from .log_events import BridgeLog
from .register import Visit
from .request_states import OVER, WELL, Progress, RequestEvent, RequestState
from .streams import ReplyFilter, RequestFilter, WordNotHeard

log = logging.getLogger(__name__)

#: Seconds for a reply to be complete once its client has gone. Some clients close as soon as they
#: have read an error's header.
CLIENT_GONE_SECONDS: Final = 2.0


#: Pause between looks whether a client that has closed its side is still there, in seconds.
LOOK_SECONDS: Final = 1.0

#: Longest pause between two subrequests, once all that came are answered, in seconds. A client may
#: ask Koji about the next RPM meanwhile.
PAUSE_SECONDS: Final = 180.0
#: Shortest wait, in seconds, where a limit is over in this moment.
_LEAST_WAIT_SECONDS: Final = 0.01
#: Seconds for what was written to a peer to arrive before its connection is reset.
LAST_WORDS_SECONDS: Final = 1.0


class Forwarding:
    """A client and a server joined for one request.

    `idle_timeout` is the longest time in seconds in which neither direction moves; `close_timeout`
    the seconds that the client has to close once its reply is complete; `min_rate` the bytes a
    second that it must send or take. Of a `visit` that is ended, the client is left to be told why.
    One that `listens` knows that an answer may come before the inner session's end.
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
        min_rate: int,
        visit: Visit,
        listens: bool = True,
    ) -> None:
        self._client = client
        self._server = server
        self._request = request
        self._reply = reply
        self._idle_timeout = idle_timeout
        self._close_timeout = close_timeout
        self._sends = RateMeter(min_rate, "the client sent its request")
        self._takes = RateMeter(min_rate, "the client read its reply")
        self._visit = visit
        self._listens = listens
        #: The client has been sent the end of the server's inner stream.
        self._inner_is_over = False
        #: The client is to be told of the error.
        self._tells = False
        #: The server's connection has ended before its reply did.
        self._server_lost = False
        self._request_id = RequestWatch()
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
            self._fail(error, tell=not isinstance(error, PeerClosed))
        finally:
            self._progress.advance(RequestEvent.CLIENT_END)
            downstream.join()
        if self._error is not None:
            if self._tells and not self._visit.reason and not self._visit.replied:
                self._visit.refuse(str(self._error))
            if not (self._tells and self._visit.reason):
                self._client.abort()
                self._let_go(self._client)
            self._let_go(self._server)
            raise self._error
        self._client.close()
        self._server.close()

    @staticmethod
    def _let_go(stream: ByteStream) -> None:
        """Have a connection reset once what was written before has arrived: it may be an answer."""
        stream.is_acknowledged(LAST_WORDS_SECONDS)
        stream.reset_on_close()

    # ---------------------------------------------------------------------------- client → server

    def _upstream(self, early: list[tuple[Stream, bytes]], decoder: ChunkDecoder) -> None:
        self._send_up(early)
        while True:
            data = self._read_client(_amount(decoder))
            if not data:
                return
            content = decoder.whole(data)
            if content is None:
                self._send_up(list(decoder.feed(data)))
            else:
                self._filter_up(content, data)

    def _read_client(self, amount: int) -> bytes:
        """Read up to `amount` bytes from the client; empty once it has left and may leave."""
        while True:
            patience: float | None = CLIENT_GONE_SECONDS
            try:
                data = self._read_in_time(amount)
            except DeadlineExceeded:
                raise
            except TransportError:
                data = b""
            else:
                if not data and self._request.at_boundary and not self._client.was_cut_off():
                    # Some clients close their side once the request is out, and go on reading: the
                    # reply's own limits end the wait. But one whose secrets the server still waits
                    # for has left, and must not keep it.
                    later = set(RequestState) - {RequestState.INNER_SESSION}
                    patience = None if self._progress.wait_for(later, CLIENT_GONE_SECONDS) else 0
            if data:
                return data
            if not self._is_over(patience):
                raise PeerClosed("the client left before its reply was complete")
            return b""

    def _is_over(self, patience: float | None) -> bool:
        """Wait until the request is over, at most so many seconds; None: as long as the client is.

        One that closed its side reads on, or has gone: what was closed is reset before long.
        """
        if patience is not None:
            return self._progress.wait_for(OVER, patience)
        while not self._progress.wait_for(OVER, LOOK_SECONDS):
            if self._client.is_broken():
                return False
        return True

    def _read_in_time(self, amount: int) -> bytes:
        """Read from the client. Raises `TooSlow`, or another `DeadlineExceeded` after a silence."""
        while True:
            # Between two messages, and while the server works, a client may well be silent.
            meter = None if self._request.at_boundary else self._sends
            silence = self._silence_left(self._longest_silence())
            limit = silence if meter is None else min(silence, meter.limit())
            begin = time.monotonic()
            try:
                data = self._client.read(amount, max(limit, _LEAST_WAIT_SECONDS))
            except DeadlineExceeded:
                if self._progress.state is RequestState.FAILED:
                    raise
                data = None
            now = time.monotonic()
            if meter is not None:
                meter.waited(now - begin, len(data or b""))
            if data is not None:
                if data:
                    self._moved_at = now
                return data
            longest = self._longest_silence()
            if self._silence_left(longest) <= 0:
                raise DeadlineExceeded(f"client and server were silent for {longest:g} s")

    def _longest_silence(self) -> float:
        """The limit in seconds on the silence that there is just now."""
        if (
            self._request.at_boundary
            and not self._request.finished
            and self._progress.state is RequestState.WORKING
            and self._request.subrequests <= self._reply.subreplies
        ):
            return min(PAUSE_SECONDS, self._idle_timeout)
        return self._idle_timeout

    def _silence_left(self, longest: float) -> float:
        """Seconds until nothing has moved, or been worked on, for the `longest` time."""
        if self._working_threads:
            return longest
        return longest - (time.monotonic() - self._moved_at)

    def _send_up(self, pieces: list[tuple[Stream, bytes]]) -> None:
        for stream, piece in pieces:
            if stream is Stream.INNER:
                self._request_id.feed(piece)
                self._write_server(self._inner_chunk(piece))
            elif piece:
                self._filter_up(piece)
            elif self._request.at_boundary:
                self._write_server(END_OF_OUTER)
            else:
                raise RemoteProtocolError("the client ended its request in the middle")

    def _filter_up(self, piece: bytes | memoryview, chunk: bytes = b"") -> None:
        """Send on what the filter makes of a piece; `chunk` as it came, where it is that piece."""
        with self._working():
            found = self._request.feed(piece)
        for part in found:
            if isinstance(part, FetchedRPM):
                self._send_file(part)
            else:
                self._write_server(_as_chunk(part, piece, chunk))

    def _send_file(self, fetched: FetchedRPM) -> None:
        with fetched:
            while data := fetched.file.read(MAX_WRITTEN_CHUNK):
                self._write_server(encode_chunk(Stream.OUTER, data))
                self._moved_at = time.monotonic()

    def _write_server(self, chunk: bytes) -> None:
        try:
            self._server.write(chunk, self._idle_timeout)
            self._visit.up += len(chunk)
        except TransportError:
            # A server may end before it has read everything, once it has replied.
            if not self._progress.wait_for(OVER, CLIENT_GONE_SECONDS):
                raise

    # ---------------------------------------------------------------------------- server → client

    def _downstream(self) -> None:
        try:
            self._forward_reply()
        except Exception as error:  # noqa: BLE001 - raised by the other thread
            # A client that is left without a word cannot tell the server's end from the bridge's.
            if self._fail(error, tell=self._server_lost or isinstance(error, WordNotHeard)):
                # The other thread, which tells it, may be waiting for what it says.
                self._client.end_reading()

    def _forward_reply(self) -> None:
        decoder = ChunkDecoder()
        while not self._reply.finished:
            data = self._read_server(_amount(decoder))
            ended = False
            content = decoder.whole(data)
            for stream, piece in (
                decoder.feed(data) if content is None else [(Stream.OUTER, content)]
            ):
                if stream is Stream.INNER:
                    self._pass_inner(piece)
                    continue
                self._progress.advance(RequestEvent.REPLY)
                with self._working():
                    found = self._reply.feed(piece)
                if found:
                    self._visit.replied = True
                    self._end_inner()
                for chunk in found:
                    assert not isinstance(chunk, FetchedRPM)  # noqa: S101 - only requests have files
                    self._write_client(_as_chunk(chunk, content, data))
                ended = not piece
            if ended:
                if not self._reply.at_boundary:
                    raise RemoteProtocolError("the server ended its reply in the middle")
                break
        # Over first, so that a client that closes on its end finds all in order.
        self._progress.advance(RequestEvent.REPLY_END)
        self._end_inner()
        if self._reply.trailer:
            self._write_client(encode_chunk(Stream.OUTER, self._reply.trailer))
        self._write_client(END_OF_OUTER)
        self._visit.answered_at = time.monotonic()
        self._server.end_writing()
        tell(log, BridgeLog.FORWARD_COMPLETED)
        if not self._progress.wait_for({RequestState.CLOSED}, self._close_timeout):
            tell(log, BridgeLog.CLIENT_DID_NOT_CLOSE, seconds=self._close_timeout)
            self._client.abort()
            if not self._request.at_boundary:
                self._client.reset_on_close()

    def _pass_inner(self, piece: bytes | memoryview) -> None:
        """Pass a piece of the server's inner stream on, or its end; nothing once that is over."""
        if not self._inner_is_over:
            self._inner_is_over = not piece
            self._write_client(self._inner_chunk(piece))

    def _end_inner(self) -> None:
        """End the inner stream before the reply, in the place of a server that has not.

        Some clients fail on a reply within the inner session; those that listen do not.
        """
        if not (self._inner_is_over or self._listens):
            self._pass_inner(b"")

    def _read_server(self, amount: int) -> bytes:
        while True:
            # The other thread is to notice first, for it can tell the client.
            left = self._silence_left(self._idle_timeout + LAST_WORDS_SECONDS)
            try:
                data = self._server.read(amount, max(left, _LEAST_WAIT_SECONDS))
            except DeadlineExceeded:
                if self._silence_left(self._idle_timeout + LAST_WORDS_SECONDS) <= 0:
                    raise
                continue
            except PeerClosed as error:
                # What a server had not read when it died makes its end a reset.
                tell(log, BridgeLog.SERVER_CONNECTION_ENDED, why=str(error))
                data = b""
            except TransportError:
                self._server_lost = True
                raise
            if not data:
                self._server_lost = True
                if self._progress.state is RequestState.INNER_SESSION:
                    self._visit.lost_its_server = True
                raise PeerClosed(
                    "no reply came from the server, which ended the connection: its log has the"
                    " reason"
                )
            self._moved_at = time.monotonic()
            return data

    def _write_client(self, chunk: bytes) -> None:
        begin = time.monotonic()
        limit = self._takes.limit(len(chunk))
        try:
            self._client.write(chunk, min(limit, self._idle_timeout))
        except TransportError as error:
            if self._progress.state not in WELL and not self._reply.is_error:
                if isinstance(error, DeadlineExceeded) and limit < self._idle_timeout:
                    raise self._takes.exceeded() from None
                raise
            tell(log, BridgeLog.CLIENT_LEFT_EARLY)
        else:
            self._visit.down += len(chunk)
        now = self._moved_at = time.monotonic()
        self._takes.waited(now - begin, len(chunk))

    # ------------------------------------------------------------------------------------- either

    def _inner_chunk(self, piece: bytes | memoryview) -> bytes:
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

    def _fail(self, error: Exception, *, tell: bool = False) -> bool:
        """End both connections without a close-notify; the other direction's thread fails too.

        A client that is to be told, and can be, is left for `run` to do so. Whether it is.
        """
        if self._progress.advance(RequestEvent.ERROR):
            self._error = error
            self._tells = (tell or bool(self._visit.reason)) and not self._visit.replied
            self._server.abort()
            if not self._tells:
                self._client.abort()
            return self._tells
        return False


def _as_chunk(part: bytes | memoryview, content: object, chunk: bytes) -> bytes:
    """Encode `part`: it is `chunk`, as it came, where it is all of its `content`, not copied."""
    return chunk if chunk and part is content else encode_chunk(Stream.OUTER, part)


def _amount(decoder: ChunkDecoder) -> int:
    """The bytes to ask for: to the end of a chunk that fills records, so that the next come whole.

    A read that once brought less would have all that follow end in the middle of one.
    """
    fills = decoder.left % RECORD_BYTES == 0
    return decoder.left if fills and 0 < decoder.left < READ_BYTES else READ_BYTES
