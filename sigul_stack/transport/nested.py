"""The inner session: TLS between client and server inside the chunk layer's inner stream.

Invariant: while it lasts, one thread, the pump, owns the `ChunkedStream` and moves bytes between
its inner stream and a loopback socket pair; TLS runs on the pair's other end in the caller's
thread. The pump ends, and the stream is the caller's again, once the caller has closed the session:
it never waits for the peer's inner end, which may come late or not at all.

The pair is AF_INET because NSS asks a server's socket for an IPv4 or IPv6 name; it is bound to
127.0.0.1 and the peer it accepts is checked to be our own socket (fault 23).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Final

from ..config.shared import NSSSettings
from ..errors import PeerClosed, SigulError, TransportError
from ..logcontext import current, work_for
from ..protocol.chunks import END_OF_INNER
from ..protocol.codec import Parser, run_parser
from .chunked import ChunkedStream, T
from .nss import TLSConnection, TLSIdentity
from .request_id import RequestWatch
from .stream import READ_BYTES, Deadline, Peer, readable
from .watchdog import Watchdog

#: Connections that may queue at the loopback listener: more than ours, so that a stranger who is
#: there first does not shut us out.
LOOPBACK_BACKLOG: Final = 64
#: Limit of connecting the loopback pair, in seconds: the kernel answers itself.
LOOPBACK_SECONDS: Final = 5.0
#: What stands for the peer's address in errors.
INNER_ADDRESS: Final = "the inner session"


def loopback_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets on 127.0.0.1, each sure that the other is ours.

    Raises `TransportError` where other programs keep taking the place, or there is none.
    """
    near = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Bound first, so that what is to be accepted is known before anybody can connect.
        near.bind(("127.0.0.1", 0))
        with socket.create_server(("127.0.0.1", 0), backlog=LOOPBACK_BACKLOG) as listener:
            # The queue may be full of strangers: they are sent away while the kernel tries on.
            near.setblocking(False)
            near.connect_ex(listener.getsockname())
            far = _accept_from(listener, near.getsockname())
        near.setblocking(True)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        near.close()
        raise TransportError(
            f"no private loopback connection could be made: {error.strerror or error}",
            "is 127.0.0.1 up, and are there free ports and descriptors?",
        ) from None
    except BaseException:
        near.close()
        raise
    return near, far


def _accept_from(listener: socket.socket, wanted: tuple[str, int]) -> socket.socket:
    """The connection that comes from the address `wanted`; all others are ended."""
    deadline = Deadline(LOOPBACK_SECONDS, "connecting to this process's own loopback socket")
    while True:
        listener.settimeout(deadline.remaining())
        far, address = listener.accept()
        if address == wanted:
            return far
        far.close()


