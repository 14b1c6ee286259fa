"""The bridge's filters cut a request's and a reply's outer stream as the strictest peers want it.

The cut is told here by the sizes of a message's parts: header with its code, payload length,
payload, payload's code.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sigul_stack.bridge.streams import ReplyFilter, RequestFilter
from sigul_stack.errors import ProtocolError
from sigul_stack.protocol.operations import OPERATIONS
from tests.wire import (
    SUBREPLY_KEYS,
    SUBREQUEST_KEYS,
    byte_by_byte,
    in_pieces,
    reply_filter,
    reply_parts,
    request_filter,
    sub_parts,
    u32,
    u64,
)

SIGN_TEXT = OPERATIONS["sign-text"]
SIGN_RPM = OPERATIONS["sign-rpm"]
SIGN_RPMS = OPERATIONS["sign-rpms"]
NO_LIMIT = 2**64

Parts = tuple[bytes, bytes, bytes, bytes]
Filter = RequestFilter | ReplyFilter

PAYLOADS = st.binary(max_size=300)
CUTS = st.lists(st.integers(0, 3000), max_size=20)
FIELDS = st.dictionaries(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F), min_size=1, max_size=20),
    st.binary(max_size=40),
    max_size=3,
)


@st.composite
def subrequests(draw: st.DrawFn) -> list[Parts]:
    """The subrequests of a batch."""
    found = []
    for index in range(draw(st.integers(0, 4))):
        fields = {"id": draw(st.binary(max_size=255))}
        if draw(st.booleans()):
            fields |= {"rpm-name": b"lab", "rpm-sigmd5": draw(st.binary(max_size=16))}
        found.append(sub_parts(index, fields, draw(PAYLOADS), SUBREQUEST_KEYS))
    return found


@st.composite
def subreplies(draw: st.DrawFn) -> list[Parts]:
    """The subreplies to a batch, failed ones among them."""
    found = []
    for index in range(draw(st.integers(0, 4))):
        status = draw(st.sampled_from([0, 9, 11]))
        fields = {"id": u32(index), "status": u32(status), **draw(FIELDS)}
        payload = b"" if status else draw(PAYLOADS)
        found.append(sub_parts(index, fields, payload, SUBREPLY_KEYS))
    return found


def assert_cut(chunks: Sequence[bytes], messages: Sequence[Parts]) -> None:
    """That `chunks` are `messages`, each cut as docs/protocol.md, "Habits of peers", asks."""
    left = list(chunks)
    for header, length, payload, code in messages:
        assert left.pop(0) == header
        assert left.pop(0) == length
        while payload:
            piece = left.pop(0)
            assert piece
            assert payload.startswith(piece)
            payload = payload[len(piece) :]
        assert left.pop(0) == code
    assert not left


def run(filtered: Filter, pieces: Sequence[bytes | memoryview]) -> list[bytes]:
    """The chunks that come out for `pieces`."""
    return [chunk for piece in pieces for chunk in filtered.feed(piece)]


def joined(messages: Sequence[Parts]) -> bytes:
    """The bytes of `messages`."""
    return b"".join(part for parts in messages for part in parts)


def boundaries(messages: Sequence[Parts], start: int = 0) -> set[int]:
    """The offsets at which a message has ended, and `start`."""
    found = {start}
    for parts in messages:
        start += sum(map(len, parts))
        found.add(start)
    return found


# ----------------------------------------------------------------------------------------- requests


@given(payload=PAYLOADS, cuts=CUTS, excess=st.binary(min_size=1, max_size=4))
@example(payload=b"", cuts=[], excess=b"x")
def test_a_payload_passes_whole_and_nothing_behind_it(
    payload: bytes, cuts: list[int], excess: bytes
) -> None:
    for pieces in ([payload], byte_by_byte(payload), in_pieces(payload, cuts)):
        request = request_filter(SIGN_TEXT, len(payload), NO_LIMIT)
        chunks = []
        left = len(payload)
        for piece in pieces:
            assert request.at_boundary == request.finished == (left == 0)
            chunks += request.feed(piece)
            left -= len(piece)
        assert request.at_boundary
        assert request.finished
        assert b"".join(chunks) == payload
        assert all(chunks)
        with pytest.raises(ProtocolError, match="follow the end"):
            request.feed(excess)


@given(payload=PAYLOADS, excess=st.binary(min_size=1, max_size=4))
def test_bytes_behind_a_payload_are_refused_in_the_same_piece_too(
    payload: bytes, excess: bytes
) -> None:
    request = request_filter(SIGN_TEXT, len(payload), NO_LIMIT)
    with pytest.raises(ProtocolError, match="follow the end"):
        request.feed(payload + excess)


@settings(max_examples=60)
@given(batch=subrequests(), cuts=CUTS)
def test_subrequests_are_cut_the_same_however_they_come(
    batch: list[Parts], cuts: list[int]
) -> None:
    data = joined(batch)
    for pieces in ([data], byte_by_byte(data), in_pieces(data, cuts)):
        request = request_filter(SIGN_RPMS, 0, NO_LIMIT)
        assert_cut(run(request, pieces), batch)
        assert request.at_boundary
        assert not request.finished


@settings(max_examples=40)
@given(batch=subrequests())
def test_a_batch_may_end_only_between_subrequests(batch: list[Parts]) -> None:
    request = request_filter(SIGN_RPMS, 0, NO_LIMIT)
    allowed = boundaries(batch)
    for offset, byte in enumerate(byte_by_byte(joined(batch))):
        assert request.at_boundary == (offset in allowed)
        request.feed(byte)
    assert request.at_boundary


@given(lengths=st.lists(st.integers(0, 100), min_size=1, max_size=4), limit=st.integers(0, 400))
@example(lengths=[50, 50], limit=100)
@example(lengths=[50, 51], limit=100)
def test_the_payloads_of_a_batch_are_limited_together(lengths: list[int], limit: int) -> None:
    batch = [
        sub_parts(index, {"id": u32(index)}, bytes(length), SUBREQUEST_KEYS)
        for index, length in enumerate(lengths)
    ]
    request = request_filter(SIGN_RPMS, 0, limit)
    total = 0
    for parts, length in zip(batch, lengths, strict=True):
        total += length
        assert request.feed(parts[0]) == [parts[0]]
        if total > limit:
            # That one is let through without its content, and counts for nothing.
            total -= length
            assert run(request, [parts[1], parts[2], parts[3]]) == [u64(0), parts[3]]
            continue
        assert run(request, [parts[1], parts[2], parts[3]]) == [part for part in parts[1:] if part]
    assert request.at_boundary


@pytest.mark.parametrize(
    ("length", "allowed"), [(2**40, True), (2**40 + 1, False), (2**64 - 1, False)]
)
def test_one_subrequest_has_a_limit_of_its_own(length: int, allowed: bool) -> None:
    request = request_filter(SIGN_RPMS, 0, NO_LIMIT)
    request.feed(sub_parts(0, {"id": b"0"}, b"", SUBREQUEST_KEYS)[0])
    if allowed:
        assert request.feed(u64(length)) == [u64(length)]
    else:
        with pytest.raises(ProtocolError, match="over the limit"):
            request.feed(u64(length))


@pytest.mark.parametrize("fields", [{}, {"rpm-name": b"n"}, {"other": b"1"}])
def test_a_subrequest_without_an_id_is_refused_and_so_is_all_behind_it(
    fields: dict[str, bytes],
) -> None:
    request = request_filter(SIGN_RPMS, 0, NO_LIMIT)
    with pytest.raises(ProtocolError):
        request.feed(joined([sub_parts(0, fields, b"", SUBREQUEST_KEYS)]))
    assert not request.at_boundary
    with pytest.raises(ProtocolError):
        request.feed(joined([sub_parts(0, {"id": b"0"}, b"", SUBREQUEST_KEYS)]))
    assert not request.at_boundary
    assert not request.finished


# ------------------------------------------------------------------------------------------ replies


@given(
    status=st.sampled_from([0, 3, 11, 9999]),
    fields=FIELDS,
    payload=PAYLOADS,
    cuts=CUTS,
    excess=st.binary(min_size=1, max_size=4),
)
def test_a_reply_is_cut_the_same_however_it_comes(
    status: int, fields: dict[str, bytes], payload: bytes, cuts: list[int], excess: bytes
) -> None:
    parts = reply_parts(status, fields, payload)
    data = joined([parts])
    for pieces in ([data], byte_by_byte(data), in_pieces(data, cuts)):
        cutter = reply_filter(SIGN_TEXT)
        assert_cut(run(cutter, pieces), [parts])
        assert cutter.finished
        assert cutter.at_boundary
        with pytest.raises(ProtocolError, match="follow the end"):
            cutter.feed(excess)


@settings(max_examples=40)
@given(fields=FIELDS, payload=PAYLOADS)
def test_a_reply_may_end_nowhere_before_its_end(fields: dict[str, bytes], payload: bytes) -> None:
    cutter = reply_filter(SIGN_TEXT)
    for byte in byte_by_byte(joined([reply_parts(0, fields, payload)])):
        assert not cutter.at_boundary
        assert not cutter.finished
        cutter.feed(byte)
    assert cutter.finished


@given(payload=PAYLOADS, cuts=CUTS)
def test_a_dropped_payload_has_length_0_and_the_servers_code(
    payload: bytes, cuts: list[int]
) -> None:
    header, length, _payload, code = reply_parts(0, {}, payload)
    data = header + length + payload + code
    for pieces in ([data], byte_by_byte(data), in_pieces(data, cuts)):
        cutter = reply_filter(SIGN_RPM, keep_payload=False)
        assert run(cutter, pieces) == [header, u64(0), code]
        assert cutter.finished


@settings(max_examples=60)
@given(batch=subreplies(), cuts=CUTS, keep=st.booleans())
def test_subreplies_are_cut_the_same_however_they_come(
    batch: list[Parts], cuts: list[int], keep: bool
) -> None:
    first = reply_parts()
    data = joined([first, *batch])
    sent = batch if keep else [(header, u64(0), b"", code) for header, _, _, code in batch]
    for pieces in ([data], byte_by_byte(data), in_pieces(data, cuts)):
        cutter = reply_filter(SIGN_RPMS, keep_payload=keep)
        assert_cut(run(cutter, pieces), [first, *sent])
        assert cutter.at_boundary
        assert not cutter.finished


@settings(max_examples=40)
@given(batch=subreplies())
def test_subreplies_may_end_only_between_them(batch: list[Parts]) -> None:
    cutter = reply_filter(SIGN_RPMS)
    first = reply_parts()
    allowed = boundaries(batch, start=len(joined([first])))
    for offset, byte in enumerate(byte_by_byte(joined([first, *batch]))):
        assert cutter.at_boundary == (offset in allowed)
        cutter.feed(byte)
    assert cutter.at_boundary


@given(status=st.sampled_from([3, 8, 16]), fields=FIELDS)
def test_an_error_reply_to_a_batch_is_a_whole_reply(status: int, fields: dict[str, bytes]) -> None:
    cutter = reply_filter(SIGN_RPMS)
    parts = reply_parts(status, fields)
    assert_cut(run(cutter, [joined([parts])]), [parts])
    assert cutter.finished


def test_a_server_that_does_not_know_the_version_says_so_in_four_bytes() -> None:
    cutter = reply_filter(SIGN_TEXT)
    assert run(cutter, byte_by_byte(u32(1))) == [u32(1)]
    assert cutter.finished
    assert cutter.at_boundary


@given(fields=FIELDS, cuts=CUTS)
def test_an_unknown_version_with_more_behind_it_is_cut_to_its_four_bytes(
    fields: dict[str, bytes], cuts: list[int]
) -> None:
    data = joined([reply_parts(1, fields)])
    for pieces in ([data], byte_by_byte(data), in_pieces(data, cuts)):
        cutter = reply_filter(SIGN_TEXT)
        assert run(cutter, pieces) == [u32(1)]
        assert cutter.finished
        assert cutter.at_boundary


# ------------------------------------------------------------------------------------------- either

MAKERS: dict[str, Callable[[], Filter]] = {
    "payload": lambda: request_filter(SIGN_TEXT, 100, NO_LIMIT),
    "batch": lambda: request_filter(SIGN_RPMS, 0, 10_000),
    "reply": lambda: reply_filter(SIGN_TEXT),
    "dropped reply": lambda: reply_filter(SIGN_RPM, keep_payload=False),
    "subreplies": lambda: reply_filter(SIGN_RPMS),
}
INPUTS = st.one_of(
    st.binary(max_size=300),
    subreplies().map(lambda batch: joined([reply_parts(), *batch])),
    subrequests().map(joined),
)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60)
@given(data=INPUTS, change=st.none() | st.integers(0, 2000), cuts=CUTS)
def test_any_bytes_in_any_cut_give_the_same_chunks_or_a_protocol_error(
    name: str, data: bytes, change: int | None, cuts: list[int]
) -> None:
    if change is not None and data:
        at = change % len(data)
        data = data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :]

    def told(pieces: Sequence[bytes | memoryview]) -> object:
        filtered = MAKERS[name]()
        try:
            chunks = run(filtered, pieces)
        except ProtocolError:
            return ProtocolError
        return (b"".join(chunks), filtered.finished, filtered.at_boundary)

    whole = told([data])
    assert told(byte_by_byte(data)) == whole
    assert told(in_pieces(data, cuts)) == whole
    assert told([memoryview(piece) for piece in in_pieces(data, cuts)]) == whole


def test_the_middle_of_a_payload_passes_as_the_object_that_it_came_as() -> None:
    request = request_filter(SIGN_TEXT, 10, NO_LIMIT)
    for piece in (memoryview(b"abcd"), b"efgh", memoryview(b"ij")):
        (found,) = request.feed(piece)
        assert found is piece
    assert request.finished
    request = request_filter(SIGN_TEXT, 3, NO_LIMIT)
    with pytest.raises(ProtocolError, match="follow the end"):
        request.feed(memoryview(b"abcd"))


@pytest.mark.parametrize("name", ["reply", "dropped reply", "batch"])
def test_an_announced_payload_is_not_allocated(name: str) -> None:
    filtered = MAKERS[name]()
    if name == "batch":
        filtered = request_filter(SIGN_RPMS, 0, NO_LIMIT)
        filtered.feed(sub_parts(0, {"id": b"0"}, b"", SUBREQUEST_KEYS)[0])
    else:
        filtered.feed(reply_parts()[0])
    piece = bytes(1000)
    tracemalloc.start()
    try:
        filtered.feed(u64(2**40))
        for _ in range(200):
            filtered.feed(piece)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


def test_each_operation_takes_subrequests_only_where_the_table_says() -> None:
    for operation in OPERATIONS.values():
        request = request_filter(operation, 0, NO_LIMIT)
        assert request.finished == (operation.name != "sign-rpms")
