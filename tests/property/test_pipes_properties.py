"""Events of a child in any bytes and any pieces: whole events, or a fault, and nothing else."""

from __future__ import annotations

import contextlib
import os
import select
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.server.events import decode_client, decode_count, decode_handshake, encode_client
from sigul_stack.system.pipes import BadEvent, Event, EventBuffer, EventReader, ParentPipes

MAX_BODY = select.PIPE_BUF - 3
EVENTS = st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.binary(max_size=64)), max_size=20)


def encoded(events: list[Event]) -> bytes:
    return b"".join(struct.pack("!cH", code, len(body)) + body for code, body in events)


@given(EVENTS, st.lists(st.integers(1, 40), max_size=40))
def test_events_come_out_whole_however_they_are_cut(events: list[Event], cuts: list[int]) -> None:
    data, buffer, found = encoded(events), EventBuffer(), []
    for size in cuts:
        piece, data = data[:size], data[size:]
        found += buffer.feed(piece, is_all=False)
    found += buffer.feed(data, is_all=True)
    assert found == events


@given(st.lists(st.binary(max_size=3 * select.PIPE_BUF), max_size=5))
def test_any_bytes_are_events_or_a_fault(pieces: list[bytes]) -> None:
    buffer, found = EventBuffer(), []
    try:
        for piece in pieces:
            found += buffer.feed(piece, is_all=True)
    except BadEvent:
        return
    assert encoded(found) == b"".join(pieces)


@given(st.binary(min_size=1, max_size=4 * select.PIPE_BUF))
def test_a_reader_never_waits_for_what_is_not_there(data: bytes) -> None:
    """The pipe stays open: whoever waited for the rest of an event would hang."""
    descriptor, writer = os.pipe()
    try:
        os.write(writer, data)
        reader, size = EventReader(descriptor), 0
        try:
            while events := list(reader.read() or ()):
                size += len(encoded(events))
        except BadEvent:
            return
        assert size == len(data)
    finally:
        os.close(descriptor)
        os.close(writer)


def test_a_body_of_the_greatest_length_is_one_event_and_a_longer_one_none() -> None:
    whole = encoded([(b"A", bytes(MAX_BODY))])
    assert list(EventBuffer().feed(whole, is_all=True)) == [(b"A", bytes(MAX_BODY))]
    with pytest.raises(BadEvent, match="longer than any is"):
        list(EventBuffer().feed(struct.pack("!cH", b"A", MAX_BODY + 1), is_all=False))


def test_nothing_comes_in_time() -> None:
    descriptor, writer = os.pipe()
    try:
        with pytest.raises(TimeoutError):
            EventReader(descriptor).first(0.05)
        ParentPipes(control=-1, events=writer).send(b"A", b"body")
        assert EventReader(descriptor).first(30) == (b"A", b"body")
        os.close(writer)
        writer = -1
        assert EventReader(descriptor).first(30) is None
    finally:
        os.close(descriptor)
        if writer >= 0:
            os.close(writer)


@given(st.binary(max_size=2000))
def test_any_body_is_decoded_or_a_fault(body: bytes) -> None:
    for decode in (decode_client, decode_count, decode_handshake):
        with contextlib.suppress(BadEvent):
            decode(body)


@given(st.text(), st.text(), st.text())
def test_any_names_of_a_client_pass(common_name: str, user: str, op: str) -> None:
    names = decode_client(encode_client(common_name, user, op))
    if max(len(name.encode("utf-8", "replace")) for name in (common_name, user, op)) <= 255:
        expected = (common_name, user, op, "")
        assert names == tuple(
            name.replace("\0", "?").encode("utf-8", "replace").decode() for name in expected
        )
