"""One paired request between scripted peers: what passes, how it is cut, and how it ends.

The peers are threads at the far ends of memory streams; the forwarding runs in the test's thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigul_stack.bridge import forward
from sigul_stack.bridge.forward import Forwarding
from sigul_stack.bridge.register import Visit
from sigul_stack.bridge.request_states import TRANSITIONS, RequestEvent, RequestState
from sigul_stack.errors import (
    DeadlineExceeded,
    PeerClosed,
    ProtocolError,
    SigulError,
    TransportError,
)
from sigul_stack.logcontext import LogContext, about
from sigul_stack.protocol.chunks import ChunkDecoder, Stream
from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.memory import MemoryStream
from sigul_stack.transport.nested import loopback_pair
from sigul_stack.transport.rate import RateMeter, TooSlow
from tests.wire import (
    INNER_END,
    OUTER_END,
    SUBREPLY_KEYS,
    SUBREQUEST_KEYS,
    SocketStream,
    chunk,
    eventually,
    in_background,
    inner,
    of_stream,
    outer,
    reply,
    reply_filter,
    reply_parts,
    request_filter,
    sub_parts,
    u32,
    u64,
    whole_chunks,
)

#: Long enough never to be met by accident.
LONG = 10.0


@dataclass
class Joint:
    """A forwarding, and the far ends of its connections."""

    client: MemoryStream
    server: MemoryStream
    forwarding: Forwarding
    writes_to_client: list[bytes]
    writes_to_server: list[bytes]
    #: What the client was told by the bridge itself.
    refusals: list[str]

    def run(self) -> None:
        """Forward a request whose header took all that had arrived."""
        self.forwarding.run([], ChunkDecoder())

    def assert_aborted(self) -> None:
        """That neither peer saw a close-notify, which could pass for an orderly end."""
        for end in (self.client, self.server):
            with pytest.raises(PeerClosed):
                while end.read(1000, 0.1):
                    pass


def join(
    op: str = "sign-text",
    length: int = 0,
    *,
    idle_timeout: float = LONG,
    close_timeout: float = LONG,
    keep_payload: bool = True,
    min_rate: int = 16_384,
) -> Joint:
    """A client with a request for `op` whose header has gone, and the server that took it."""
    client_near, client = memory.pair()
    server_near, server = memory.pair()
    refusals: list[str] = []
    joint = Joint(
        client,
        server,
        Forwarding(
            client_near,
            server_near,
            request_filter(OPERATIONS[op], length, 2**40),
            reply_filter(OPERATIONS[op], keep_payload=keep_payload),
            idle_timeout=idle_timeout,
            close_timeout=close_timeout,
            min_rate=min_rate,
            visit=Visit(client_near, refusals.append),
        ),
        [],
        [],
        refusals,
    )
    client_near.on_write = joint.writes_to_client.append
    server_near.on_write = joint.writes_to_server.append
    return joint


def read_until(stream: MemoryStream, told: Callable[[bytes], bool], data: bytes = b"") -> bytes:
    """`data` and what comes on `stream` up to where `told` says enough."""
    while not told(data):
        piece = stream.read(100_000, LONG)
        assert piece, "the connection ended early"
        data += piece
    return data


def outer_has_ended(data: bytes) -> bool:
    """Whether the chunks in `data`, the last of which may be incomplete, end the outer stream."""
    decoder = ChunkDecoder()
    for _piece in decoder.feed(data):
        pass
    return decoder.ended(Stream.OUTER)


def read_through_outer_end(stream: MemoryStream) -> bytes:
    """What comes on `stream` up to the end of its outer stream."""
    return read_until(stream, outer_has_ended)


def read_rest(stream: MemoryStream) -> bytes:
    """What comes on `stream` up to its orderly end."""
    data = b""
    while piece := stream.read(100_000, LONG):
        data += piece
    return data


def whole_reply_of(server: MemoryStream, data: bytes) -> None:
    """A server's part: send what it says, wait for the bridge to let it go, close."""
    server.write(data, LONG)
    read_rest(server)
    server.close()


