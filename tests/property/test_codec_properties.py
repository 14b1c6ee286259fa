"""Whatever bytes come in, the codec gives a value or a `ProtocolError`, however they are cut."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sigul_stack.errors import PeerClosed, ProtocolError
from sigul_stack.protocol import codec, messages
from sigul_stack.protocol.codec import Fields, Parser, encode_fields
from sigul_stack.protocol.versions import LATEST, VERSIONS
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from tests.wire import OUTER_END, byte_by_byte, field_map, in_pieces, outer, parse_whole

SAFE = st.characters(min_codepoint=0x20, max_codepoint=0x7F)
NAMES = st.text(SAFE, min_size=1, max_size=255)
FIELD_MAPS = st.dictionaries(NAMES, st.binary(max_size=255), max_size=6)
CUTS = st.lists(st.integers(0, 3000), max_size=20)

#: Every parser that bytes of a peer go through.
PARSERS: dict[str, Callable[[], Parser[Any]]] = {
    "u32": lambda: codec.read_integer(4),
    "u64": lambda: codec.read_integer(8),
    "fields": codec.read_fields,
    "request header": lambda: messages.read_request_header(VERSIONS),
    "inner fields": messages.read_inner_fields,
    "reply header": lambda: messages.read_reply_header(LATEST),
    "sub header": messages.read_sub_header,
}
#: Beginnings that lead deep into a parser, which random bytes seldom find.
BEGINNINGS = st.sampled_from([b"", b"\0\0\0\1", b"\0\0\0\0", b"\0\0\0\3", b"\1\1a", b"\2\1a\0\1"])


@st.composite
def nearly_fields(draw: st.DrawFn) -> bytes:
    """A field map with some of its bytes changed, taken out or put in."""
    data = bytearray(field_map(draw(FIELD_MAPS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["change", "cut", "insert"]))
        if change == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=3))
        elif change == "cut":
            del data[at : at + draw(st.integers(1, 4))]
        else:
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
    return bytes(data)


INPUTS = st.one_of(
    st.binary(max_size=600),
    nearly_fields(),
    st.builds(bytes.__add__, BEGINNINGS, st.binary(max_size=300)),
    st.builds(bytes.__add__, BEGINNINGS, nearly_fields()),
)


def outcome(parser: Parser[Any], data: bytes) -> object:
    """The value of all of `data`, or that it has none."""
    try:
        return parse_whole(parser, data)
    except ProtocolError:
        return ProtocolError


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=150)
@given(data=INPUTS)
def test_any_bytes_give_a_value_or_a_protocol_error(name: str, data: bytes) -> None:
    outcome(PARSERS[name](), data)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60)
@given(data=INPUTS, cuts=CUTS)
def test_a_parser_gives_the_same_however_its_input_is_cut(
    name: str, data: bytes, cuts: list[int]
) -> None:
    whole = parsed(PARSERS[name](), [data])
    assert parsed(PARSERS[name](), byte_by_byte(data)) == whole
    assert parsed(PARSERS[name](), in_pieces(data, cuts)) == whole


def parsed(parser: Parser[Any], pieces: list[bytes]) -> object:
    """The value in an outer stream of these chunks and what lies behind it, or the error."""
    near, far = memory.pair()
    far.write(outer(*(piece for piece in pieces if piece)) + OUTER_END, 1)
    chunked = ChunkedStream(near, 1)
    try:
        value = chunked.parse(parser)
    except (ProtocolError, PeerClosed) as error:
        return type(error)
    return value, b"".join(iter(lambda: chunked.read(1000), b""))


@settings(max_examples=60)
@given(values=FIELD_MAPS, trailing=st.binary(max_size=40), cuts=CUTS)
def test_just_what_lies_behind_the_value_is_left(
    values: dict[str, bytes], trailing: bytes, cuts: list[int]
) -> None:
    pieces = in_pieces(field_map(values) + trailing, cuts)
    assert parsed(codec.read_fields(), pieces) == (Fields(values), trailing)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60)
@given(data=INPUTS)
def test_a_parser_asks_for_1_to_255_bytes_at_a_time(name: str, data: bytes) -> None:
    parser = PARSERS[name]()
    try:
        wanted = next(parser)
        while True:
            assert 1 <= wanted <= 255
            if len(data) < wanted:
                return
            piece, data = data[:wanted], data[wanted:]
            wanted = parser.send(piece)
    except (StopIteration, ProtocolError):
        return


@given(values=FIELD_MAPS)
@example(values={f"{number:03}": bytes([number]) * number for number in range(255)})
@example(values={"k" * 255: b"v" * 255})
def test_decoding_undoes_encoding(values: dict[str, bytes]) -> None:
    data = encode_fields(values)
    assert data == field_map(values)
    decoded = parse_whole(codec.read_fields(), data)
    assert list(decoded.items()) == list(values.items())


@given(data=nearly_fields())
def test_what_decodes_encodes_to_the_same_bytes(data: bytes) -> None:
    found = outcome(codec.read_fields(), data)
    if isinstance(found, Fields):
        assert encode_fields(found) == data


@settings(max_examples=30)
@given(values=FIELD_MAPS, extra=st.binary(min_size=1, max_size=4))
def test_a_map_that_is_cut_or_followed_by_more_is_refused(
    values: dict[str, bytes], extra: bytes
) -> None:
    data = field_map(values)
    for end in range(len(data)):
        assert outcome(codec.read_fields(), data[:end]) is ProtocolError
    assert outcome(codec.read_fields(), data + extra) is ProtocolError


@given(values=FIELD_MAPS.filter(bool), again=st.binary(max_size=255), data=st.data())
def test_a_repeated_name_is_refused(
    values: dict[str, bytes], again: bytes, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(values)))
    encoded = field_map(values) + field_map({name: again})[1:]
    assert outcome(codec.read_fields(), bytes([len(values) + 1]) + encoded[1:]) is ProtocolError


@given(
    name=st.binary(min_size=1, max_size=255).filter(
        lambda name: any(not 0x20 <= byte <= 0x7F for byte in name)
    )
)
def test_an_unprintable_name_is_refused(name: bytes) -> None:
    data = b"\1" + bytes([len(name)]) + name + b"\0"
    assert outcome(codec.read_fields(), data) is ProtocolError


@given(name=st.text(max_size=300), value=st.binary(max_size=300))
def test_encoding_refuses_just_what_decoding_would(name: str, value: bytes) -> None:
    sendable = (
        1 <= len(name) <= 255
        and all(0x20 <= ord(character) <= 0x7F for character in name)
        and len(value) <= 255
    )
    try:
        data = encode_fields({name: value})
    except ProtocolError:
        assert not sendable
    else:
        assert sendable
        assert parse_whole(codec.read_fields(), data) == {name: value}


@given(value=st.binary(max_size=255))
def test_typed_access_gives_a_value_or_a_protocol_error(value: bytes) -> None:
    fields = Fields({"field": value})
    for access in (fields.string, fields.safe_string, fields.boolean, fields.integer):
        for name in ("field", "absent"):
            try:
                access(name)
            except ProtocolError as error:
                assert name in str(error) or access == fields.integer


@given(value=st.one_of(st.text(max_size=60), st.booleans(), st.integers(), st.binary()))
def test_a_value_is_read_back_as_it_was_written(value: str | bool | int | bytes) -> None:
    try:
        fields = Fields({"field": LATEST.encode_value(value)})
    except ProtocolError:
        assert (isinstance(value, int) and not 0 <= value < 2**32) or isinstance(value, str)
        return
    if isinstance(value, bytes):
        assert fields.blob("field") == value
    elif isinstance(value, bool):
        assert fields.boolean("field") is value
    elif isinstance(value, int):
        assert fields.integer("field") == value
    elif "\0" in value:
        with pytest.raises(ProtocolError, match="NUL"):
            fields.string("field")
    else:
        assert fields.string("field") == value


@given(value=st.integers(-(2**70), 2**70))
@example(value=0)
@example(value=2**32 - 1)
@example(value=2**32)
@example(value=2**64 - 1)
@example(value=2**64)
def test_integers_have_their_ranges(value: int) -> None:
    for size in (1, 4, 8):
        if 0 <= value < 256**size:
            assert codec.pack(value, size) == value.to_bytes(size, "big")
            assert parse_whole(codec.read_integer(size), codec.pack(value, size)) == value
        else:
            with pytest.raises(ProtocolError):
                codec.pack(value, size)


ANY_TEXT = st.one_of(st.text(max_size=12), st.text("aZ09.-_/ \n\x7f", max_size=12))


@given(text=ANY_TEXT)
def test_text_forms_are_what_the_specification_says(text: str) -> None:
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert codec.is_safe_text(text) == all(" " <= character <= "\x7f" for character in text)
    assert codec.is_safe_identifier(text) == (bool(text) and set(text) <= letters)
    assert codec.is_safe_filename(text) == (
        bool(text) and set(text) <= letters | set("0123456789.") and not text.startswith(".")
    )


@given(day=st.dates(), text=st.text("0123456789-٣", min_size=8, max_size=10))
def test_dates_are_days_of_the_calendar(day: datetime.date, text: str) -> None:
    assert codec.is_date(day.isoformat())
    if codec.is_date(text):
        assert text.isascii()
        assert datetime.date.fromisoformat(text).isoformat() == text
