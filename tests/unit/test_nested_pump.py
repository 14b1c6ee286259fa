"""The pump under an inner session, on real sockets, with plain bytes where TLS would be."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sigul_stack.errors import DeadlineExceeded, PeerClosed, ProtocolError
from sigul_stack.logcontext import LogContext, about
from sigul_stack.transport import nested
from sigul_stack.transport.chunked import MAX_KEPT_BYTES, ChunkedStream
from sigul_stack.transport.nested import loopback_pair
from sigul_stack.transport.stream import Deadline
from tests.wire import INNER_END, OUTER_END, SocketStream, in_background, inner, outer

LONG = 10.0


class Recording(SocketStream):
    """A stream that keeps what it was given to write, piece by piece."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self.writes: list[bytes] = []

    def write(self, data: bytes, timeout: float) -> None:
        """See `ByteStream.write`."""
        self.writes.append(data)
        super().write(data, timeout)


@dataclass
class Session:
    """A pump at work: `tls` is where the inner TLS would speak, `peer` the far end outside."""

    tls: socket.socket
    peer: socket.socket
    stream: Recording
    chunked: ChunkedStream
    pump: nested._Pump

    def close(self) -> None:
        """End the session as its caller does, and take the chunked stream back."""
        self.tls.close()
        self.join()

    def join(self) -> None:
        """Wait for the pump to end."""
        self.pump.join(LONG)
        assert not self.pump.is_alive()

    def hear(self, count: int) -> bytes:
        """`count` bytes from the peer's inner stream."""
        return receive(self.tls, count)