# ------------------------------------------------------------------------------------ the usual way


def test_a_request_and_its_reply_pass_and_both_connections_end_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    payload, signed = bytes(range(256)) * 40, b"signed" * 9000
    joint = join(length=len(payload))
    got: dict[str, bytes] = {}

    def client() -> None:
        joint.client.write(outer(payload) + inner(b"hello", b"fields"), LONG)
        got["reply"] = read_through_outer_end(joint.client)
        joint.client.write(INNER_END, LONG)
        joint.client.close()
        got["behind the reply"] = read_rest(joint.client)

    def server() -> None:
        enough = len(outer(payload) + inner(b"hello", b"fields"))
        got["request"] = read_until(joint.server, lambda data: len(data) >= enough)
        joint.server.write(inner(b"welcome") + INNER_END + outer(reply(payload=signed)), LONG)
        got["behind the request"] = read_rest(joint.server)
        joint.server.close()

    with in_background(client, server):
        joint.run()
    assert b"".join(of_stream(got["request"], Stream.OUTER)) == payload
    assert of_stream(got["request"], Stream.INNER) == [b"hello", b"fields"]
    assert of_stream(got["reply"], Stream.INNER) == [b"welcome", b""]
    assert b"".join(of_stream(got["reply"], Stream.OUTER)) == reply(payload=signed)
    assert got["behind the reply"] == b""
    assert "[FORWARD] forward_two_way loop completed normally" in caplog.text


def test_the_requests_id_is_that_of_the_clients_hello(caplog: pytest.LogCaptureFixture) -> None:
    """However it is cut; both directions' lines have it, and what the server says has none."""
    caplog.set_level(logging.INFO)
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(range(32))
    joint = join()

    def client() -> None:
        joint.client.write(inner(hello[:1], hello[1:13], hello[13:]) + OUTER_END, LONG)
        read_through_outer_end(joint.client)
        joint.client.close()

    answer = inner(b"\x16") + outer(reply())
    with about(LogContext("c7")) as context:
        with in_background(client, lambda: whole_reply_of(joint.server, answer)):
            joint.run()
        assert context is not None
        assert context.request == hello[11:19].hex()
    assert f"Request {hello[11:19].hex()} is on connection c7" in caplog.messages


def test_a_client_gets_the_cut_that_old_clients_insist_on() -> None:
    joint = join()
    header, length, payload, code = parts = reply_parts(0, {"num-users": u32(3)}, b"x" * 10_000)

    def client() -> None:
        read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        # As unlike it as can be: odd chunks that end nowhere.
        data = b"".join(parts)
        pieces = [data[start : start + 777] for start in range(0, len(data), 777)]
        whole_reply_of(joint.server, INNER_END + outer(*pieces))

    with in_background(client, server):
        joint.run()
    found = of_stream(b"".join(joint.writes_to_client), Stream.OUTER)
    assert found[:2] == [header, length]
    assert found[-2:] == [code, b""]
    assert b"".join(found[2:-2]) == payload
    assert all(found[2:-2])


def test_each_chunk_is_written_by_itself_and_in_one_piece() -> None:
    joint = join("sign-text", 6)
    late = inner(b"close-notify") + INNER_END

    def client() -> None:
        joint.client.write(outer(b"abc") + inner(b"1", b"2") + outer(b"def") + late, LONG)
        read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        read_until(joint.server, lambda data: data.endswith(late))
        whole_reply_of(joint.server, late + outer(reply()))

    with in_background(client, server):
        joint.run()
    for written in (*joint.writes_to_client, *joint.writes_to_server):
        assert len(whole_chunks(written)) == 1
    # Old clients lose an inner end that shares a record with the close-notify.
    assert joint.writes_to_client[:2] == [inner(b"close-notify"), INNER_END]


