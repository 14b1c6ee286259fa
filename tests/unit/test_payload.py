"""sigul_stack.transport.payload: payloads whole or not at all, with a hash or MAC on the way."""

from __future__ import annotations

import hashlib
import io
import threading

import pytest

from sigul_stack.errors import PeerClosed, RemoteProtocolError, SigulError
from sigul_stack.protocol.authentication import UNAUTHENTICATED_MAC
from sigul_stack.protocol.chunks import MAX_WRITTEN_CHUNK
from sigul_stack.protocol.versions import LATEST
from sigul_stack.transport import chunked as chunked_module
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import GATHER_SECONDS, ChunkedStream
from sigul_stack.transport.payload import (
    PIECE_BYTES,
    AuthenticatedPayload,
    payload_pieces,
    receive_pieces,
    send_payload,
    send_pieces,
)
from sigul_stack.transport.rate import RateMeter, TooSlow
from sigul_stack.transport.stream import READ_BYTES
from tests.wire import in_background

KEY = bytes(64)


def streams() -> tuple[ChunkedStream, ChunkedStream]:
    near, far = memory.pair()
    return ChunkedStream(near, 5), ChunkedStream(far, 5)


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, MAX_WRITTEN_CHUNK + 1])
def test_what_is_sent_is_received_and_authentic(length: int) -> None:
    near, far = streams()
    content = bytes(length)
    send_payload(near, io.BytesIO(content), KEY, LATEST)
    received = io.BytesIO()
    coming = AuthenticatedPayload(far, KEY, "the reply", LATEST)
    assert coming.length == length
    coming.copy(received.write)
    assert received.getvalue() == content
    assert coming.verified


def test_a_payload_under_another_key_is_refused_once_it_has_come() -> None:
    near, far = streams()
    send_payload(near, io.BytesIO(b"content"), KEY, LATEST)
    coming = AuthenticatedPayload(far, bytes(63) + b"x", "the reply", LATEST)
    with pytest.raises(RemoteProtocolError, match="the reply's payload does not match"):
        coming.copy(len)
    assert coming.finished
    assert not coming.verified


def test_a_failed_writer_leaves_the_rest_to_be_taken() -> None:
    near, far = streams()
    send_payload(near, io.BytesIO(bytes(3 * MAX_WRITTEN_CHUNK)), KEY, LATEST)
    near.write(b"next")

    def full(_piece: bytes) -> None:
        raise OSError("no space left")

    coming = AuthenticatedPayload(far, KEY, "the reply", LATEST)
    with pytest.raises(OSError, match="no space"):
        coming.copy(full)
    assert not coming.finished
    coming.copy(len)
    assert coming.finished
    assert far.read_exactly(4) == b"next"


def test_a_dropped_payload_has_a_mac_of_nothing_that_is_here() -> None:
    near, far = streams()
    near.write(bytes(8))
    near.write(UNAUTHENTICATED_MAC)
    near.write(b"next")
    AuthenticatedPayload(far, KEY, "the reply", LATEST).skip_dropped()
    assert far.read_exactly(4) == b"next"
    send_payload(near, io.BytesIO(b"content"), KEY, LATEST)
    with pytest.raises(RemoteProtocolError, match="where none was to come back"):
        AuthenticatedPayload(far, KEY, "the reply", LATEST).skip_dropped()


def test_a_file_that_becomes_shorter_is_an_error() -> None:
    near, _far = streams()
    with pytest.raises(SigulError, match="shorter"):
        send_pieces(near, payload_pieces(io.BytesIO(b"abc"), 4), hashlib.sha512())


def test_a_payload_that_ends_early_is_an_error_that_says_by_how_much() -> None:
    near, far = streams()
    near.write(b"abc")
    near.end()
    with pytest.raises(PeerClosed, match="the request ended 2 bytes before its payload did"):
        list(receive_pieces(far, 5, "the request"))


def test_a_payload_that_trickles_is_given_up() -> None:
    near, far = streams()
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.02):
            near.write(b"x")

    with in_background(trickle):
        with pytest.raises(TooSlow, match="it came slower than 1000 bytes/s"):
            # What is announced plays no role.
            list(receive_pieces(far, 2**40, "the request", RateMeter(1000, "it came", 0.2)))
        stop.set()


def test_a_chunk_of_a_large_payload_fills_whole_tls_records() -> None:
    near, far = memory.pair()
    send_payload(ChunkedStream(near, 5), io.BytesIO(bytes(3 * PIECE_BYTES)), KEY, LATEST)
    far.read(4 + 8, 5)
    heads = [far.read(4 + PIECE_BYTES, 5)[:4] for _ in range(3)]
    assert heads == [PIECE_BYTES.to_bytes(4, "big")] * 3
    assert (4 + PIECE_BYTES) % (16 * 1024) == 0


def test_a_reader_of_much_lets_more_arrive_where_nothing_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, far = streams()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        near.write(bytes(100))

    monkeypatch.setattr(chunked_module.time, "sleep", sleep)
    pieces = receive_pieces(far, READ_BYTES + 103, "the request")
    near.write(b"abc")
    assert next(pieces) == b"abc"
    # Nobody knew yet how it comes.
    assert waits == []
    assert next(pieces) == bytes(100)
    assert waits == [GATHER_SECONDS]
    # Something is.
    near.write(b"abc")
    assert next(pieces) == b"abc"
    # What is left is little.
    near.write(b"abc")
    assert next(pieces) == b"abc"
    assert waits == [GATHER_SECONDS]


def test_a_small_payload_is_never_later(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = streams()
    monkeypatch.setattr(far.stream, "has_input", lambda: False)
    monkeypatch.setattr(chunked_module.time, "sleep", lambda _seconds: pytest.fail("it waited"))
    pieces = receive_pieces(far, READ_BYTES - 1, "the request")
    for _ in range(3):
        near.write(b"x")
        assert next(pieces) == b"x"
