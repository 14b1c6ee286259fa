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
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.payload import (
    AuthenticatedPayload,
    payload_pieces,
    receive_pieces,
    send_payload,
    send_pieces,
)
from sigul_stack.transport.rate import RateMeter, TooSlow
from tests.wire import in_background

KEY = bytes(64)


def streams() -> tuple[ChunkedStream, ChunkedStream]:
    near, far = memory.pair()
    return ChunkedStream(near, 5), ChunkedStream(far, 5)


@pytest.mark.parametrize("length", [0, 1, MAX_WRITTEN_CHUNK, MAX_WRITTEN_CHUNK + 1])
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