@pytest.mark.parametrize("size", [1, 4096, 2**20])
def test_chunks_of_any_size_pass(size: int) -> None:
    payload = bytes(300 if size == 1 else 300_000)
    joint = join("sign-data", len(payload))
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    got: dict[str, bytes] = {}

    def client() -> None:
        joint.client.write(outer(*pieces), LONG)
        got["reply"] = read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        chunked = ChunkedStream(joint.server, LONG)
        got["request"] = chunked.read_exactly(len(payload))
        whole_reply_of(joint.server, INNER_END + outer(reply()))

    with in_background(client, server):
        joint.run()
    assert got["request"] == payload
    assert b"".join(of_stream(got["reply"], Stream.OUTER)) == reply()


@settings(max_examples=25)
@given(
    payload=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    hidden=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    order=st.lists(st.booleans(), min_size=10, max_size=10),
    split=st.integers(1, 60),
    ends=st.booleans(),
)
def test_chunks_of_both_streams_pass_in_any_order(
    payload: list[bytes], hidden: list[bytes], order: list[bool], split: int, ends: bool
) -> None:
    joint = join(length=len(b"".join(payload)))
    chunks = []
    left = {Stream.OUTER: list(payload), Stream.INNER: list(hidden)}
    for first_outer in order:
        for stream in (Stream.OUTER, Stream.INNER) if first_outer else (Stream.INNER, Stream.OUTER):
            if left[stream]:
                chunks.append(chunk(stream, left[stream].pop(0)))
                break
    chunks += [INNER_END, OUTER_END] if ends else [OUTER_END]
    got: dict[str, bytes] = {}

    def client() -> None:
        for piece in chunks:
            joint.client.write(piece, LONG)
        got["reply"] = read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        joint.server.split = split
        got["request"] = read_through_outer_end(joint.server)
        whole_reply_of(joint.server, INNER_END + outer(reply()))

    with in_background(client, server):
        joint.run()
    assert b"".join(of_stream(got["request"], Stream.OUTER)) == b"".join(payload)
    assert of_stream(got["request"], Stream.OUTER)[-1] == b""
    assert b"".join(of_stream(got["request"], Stream.INNER)) == b"".join(hidden)
    assert (INNER_END in joint.writes_to_server) == ends