class _Pump(threading.Thread):
    """Moves inner-stream bytes between `chunked` and the loopback socket `far`.

    The lines that it logs are about what its maker works for. The request's id is in what the
    client sends: that comes from `far` where the caller is the client, else from `chunked`.
    """

    def __init__(
        self,
        chunked: ChunkedStream,
        far: socket.socket,
        deadline: Deadline,
        *,
        is_client: bool = False,
    ) -> None:
        super().__init__(name="inner-session", daemon=True)
        self._context = current()
        self._is_client = is_client
        self._request = RequestWatch()
        self._chunked = chunked
        self._far = far
        self._deadline = deadline
        self._told_end = False
        self.error: BaseException | None = None

    def run(self) -> None:
        work_for(self._context)
        try:
            self._far.settimeout(self._chunked.timeout)
            while self._step():
                pass
            self._chunked.stream.write(END_OF_INNER, self._chunked.timeout)
        except Exception as error:  # noqa: BLE001 - told to the caller's thread, which raises it
            self.error = error
        finally:
            with contextlib.suppress(OSError):
                self._far.shutdown(socket.SHUT_RDWR)
            self._far.close()

    def _step(self) -> bool:
        """Move what there is; False once the caller's side has closed."""
        self._deliver()
        far, stream = self._far.fileno(), self._chunked.stream.fileno()
        if self._chunked.inner_ended:
            ready = readable([far], self._deadline.remaining())
        elif self._chunked.stream.pending():
            ready = {stream}
        else:
            ready = readable([far, stream], self._deadline.remaining())
        if far in ready:
            try:
                data = self._far.recv(READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                return False
            if self._is_client:
                self._request.feed(data)
            self._chunked.write_inner(data)
        if stream in ready:
            self._chunked.receive(self._deadline.remaining())
        return True

    def _deliver(self) -> None:
        while piece := self._chunked.take_inner():
            if not self._is_client:
                self._request.feed(piece)
            # The caller's side may close without reading all: what it left is nobody's loss.
            with contextlib.suppress(ConnectionError):
                self._far.sendall(piece)
        if self._chunked.inner_ended and not self._told_end:
            self._told_end = True
            with contextlib.suppress(OSError):
                self._far.shutdown(socket.SHUT_WR)


class ServingEnd:
    """The ends of an inner session to come, of which this process is the TLS server.

    Made before the session's peer is there: it reads the private key, which may take tens of
    milliseconds. Serves one session; one that serves none is to be discarded.
    """

    def __init__(
        self, settings: NSSSettings, identity: TLSIdentity, watchdog: Watchdog | None = None
    ) -> None:
        """Raises `NSSError` where the certificate cannot serve, `TransportError`."""
        near, self._far = loopback_pair()
        try:
            self._tls = TLSConnection(near, INNER_ADDRESS, watchdog)
        except BaseException:
            near.close()
            self._far.close()
            raise
        try:
            self._tls.prepare_as_server(settings, identity)
        except BaseException:
            self.discard()
            raise

    def take(self) -> tuple[TLSConnection, socket.socket]:
        """The TLS end and the other one; they are the caller's."""
        return self._tls, self._far

    def discard(self) -> None:
        """Close both ends, which serve no session."""
        self._tls.discard()
        self._far.close()


class InnerSession:
    """An inner TLS session under way; made by `inner_session`."""

    def __init__(
        self,
        chunked: ChunkedStream,
        deadline: Deadline,
        watchdog: Watchdog | None,
        *,
        is_client: bool,
        ready: ServingEnd | None = None,
    ) -> None:
        if ready is None:
            near, far = loopback_pair()
            self._tls = TLSConnection(near, INNER_ADDRESS, watchdog)
        else:
            self._tls, far = ready.take()
        self._pump = _Pump(chunked, far, deadline, is_client=is_client)
        self._chunked = chunked
        self._deadline = deadline

    @property
    def peer(self) -> Peer:
        """The peer, as the inner handshake proved it."""
        return self._tls.peer

    def read(self, limit: int) -> bytes:
        """1 to `limit` bytes from the peer; empty at its end."""
        return self._tls.read(limit, self._deadline.remaining())

    def write(self, data: bytes) -> None:
        """Send all of `data` to the peer."""
        self._tls.write(data, self._deadline.remaining())

    def parse(self, parser: Parser[T]) -> T:
        """Run `parser` on what the peer sends."""
        kept = bytearray()

        def read_exactly(count: int) -> bytes:
            while len(kept) < count:
                data = self.read(READ_BYTES)
                if not data:
                    raise PeerClosed("the peer ended the inner session where more was due")
                kept.extend(data)
            piece = bytes(kept[:count])
            del kept[:count]
            return piece

        return run_parser(parser, read_exactly)

    def _finish(self, failed: BaseException | None) -> None:
        """Close the session, end the inner stream, take the chunked stream back from the pump."""
        if failed is None:
            self._tls.end_writing()
        else:
            self._tls.abort()
        self._tls.close()
        self._pump.join(self._chunked.timeout + LOOPBACK_SECONDS)
        if self._pump.is_alive():
            self._chunked.stream.abort()
            self._pump.join()
        self._chunked.drop_inner()
        # What broke the pump is the reason for what the TLS session says of it.
        cause = self._pump.error
        if cause is None or (failed is not None and not isinstance(failed, SigulError)):
            return
        if isinstance(cause, SigulError):
            raise cause from None
        raise TransportError(f"the inner session failed: {cause}") from cause


@contextlib.contextmanager
def inner_session(
    chunked: ChunkedStream,
    settings: NSSSettings,
    identity: TLSIdentity,
    *,
    timeout: float,
    server_hostname: str | None,
    watchdog: Watchdog | None = None,
    ready: ServingEnd | None = None,
) -> Iterator[InnerSession]:
    """An inner session over `chunked`, handshake done; closed and ended when the block ends.

    As the TLS client where `server_hostname` names the server to expect, else as the TLS server,
    which may be `ready` for it: settings, identity and watchdog are those that it was made with.
    This thread's `LogContext` gets the request's id, before anything of the handshake is done.
    All of it must be over within `timeout` seconds. Raises what the outer connection failed with
    where that is why the session failed.
    """
    deadline = Deadline(timeout, "the inner session")
    session = InnerSession(
        chunked, deadline, watchdog, is_client=server_hostname is not None, ready=ready
    )
    session._pump.start()
    failed: BaseException | None = None
    try:
        if server_hostname is not None:
            session._tls.handshake_as_client(settings, identity, server_hostname, timeout)
        elif ready is not None:
            session._tls.handshake_prepared(timeout)
        else:
            session._tls.handshake_as_server(settings, identity, timeout)
        yield session
    except BaseException as error:
        failed = error
        raise
    finally:
        session._finish(failed)
