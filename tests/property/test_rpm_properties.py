"""An RPM's head survives encoding and decoding, and no bytes do worse than to be refused."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import ProtocolError
from sigul_stack.formats.rpm_head import (
    MAX_SIGNATURE_HEADER,
    MAX_TEXT_BYTES,
    MAX_TEXTS,
    CorruptRPM,
    EntryType,
    Head,
    HeaderEntry,
    Region,
    encode_header,
    head_length,
    parse_head,
    parse_signature,
    read_head,
    read_header,
    signed_header,
)
from sigul_stack.protocol.codec import run_parser
from tests.wire import parse_whole, u32

TAGS = st.integers(100, 2**31)
TEXTS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
ENTRIES = st.one_of(
    st.builds(HeaderEntry.binary, TAGS, st.binary(min_size=1, max_size=30)),
    st.builds(HeaderEntry.integer, TAGS, st.integers(0, 2**32 - 1)),
    st.builds(HeaderEntry.strings, TAGS, st.lists(TEXTS, min_size=1, max_size=5)),
    st.builds(
        lambda tag, text: HeaderEntry(tag, EntryType.STRING, 1, text.encode() + b"\0"), TAGS, TEXTS
    ),
    st.builds(
        HeaderEntry, TAGS, st.just(EntryType.INT64), st.just(1), st.binary(min_size=8, max_size=8)
    ),
    st.builds(
        HeaderEntry, TAGS, st.just(EntryType.INT16), st.just(2), st.binary(min_size=4, max_size=4)
    ),
)
HEADERS = st.lists(ENTRIES, max_size=8, unique_by=lambda entry: entry.tag)
REGIONS = st.sampled_from(Region)


def sample() -> bytes:
    """The head of a package that has all types of entries."""
    entries = [
        HeaderEntry.binary(1000, b"12345"),
        HeaderEntry.integer(1001, 7),
        HeaderEntry.strings(1002, ["a", "", "c"]),
        HeaderEntry(1003, EntryType.STRING, 1, b"text\0"),
        HeaderEntry(1004, EntryType.INT64, 1, bytes(8)),
    ]
    lead = b"\xed\xab\xee\xdb\x03\0\0\0" + bytes(70) + b"\0\x05" + bytes(16)
    signature = encode_header(Region.SIGNATURE, entries[:2])
    return lead + signature.ljust(-len(signature) // 8 * -8, b"\0") + encode_header(
        Region.MAIN, entries
    )  # fmt: skip


def head_of(data: bytes) -> Head:
    """Parse a head that has nothing behind it."""
    return parse_whole(read_head(), data)


@given(region=REGIONS, entries=HEADERS)
def test_a_header_is_read_as_it_was_written(region: Region, entries: list[HeaderEntry]) -> None:
    data = encode_header(region, entries)
    header = parse_whole(read_header(region), data)
    assert header.raw == data
    assert sorted(header.entries.values(), key=lambda entry: entry.tag) == sorted(
        entries, key=lambda entry: entry.tag
    )
    other = Region.MAIN if region is Region.SIGNATURE else Region.SIGNATURE
    with pytest.raises(CorruptRPM):
        parse_whole(read_header(other), data)


def test_a_head_knows_where_its_parts_are() -> None:
    data = sample()
    head = head_of(data)
    assert head.raw == data
    assert head.length == len(data)
    assert data[head.main_offset :] == head.main.raw
    assert head.main.blob(1000) == b"12345"
    assert head.main.integer(1001) == 7
    assert head.main.strings(1002) == ["a", "", "c"]
    assert head.main.string(1003) == "text"
    assert head.main.long(1004) == 0
    assert head.main.string(9999) is None
    assert 1000 in head.main
    for tag in (1001, 1002, 1003):
        with pytest.raises(CorruptRPM, match="type"):
            head.main.blob(tag)


def test_a_head_that_is_cut_anywhere_is_refused() -> None:
    data = sample()
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            head_of(data[:length])


@given(at=st.integers(0, len(sample()) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_as_what_it_is(at: int, value: int) -> None:
    data = bytearray(sample())
    data[at] = value
    try:
        head = head_of(bytes(data))
    except ProtocolError:
        return
    assert head.raw == bytes(data)
    for header in (head.signature, head.main):
        assert sum(len(entry.data) for entry in header.entries.values()) < len(header.raw)


@given(junk=st.binary(max_size=300), keep=st.integers(0, len(sample())))
def test_any_bytes_are_refused_with_a_protocol_error(junk: bytes, keep: int) -> None:
    data = sample()[:keep] + junk
    try:
        head = run_parser(read_head(), reader(data))
    except ProtocolError:
        return
    assert data.startswith(head.raw)


def reader(data: bytes) -> object:
    """Reads exactly, or raises."""
    file = io.BytesIO(data)

    def read_exactly(count: int) -> bytes:
        piece = file.read(count)
        if len(piece) != count:
            raise CorruptRPM("truncated")
        return piece

    return read_exactly


@pytest.mark.parametrize(
    ("count", "length"), [(0, 16), (1, 15), (0x10000, 16), (1, 2**32 - 1), (2**32 - 1, 16)]
)
@pytest.mark.parametrize("region", Region)
def test_nothing_is_asked_for_that_is_over_a_limit(region: Region, count: int, length: int) -> None:
    parser = read_header(region)
    assert next(parser) == 16
    with pytest.raises(CorruptRPM):
        parser.send(b"\x8e\xad\xe8\x01\0\0\0\0" + u32(count) + u32(length))


@pytest.mark.parametrize(
    ("tag", "kind", "offset", "count"),
    [
        (1000, 7, 0, 6), (1000, 7, 6, 1), (1000, 7, -1, 1), (1000, 7, 0, 0), (1000, 0, 0, 1),
        (1000, 10, 0, 1), (1000, 4, 1, 1), (1000, 6, 0, 2), (1000, 6, 0, 1), (1000, 8, 0, 1),
        (1000, 8, 0, 2**32 - 1), (1000, 7, 0, 2**32 - 1), (1000, 5, 0, 2**29), (63, 7, 5, 16),
    ],
)  # fmt: skip
def test_an_entry_that_does_not_fit_is_refused(
    tag: int, kind: int, offset: int, count: int
) -> None:
    data = bytearray(encode_header(Region.MAIN, [HeaderEntry.binary(1000, b"12345")]))
    data[32:48] = u32(tag) + u32(kind) + offset.to_bytes(4, "big", signed=True) + u32(count)
    with pytest.raises(CorruptRPM):
        parse_whole(read_header(Region.MAIN), bytes(data))


def test_an_entry_of_too_many_texts_is_refused() -> None:
    for count, allowed in ((MAX_TEXTS, True), (MAX_TEXTS + 1, False)):
        data = encode_header(
            Region.MAIN, [HeaderEntry(1000, EntryType.STRING_ARRAY, count, bytes(count))]
        )
        if allowed:
            assert parse_whole(read_header(Region.MAIN), data).raw == data
        else:
            with pytest.raises(CorruptRPM):
                parse_whole(read_header(Region.MAIN), data)


def test_entries_that_share_their_data_are_refused() -> None:
    two = [HeaderEntry.binary(1000, b"12345"), HeaderEntry.binary(1001, b"67890")]
    data = bytearray(encode_header(Region.MAIN, two))
    data[48 + 8 : 48 + 12] = u32(4)
    with pytest.raises(CorruptRPM, match="must not"):
        parse_whole(read_header(Region.MAIN), bytes(data))


@given(texts=st.lists(st.integers(0, 3000), min_size=1, max_size=12), behind=st.binary(min_size=1))
def test_long_arrays_of_texts_end_where_they_do(texts: list[int], behind: bytes) -> None:
    """They are looked at in pieces, of which each text may be in several and each have several."""
    long = HeaderEntry.strings(1000, ["x" * size for size in texts] + [""] * 5000)
    entries = [long, HeaderEntry.binary(1001, behind)]
    header = parse_whole(read_header(Region.MAIN), encode_header(Region.MAIN, entries))
    assert list(header.entries.values()) == entries
    assert [len(text) for text in header.each_string(1000)] == texts + [0] * 5000
    assert list(header.each_string(4711)) == []


def test_a_text_that_nobody_needs_is_not_made() -> None:
    long = "x" * (MAX_TEXT_BYTES + 1)
    entries = [
        HeaderEntry.strings(1000, [long]),
        HeaderEntry(1001, EntryType.STRING, 1, long.encode() + b"\0"),
    ]
    header = parse_whole(read_header(Region.MAIN), encode_header(Region.MAIN, entries))
    with pytest.raises(CorruptRPM, match="too long"):
        header.strings(1000)
    with pytest.raises(CorruptRPM, match=f"a text of {len(long) + 1} bytes"):
        header.string(1001)


@given(data=st.binary(max_size=300), keep=st.integers(0, len(sample())))
def test_in_memory_as_from_a_stream(data: bytes, keep: int) -> None:
    """Both ways to parse find the same head, or none."""
    data = sample()[:keep] + data
    try:
        streamed = run_parser(read_head(), reader(data))
    except ProtocolError as error:
        with pytest.raises(ProtocolError) as caught:
            parse_head(data)
        # Which of two faults is found first may differ: one looks first whether all is there.
        assert isinstance(caught.value, CorruptRPM) and isinstance(error, CorruptRPM)
        return
    assert parse_head(data) == streamed
    assert head_length(data) == streamed.length
    assert parse_signature(data) == streamed.signature


def test_a_signature_header_that_nobody_would_read_is_not_made() -> None:
    old = parse_whole(read_header(Region.SIGNATURE), encode_header(Region.SIGNATURE, []))
    with pytest.raises(CorruptRPM, match="more than rpm reads"):
        signed_header(old, [HeaderEntry.binary(1000, bytes(MAX_SIGNATURE_HEADER))])