def test_whole_chunks_pass_as_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not encoded again, once the first two have told whether the client listens."""
    encoded: list[Stream] = []

    def encode_chunk(stream: Stream, data: bytes | memoryview) -> bytes:
        encoded.append(stream)
        return chunk(stream, bytes(data))

    monkeypatch.setattr(forward, "encode_chunk", encode_chunk)
    sent = [chunk(Stream.OUTER, bytes([number]) * 500) for number in range(6)]
    joint = join("sign-data", 3000)

    def client() -> None:
        for piece in sent:
            joint.client.write(piece, LONG)
            assert read_until(joint.server, lambda data: len(data) >= 504) == piece
        assert encoded == [Stream.OUTER] * 2
        joint.client.write(OUTER_END, LONG)
        joint.server.write(INNER_END + outer(reply()), LONG)
        read_through_outer_end(joint.client)
        joint.client.close()
        read_rest(joint.server)
        joint.server.close()

    with in_background(client):
        joint.run()
    assert joint.writes_to_server[:6] == sent


def test_what_arrived_with_the_header_goes_first() -> None:
    near, far = memory.pair()
    far.write(outer(b"head", b"payl") + inner(b"early") + outer(b"oad") + inner(b"more"), 1)
    far.write(OUTER_END[:2], 1)
    chunked = ChunkedStream(near, 1)
    assert chunked.read_exactly(4) == b"head"
    early, decoder = chunked.hand_over()
    joint = join(length=7)
    got: dict[str, bytes] = {}

    def client() -> None:
        joint.client.write(OUTER_END[2:], LONG)
        read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        got["request"] = read_through_outer_end(joint.server)
        whole_reply_of(joint.server, INNER_END + outer(reply()))

    with in_background(client, server):
        joint.forwarding.run(early, decoder)
    assert b"".join(of_stream(got["request"], Stream.OUTER)) == b"payload"
    assert b"".join(of_stream(got["request"], Stream.INNER)) == b"earlymore"


def test_a_client_that_does_not_want_the_data_gets_length_0() -> None:
    joint = join("sign-rpm", keep_payload=False)
    header, _length, _payload, code = parts = reply_parts(payload=b"the signed RPM")
    got: dict[str, bytes] = {}

    def client() -> None:
        got["reply"] = read_through_outer_end(joint.client)
        joint.client.close()

    with in_background(client, lambda: whole_reply_of(joint.server, outer(*parts))):
        joint.run()
    assert of_stream(got["reply"], Stream.OUTER) == [header, u64(0), code, b""]


def test_a_server_that_does_not_know_the_version_is_heard() -> None:
    joint = join()
    got: dict[str, bytes] = {}

    def client() -> None:
        got["reply"] = read_through_outer_end(joint.client)
        joint.client.close()

    with in_background(client, lambda: whole_reply_of(joint.server, outer(u32(1)) + OUTER_END)):
        joint.run()
    assert of_stream(got["reply"], Stream.OUTER) == [u32(1), b""]


# -------------------------------------------------------------------------------- habits of clients


def test_a_client_that_never_ends_its_inner_stream_is_served() -> None:
    joint = join()

    def client() -> None:
        joint.client.write(inner(b"fields"), LONG)
        read_through_outer_end(joint.client)
        joint.client.close()

    with in_background(
        client, lambda: whole_reply_of(joint.server, inner(b"bye") + INNER_END + outer(reply()))
    ):
        joint.run()
    assert INNER_END not in joint.writes_to_server


def test_a_close_notify_that_comes_after_the_inner_end_is_ignored() -> None:
    joint = join()
    got: dict[str, bytes] = {}

    def client() -> None:
        joint.client.write(inner(b"fields") + INNER_END + inner(b"late") + OUTER_END, LONG)
        got["reply"] = read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        got["request"] = read_through_outer_end(joint.server)
        whole_reply_of(joint.server, INNER_END + outer(reply()))

    with in_background(client, server):
        joint.run()
    assert of_stream(got["request"], Stream.INNER) == [b"fields", b""]
    assert b"".join(of_stream(got["reply"], Stream.OUTER)) == reply()


def test_an_inner_end_that_comes_after_the_reply_is_ignored() -> None:
    joint = join()

    def client() -> None:
        read_through_outer_end(joint.client)
        for late in (inner(b"close-notify"), INNER_END, inner(b"close-notify"), OUTER_END):
            joint.client.write(late, LONG)
        joint.client.close()

    with in_background(client, lambda: whole_reply_of(joint.server, INNER_END + outer(reply()))):
        joint.run()


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_client_may_leave_as_soon_as_it_has_read_an_errors_header(how: str) -> None:
    joint = join()
    gone = threading.Event()
    header, length, _payload, code = reply_parts(3)
    got: dict[str, bytes] = {}

    def client() -> None:
        read_until(joint.client, lambda data: data.endswith(outer(header)))
        getattr(joint.client, how)()
        gone.set()

    def server() -> None:
        joint.server.write(INNER_END + outer(header), LONG)
        assert gone.wait(LONG)
        joint.server.write(outer(length, code), LONG)
        got["behind the request"] = read_rest(joint.server)

    with in_background(client, server):
        joint.run()
    assert got["behind the request"] == b""


def test_a_client_that_closes_its_side_after_the_request_gets_its_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # "Some clients … never half-close": the others do, and wait for their reply.
    monkeypatch.setattr(forward, "CLIENT_GONE_SECONDS", 0.05)
    joint = join(length=4)
    got: dict[str, bytes] = {}

    def client() -> None:
        joint.client.write(outer(b"text") + inner(b"fields") + INNER_END + OUTER_END, LONG)
        joint.client.end_writing()
        got["reply"] = read_through_outer_end(joint.client)

    def server() -> None:
        read_through_outer_end(joint.server)
        time.sleep(0.3)
        whole_reply_of(joint.server, INNER_END + outer(reply()))

    with in_background(client, server):
        joint.run()
    assert b"".join(of_stream(got["reply"], Stream.OUTER)) == reply()


def test_a_client_that_closed_its_side_and_is_reset_then_ends_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a process that was killed: the kernel closes one side, and answers no more later."""
    monkeypatch.setattr(forward, "LOOK_SECONDS", 0.01)
    joint = join(length=4)
    joint.client.write(outer(b"text") + inner(b"fields") + INNER_END + OUTER_END, LONG)
    joint.client.end_writing()

    def server() -> None:
        read_through_outer_end(joint.server)
        joint.client.abort()

    with in_background(server), pytest.raises(PeerClosed, match="client left"):
        joint.run()
    with pytest.raises(PeerClosed):
        while joint.server.read(1000, 1):
            pass