def receive(end: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, or fewer where the other end closes."""
    end.settimeout(LONG)
    data = b""
    while len(data) < count:
        piece = end.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


@contextlib.contextmanager
def session(
    *, early: bytes = b"", seconds: float = LONG, unread: bytes = b"", is_client: bool = False
) -> Iterator[Session]:
    """A session; `early` has been read with the outer stream before it begins."""
    near, peer = socket.socketpair()
    stream = Recording(near)
    chunked = ChunkedStream(stream, LONG)
    if early:
        peer.sendall(early)
        chunked.receive()
    stream.unread = unread
    tls, far = loopback_pair()
    deadline = Deadline(seconds, "the inner session")
    pump = nested._Pump(chunked, far, deadline, is_client=is_client)
    pump.start()
    found = Session(tls, peer, stream, chunked, pump)
    try:
        yield found
    finally:
        found.close()
        near.close()
        peer.close()


# -------------------------------------------------------------------------------- the loopback pair


def test_the_pair_is_private_to_this_machine_and_without_delay() -> None:
    near, far = loopback_pair()
    with near, far:
        for end, other in ((near, far), (far, near)):
            assert end.getsockname()[0] == "127.0.0.1"
            assert end.getpeername() == other.getsockname()
            assert end.family == socket.AF_INET
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        near.sendall(b"x")
        assert receive(far, 1) == b"x"


def test_strangers_that_connect_first_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    create_server = socket.create_server
    strangers: list[socket.socket] = []

    def besieged(address: tuple[str, int], *, backlog: int) -> socket.socket:
        listener = create_server(address, backlog=backlog)
        for _ in range(10):
            strangers.append(socket.create_connection(listener.getsockname(), LONG))
        return listener

    monkeypatch.setattr(socket, "create_server", besieged)
    near, far = loopback_pair()
    with near, far:
        near.sendall(b"secret")
        assert receive(far, 6) == b"secret"
        for stranger in strangers:
            with stranger:
                assert receive(stranger, 1) == b""


# ----------------------------------------------------------------------------------------- the pump


def test_bytes_pass_both_ways_and_the_end_has_a_record_of_its_own() -> None:
    with session() as pumped:
        pumped.tls.sendall(b"hello")
        assert receive(pumped.peer, 9) == inner(b"hello")
        pumped.peer.sendall(inner(b"wel", b"come"))
        assert pumped.hear(7) == b"welcome"
        pumped.tls.sendall(b"close-notify")
        pumped.close()
        assert pumped.pump.error is None
        assert pumped.stream.writes == [inner(b"hello"), inner(b"close-notify"), INNER_END]


def test_what_came_early_is_delivered_first() -> None:
    with session(early=inner(b"early "), unread=inner(b"decrypted ")) as pumped:
        pumped.peer.sendall(inner(b"late"))
        assert pumped.hear(20) == b"early decrypted late"


def test_an_end_that_came_early_is_delivered_too() -> None:
    with session(early=inner(b"all", b"")) as pumped:
        assert pumped.hear(100) == b"all"
        pumped.tls.sendall(b"answer")
        assert receive(pumped.peer, 10) == inner(b"answer")


def test_the_peers_end_ends_its_direction_only() -> None:
    with session() as pumped:
        pumped.peer.sendall(inner(b"all", b""))
        assert pumped.hear(100) == b"all"
        pumped.tls.sendall(b"answer")
        assert receive(pumped.peer, 10) == inner(b"answer")
        pumped.close()
        assert pumped.pump.error is None


def test_a_peer_that_never_ends_its_stream_is_not_waited_for() -> None:
    with session() as pumped:
        pumped.peer.sendall(inner(b"fields"))
        assert pumped.hear(6) == b"fields"
        pumped.close()
        assert pumped.pump.error is None
        assert pumped.stream.writes == [INNER_END]


def test_what_comes_late_is_no_failure_and_the_outer_stream_goes_on() -> None:
    with session() as pumped:
        pumped.peer.sendall(inner(b"fields") + outer(b"sub"))
        assert pumped.hear(6) == b"fields"
        pumped.close()
        chunked = pumped.chunked
        chunked.drop_inner()
        pumped.peer.sendall(inner(b"close-notify", b"", b"again") + outer(b"requests") + OUTER_END)
        assert chunked.read_exactly(11) == b"subrequests"
        assert chunked.read(1) == b""


def test_outer_data_that_come_meanwhile_are_kept_in_order() -> None:
    with session(early=outer(b"a")) as pumped:
        pumped.peer.sendall(outer(b"b") + inner(b"x") + outer(b"c") + inner(b"y"))
        assert pumped.hear(2) == b"xy"
        pumped.close()
        assert pumped.chunked.read_exactly(3) == b"abc"


def test_long_data_pass() -> None:
    data = bytes(range(256)) * 2000
    with session() as pumped:
        pumped.peer.sendall(inner(data[:100_000]))
        assert pumped.hear(100_000) == data[:100_000]
        reader = ChunkedStream(SocketStream(pumped.peer), LONG)
        got: list[bytes] = []

        def read() -> None:
            while not reader.inner_ended:
                reader.receive()
                got.extend(iter(reader.take_inner, b""))

        with in_background(read):
            pumped.tls.sendall(data)
            pumped.close()
        assert b"".join(got) == data


@pytest.mark.parametrize("how", ["in order", "in a chunk"])
def test_a_peer_that_goes_is_the_reason_told(how: str) -> None:
    with session() as pumped:
        if how == "in a chunk":
            pumped.peer.sendall(inner(b"half")[:6])
        pumped.peer.close()
        pumped.tls.settimeout(LONG)
        while pumped.tls.recv(100):
            pass
        pumped.join()
        assert isinstance(pumped.pump.error, PeerClosed)
        assert ("middle of a chunk" in str(pumped.pump.error)) == (how == "in a chunk")


def test_a_peer_that_breaks_the_chunk_layer_is_the_reason_told() -> None:
    with session() as pumped:
        pumped.peer.sendall(OUTER_END + outer(b"more"))
        assert pumped.hear(1) == b""
        pumped.join()
        assert isinstance(pumped.pump.error, ProtocolError)


def test_a_peer_that_floods_the_outer_stream_is_cut_off() -> None:
    with session() as pumped:
        pumped.peer.settimeout(LONG)
        with contextlib.suppress(OSError):
            for _ in range(2 * MAX_KEPT_BYTES // 65536):
                pumped.peer.sendall(outer(bytes(65536)))
                if not pumped.pump.is_alive():
                    break
                time.sleep(0.001)
        assert pumped.hear(1) == b""
        pumped.join()
        assert isinstance(pumped.pump.error, ProtocolError)
        assert "before the other's end" in str(pumped.pump.error)


def test_a_session_in_which_nobody_speaks_has_a_limit() -> None:
    with session(seconds=0.1) as pumped:
        assert pumped.hear(1) == b""
        pumped.join()
        assert isinstance(pumped.pump.error, DeadlineExceeded)
        assert "the inner session took longer" in str(pumped.pump.error)


# --------------------------------------------------------------------------------- the request's id

HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + b"rest"
OTHER = HELLO[:11] + bytes(32)


@pytest.mark.parametrize("is_client", [True, False])
def test_the_clients_hello_has_the_requests_id(
    is_client: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In what the client sends, whichever side this is; what the server says has none."""
    caplog.set_level("INFO")
    with about(LogContext("c7")) as context, session(is_client=is_client) as pumped:
        assert context is not None
        ours, theirs = (HELLO, OTHER) if is_client else (OTHER, HELLO)
        pumped.peer.sendall(inner(theirs[:7], theirs[7:]))
        assert pumped.hear(len(theirs)) == theirs
        if not is_client:
            # Before the TLS side has it, so before anything comes of it.
            assert context.request == "0001020304050607"
        pumped.tls.sendall(ours)
        assert receive(pumped.peer, 4 + len(ours)) == inner(ours)
        assert context.request == "0001020304050607"
    told = [record.getMessage() for record in caplog.records]
    assert told == ["Request 0001020304050607 is on connection c7"]


def test_a_pump_for_no_connection_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with session(early=inner(HELLO)) as pumped:
        assert pumped.hear(len(HELLO)) == HELLO
    assert caplog.records == []