def test_a_client_that_leaves_in_the_middle_ends_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "CLIENT_GONE_SECONDS", 0.05)
    joint = join(length=10)
    joint.client.write(outer(b"half"), LONG)
    joint.client.close()
    with pytest.raises(PeerClosed, match="client left"):
        joint.run()
    with pytest.raises(PeerClosed):
        while joint.server.read(1000, 1):
            pass


def test_a_client_that_never_closes_is_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    joint = join(close_timeout=0.1)
    with in_background(lambda: whole_reply_of(joint.server, INNER_END + outer(reply()))):
        joint.run()
    assert "did not close within 0.1 s" in caplog.text
    assert joint.client.read(100_000, 1).endswith(OUTER_END)


# --------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("parts", range(4))
def test_a_server_that_ends_before_its_reply_does(how: str, parts: int) -> None:
    joint = join()
    sent = reply_parts(payload=b"signed")
    joint.server.write(outer(*sent[:parts]), LONG)
    getattr(joint.server, how)()
    with pytest.raises(PeerClosed, match="no reply came from the server"):
        joint.run()
    with pytest.raises(PeerClosed):
        while joint.client.read(1000, 1):
            pass


def test_a_server_that_ends_in_the_middle_of_a_batch() -> None:
    joint = join("sign-rpms")
    sub = sub_parts(0, {"id": u32(0), "status": u32(0)}, b"signed", SUBREPLY_KEYS)
    joint.server.write(outer(reply()) + outer(*sub), LONG)
    joint.server.close()
    with pytest.raises(PeerClosed):
        joint.run()
    joint.assert_aborted()


def test_a_server_that_replies_without_reading_all_is_heard() -> None:
    joint = join(length=1_000_000)
    got: dict[str, bytes] = {}
    replied = threading.Event()

    def client() -> None:
        joint.client.write(outer(bytes(1000)), LONG)
        assert replied.wait(LONG)
        joint.client.write(outer(bytes(999_000)), LONG)
        got["reply"] = read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        joint.server.write(INNER_END + outer(reply(9)), LONG)
        joint.server.abort()
        replied.set()

    with in_background(client, server):
        joint.run()
    assert b"".join(of_stream(got["reply"], Stream.OUTER)) == reply(9)


@pytest.mark.parametrize("split", [None, 1])
@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (outer(b"0123", b"4"), "follow the end"),
        (outer(b"01") + OUTER_END, "ended its request in the middle"),
        (OUTER_END, "ended its request in the middle"),
        (outer(b"0123", b"") + outer(b"4"), "outer stream follows its end"),
    ],
)
def test_a_request_that_breaks_the_protocol_is_cut_off(
    sent: bytes, told: str, split: int | None
) -> None:
    joint = join(length=4)
    joint.client.write(sent, LONG)
    joint.forwarding._client.split = split  # type: ignore[attr-defined]
    with pytest.raises(ProtocolError, match=told):
        joint.run()
    joint.assert_aborted()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (outer(reply() + b"x"), "follow the end"),
        (outer(reply()[:70]) + OUTER_END, "ended its reply in the middle"),
        (OUTER_END, "ended its reply in the middle"),
        (outer(u32(0) + b"\1\0"), "empty name"),
    ],
)
def test_a_reply_that_breaks_the_protocol_is_cut_off(sent: bytes, told: str) -> None:
    joint = join()
    joint.server.write(sent, LONG)
    with pytest.raises(ProtocolError, match=told):
        joint.run()
    joint.assert_aborted()


def test_a_batch_with_a_wrong_subrequest_is_cut_off() -> None:
    joint = join("sign-rpms")
    joint.client.write(outer(*sub_parts(0, {"rpm-name": b"n"}, b"", SUBREQUEST_KEYS)[:2]), LONG)
    with pytest.raises(ProtocolError, match="'id' is missing"):
        joint.run()
    joint.assert_aborted()


# ------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("length", [0, 10], ids=["silent server", "silent client"])
def test_silence_on_both_sides_has_a_limit(length: int) -> None:
    joint = join(length=length, idle_timeout=0.2)
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
        joint.run()
    joint.assert_aborted()


def test_silence_of_one_side_is_none_while_the_other_moves() -> None:
    # The reply takes far longer than the limit on silence, in which the client says nothing.
    joint = join(idle_timeout=1.0)
    data = reply(payload=b"x" * 80)
    got: dict[str, bytes] = {}

    def client() -> None:
        got["reply"] = read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        for start in range(0, len(data), 8):
            joint.server.write(outer(data[start : start + 8]), LONG)
            time.sleep(0.05)
        read_rest(joint.server)

    with in_background(client, server):
        joint.run()
    assert b"".join(of_stream(got["reply"], Stream.OUTER)) == data


def impatient(joint: Joint) -> None:
    """Have a client's credit used up in moments."""
    joint.forwarding._sends = RateMeter(10_000_000, "the client sent its request", 0.3)
    joint.forwarding._takes = RateMeter(10_000_000, "the client read its reply", 0.3)


def trickle(stream: MemoryStream, stop: threading.Event, piece: bytes = outer(b"x")) -> None:
    """Write a piece now and then, until the stream has ended or the test is over."""
    while not stop.wait(0.02):
        try:
            stream.write(piece, LONG)
        except TransportError:
            return


@pytest.mark.parametrize(
    ("op", "begin"),
    [("sign-text", b""), ("sign-rpms", outer(b"\xff"))],
    ids=["payload", "subrequest"],
)
def test_a_client_that_trickles_is_cut_off_and_told(op: str, begin: bytes) -> None:
    joint = join(op, length=0 if begin else 1_000_000)
    impatient(joint)
    stop = threading.Event()
    if begin:
        joint.client.write(begin, LONG)
    # Where no byte may come of the payload, one of the inner stream does not help either.
    piece = inner(b"x") if begin else outer(b"x")
    with in_background(lambda: trickle(joint.client, stop, piece)):
        try:
            with pytest.raises(TooSlow, match="sent its request slower than 10000000 bytes/s"):
                joint.run()
        finally:
            stop.set()
    assert len(joint.refusals) == 1
    assert "min-payload-rate" in joint.refusals[0]
    joint.assert_aborted()


def test_time_in_which_the_server_takes_nothing_is_not_the_clients() -> None:
    joint = join(length=1_000_000)
    impatient(joint)
    payload = outer(bytes(500_000))
    near_server = joint.forwarding._server
    assert isinstance(near_server, MemoryStream)
    near_server.on_write = lambda _data: time.sleep(0.4)

    def client() -> None:
        joint.client.write(payload + payload, LONG)
        read_through_outer_end(joint.client)
        joint.client.close()

    def server() -> None:
        read_until(joint.server, lambda data: len(data) >= 2 * len(payload) - 8)
        whole_reply_of(joint.server, INNER_END + outer(reply()))

    with in_background(client, server):
        joint.run()
    assert joint.refusals == []


def test_a_client_that_reads_its_reply_in_a_trickle_keeps_no_server() -> None:
    client_end, client = loopback_pair()
    near = SocketStream(client_end)
    near_server, server = memory.pair()
    told: list[str] = []
    forwarding = Forwarding(
        near,
        near_server,
        request_filter(OPERATIONS["sign-data"], 0, 2**40),
        reply_filter(OPERATIONS["sign-data"]),
        idle_timeout=60,
        close_timeout=60,
        min_rate=64 * 1024**2,
        visit=Visit(near, told.append),
    )
    forwarding._takes = RateMeter(64 * 1024**2, "the client read its reply", 0.3)
    server.write(INNER_END + outer(*reply_parts(0, {}, bytes(48 * 1024**2))), LONG)
    stop = threading.Event()

    def read() -> None:
        while not stop.wait(0.02):
            with contextlib.suppress(OSError):
                client.recv(1)

    with client, in_background(read):
        try:
            with pytest.raises(TooSlow, match="read its reply slower than"):
                forwarding.run([], ChunkDecoder())
        finally:
            stop.set()
            near.discard()
    # A reply that has begun cannot be taken back.
    assert told == []


def test_a_client_may_not_pause_for_ever_between_subrequests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "PAUSE_SECONDS", 0.3)
    joint = join("sign-rpms")
    with in_background(lambda: joint.server.write(INNER_END + outer(reply()), LONG)):
        joint.client.write(inner(b"secrets") + INNER_END, LONG)
        with pytest.raises(DeadlineExceeded, match=r"silent for 0\.3 s"):
            joint.run()


# -------------------------------------------------------------------------------------- `sign-rpms`


def test_subrequests_and_subreplies_pass_at_the_same_time() -> None:
    joint = join("sign-rpms")
    count, rpm = 20, bytes(50_000)
    requests = [
        b"".join(sub_parts(index, {"id": u32(index)}, rpm, SUBREQUEST_KEYS))
        for index in range(count)
    ]
    replies = [
        b"".join(sub_parts(index, {"id": u32(index), "status": u32(0)}, rpm, SUBREPLY_KEYS))
        for index in range(count)
    ]
    got: dict[str, bytes] = {}
    first_reply_read = threading.Event()

    def client() -> None:
        def send() -> None:
            for index, data in enumerate(requests):
                if index == count // 2:
                    # Half of the batch is held back until a subreply has come.
                    assert first_reply_read.wait(LONG)
                joint.client.write(outer(data[:5000], data[5000:]), LONG)
            joint.client.write(OUTER_END, LONG)

        def receive() -> None:
            data = read_until(
                joint.client, lambda data: len(data) > len(reply()) + len(replies[0]) + 100
            )
            first_reply_read.set()
            got["reply"] = read_until(joint.client, outer_has_ended, data)
            joint.client.close()

        with in_background(send, receive):
            pass

    def server() -> None:
        chunked = ChunkedStream(joint.server, LONG)
        joint.server.write(INNER_END + outer(reply()), LONG)
        for request, answer in zip(requests, replies, strict=True):
            assert chunked.read_exactly(len(request)) == request
            joint.server.write(outer(answer), LONG)
        assert chunked.read(1) == b""
        joint.server.write(OUTER_END, LONG)
        assert joint.server.read(1, LONG) == b""

    with in_background(client, server):
        joint.run()
    assert b"".join(of_stream(got["reply"], Stream.OUTER)) == reply() + b"".join(replies)


def test_a_batch_may_last_as_long_as_it_moves() -> None:
    # The client sends the next RPM once it has the last one's subreply: neither side is ever
    # silent for long, though few bytes pass in a second.
    joint = join("sign-rpms", idle_timeout=1.0)
    count = 30
    subrequest = b"".join(sub_parts(0, {"id": u32(0)}, b"", SUBREQUEST_KEYS))
    subreply = b"".join(sub_parts(0, {"id": u32(0), "status": u32(11)}, b"", SUBREPLY_KEYS))

    def client() -> None:
        chunked = ChunkedStream(joint.client, LONG)
        assert chunked.read_exactly(len(reply())) == reply()
        for _ in range(count):
            chunked.write(subrequest)
            assert chunked.read_exactly(len(subreply)) == subreply
        chunked.end()
        assert chunked.read(1) == b""
        joint.client.close()

    def server() -> None:
        chunked = ChunkedStream(joint.server, LONG)
        chunked.write(reply())
        for _ in range(count):
            assert chunked.read_exactly(len(subrequest)) == subrequest
            time.sleep(0.05)
            chunked.write(subreply)
        assert chunked.read(1) == b""
        chunked.end()

    with in_background(client, server):
        joint.run()


def test_a_batch_that_ends_between_subrequests_is_in_order_and_elsewhere_is_not() -> None:
    sub = sub_parts(0, {"id": u32(0)}, b"rpm", SUBREQUEST_KEYS)
    for parts in range(1, 4):
        joint = join("sign-rpms")
        joint.client.write(outer(*sub[:parts]) + OUTER_END, LONG)
        with pytest.raises(ProtocolError, match="ended its request in the middle"):
            joint.run()


def test_an_error_of_a_peer_is_told_whichever_side_it_comes_from() -> None:
    joint = join(length=5)
    joint.server.abort()
    joint.client.write(outer(b"12345"), LONG)
    with pytest.raises(SigulError) as caught:
        joint.run()
    assert isinstance(caught.value, PeerClosed)


# --------------------------------------------------------------------------------------- the states


def test_what_is_over_stays_so_and_no_reply_becomes_a_failure() -> None:
    found: dict[RequestState, set[RequestState]] = {state: set() for state in RequestState}
    for (state, _event), after in TRANSITIONS.items():
        found[state].add(after)
    assert found[RequestState.FAILED] == found[RequestState.CLOSED] == set()
    assert found[RequestState.REPLIED] == {RequestState.CLOSED}


def test_a_request_can_fail_until_its_reply_is_complete() -> None:
    failing = {state for state, event in TRANSITIONS if event is RequestEvent.ERROR}
    assert failing == {RequestState.INNER_SESSION, RequestState.WORKING}


# --------------------------------------------------------------------- a failure with real sockets


def test_a_client_that_is_sending_when_its_request_fails_has_an_error_at_once() -> None:
    # Its window is full by then, and a socket that was only shut down gives no room any more.
    client_end, client = loopback_pair()
    server_end, server = loopback_pair()
    near, towards = SocketStream(client_end), SocketStream(server_end)
    forwarding = Forwarding(
        near,
        towards,
        request_filter(OPERATIONS["sign-data"], 2**30, 2**40),
        reply_filter(OPERATIONS["sign-data"]),
        idle_timeout=60,
        close_timeout=60,
        min_rate=16_384,
        visit=Visit(near, lambda _reason: None),
    )
    ended: list[float] = []

    def send() -> None:
        data = outer(bytes(2**16))
        with contextlib.suppress(OSError):
            while True:
                client.sendall(data)
        ended.append(time.monotonic())

    def fail() -> None:
        # Nothing moves: the server has not read a byte, and the client cannot send any more.
        assert eventually(lambda: is_stuck(client))
        server.close()

    def run() -> None:
        with pytest.raises(TransportError):
            forwarding.run([], ChunkDecoder())
        near.discard()
        towards.discard()
        ended.append(time.monotonic())

    with client, in_background(send, fail, run):
        pass
    assert len(ended) == 2
    assert max(ended) - min(ended) < 5


def is_stuck(sender: socket.socket) -> bool:
    """Whether a socket has had the same bytes to send for a while: its peer's window is full.

    Before that it probes, a few times a second, whether there is room for less than a segment.
    """
    before = unsent(sender)
    time.sleep(1.0)
    return before > 0 and unsent(sender) == before


def unsent(sender: socket.socket) -> int:
    """Bytes that the other end's machine has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(sender, termios.TIOCOUTQ, b"\0" * 4))[0])
