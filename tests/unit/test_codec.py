"""The layouts of integers and field maps, by example (docs/protocol.md, "Fields")."""

from __future__ import annotations

import pytest

from sigul_stack.errors import ProtocolError
from sigul_stack.protocol.codec import (
    Fields,
    Parser,
    encode_fields,
    is_date,
    is_safe_filename,
    is_safe_identifier,
    pack,
    pack_u32,
    read_fields,
    read_integer,
    run_parser,
)
from sigul_stack.protocol.versions import LATEST
from tests.wire import parse_whole

EXAMPLE = b"\x02\x02op\x0alist-users\x04user\x00"
MEANING = {"op": b"list-users", "user": b""}


def test_integers_are_big_endian() -> None:
    assert pack_u32(0x01020304) == b"\1\2\3\4"
    assert pack(0x0102030405060708, 8) == b"\1\2\3\4\5\6\7\x08"
    assert parse_whole(read_integer(4), b"\xff\xff\xff\xff") == 2**32 - 1
    assert parse_whole(read_integer(8), b"\xff" * 8) == 2**64 - 1


def test_a_field_map_has_counted_names_and_values() -> None:
    assert encode_fields(MEANING) == EXAMPLE
    found = parse_whole(read_fields(), EXAMPLE)
    assert dict(found) == MEANING
    assert list(found) == ["op", "user"]
    assert len(found) == 2


def test_an_empty_field_map_is_one_byte() -> None:
    assert encode_fields({}) == b"\0"
    assert parse_whole(read_fields(), b"\0") == {}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "truncated"),
        (b"\1", "truncated"),
        (b"\1\0", "empty name"),
        (b"\1\1", "truncated"),
        (b"\1\1a", "truncated"),
        (b"\1\1a\1", "truncated"),
        (b"\1\1\x1f\0", "printable"),
        (b"\1\1\x80\0", "printable"),
        (b"\1\2\xc3\xbc\0", "printable"),
        (b"\2\1a\0\1a\0", "'a' is repeated"),
        (b"\1\1a\0x", "1 bytes follow"),
    ],
)
def test_a_wrong_field_map_is_refused_with_the_reason(data: bytes, told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        parse_whole(read_fields(), data)


def test_the_last_printable_character_is_127() -> None:
    assert parse_whole(read_fields(), b"\1\2 \x7f\0") == {" \x7f": b""}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"": b""}, "name"),
        ({"n" * 256: b""}, "name"),
        ({"\n": b""}, "name"),
        ({"ü": b""}, "name"),
        ({"\udc80": b""}, "name"),
        ({"value": bytes(256)}, "'value' has 256 bytes"),
        ({str(number): b"" for number in range(256)}, "256 fields"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_reason(
    fields: dict[str, bytes], told: str
) -> None:
    with pytest.raises(ProtocolError, match=told):
        encode_fields(fields)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("ü", b"\xc3\xbc"),
        ("", b""),
        (True, b"\1"),
        (False, b"\0"),
        (0, b"\0\0\0\0"),
        (1, b"\0\0\0\1"),
        (2**32 - 1, b"\xff\xff\xff\xff"),
        (b"\0\xff", b"\0\xff"),
    ],
)
def test_values_are_encoded_by_their_type(value: str | bool | int | bytes, encoded: bytes) -> None:
    assert LATEST.encode_value(value) == encoded


@pytest.mark.parametrize("value", [-1, 2**32, "undecodable argument \udcff"])
def test_a_value_that_has_no_encoding_is_refused(value: str | int) -> None:
    with pytest.raises(ProtocolError):
        LATEST.encode_value(value)


def test_typed_access() -> None:
    fields = Fields(
        {
            "text": b"\xc3\xbc",
            "safe": b" ~\x7f",
            "yes": b"\1",
            "no": b"\0",
            "number": b"\0\0\1\0",
            "nul": b"a\0",
            "line": b"a\n",
            "broken": b"\xc3",
            "empty": b"",
        }
    )
    assert fields.string("text") == "ü"
    assert fields.safe_string("safe") == " ~\x7f"
    assert fields.boolean("yes") is True
    assert fields.boolean("no") is False
    assert fields.integer("number") == 256
    assert fields.string("empty") == ""
    for access, name, told in (
        (fields.string, "broken", "UTF-8"),
        (fields.string, "nul", "NUL"),
        (fields.safe_string, "text", "unprintable"),
        (fields.safe_string, "line", "unprintable"),
        (fields.boolean, "empty", "boolean"),
        (fields.boolean, "text", "boolean"),
        (fields.integer, "yes", "1 bytes"),
        (fields.blob, "absent", "'absent' is missing"),
        (fields.string, "absent", "'absent' is missing"),
        (fields.boolean, "absent", "'absent' is missing"),
        (fields.integer, "absent", "'absent' is missing"),
    ):
        with pytest.raises(ProtocolError, match=told):
            access(name)


def test_fields_show_their_names_and_never_their_values() -> None:
    fields = Fields({"password": b"hunter2"})
    assert "hunter2" not in repr(fields) + str(fields) + f"{fields}"
    assert "password" in repr(fields)


def test_fields_do_not_change_with_what_they_were_made_of() -> None:
    values = {"op": b"sign-text"}
    fields = Fields(values)
    values["op"] = b"decrypt"
    assert fields["op"] == b"sign-text"


@pytest.mark.parametrize("text", ["a", "0", "A.b.c", "0" * 64])
def test_safe_file_names(text: str) -> None:
    assert is_safe_filename(text)


@pytest.mark.parametrize("text", ["", ".", "..", ".a", "a/b", "a b", "a-b", "a\n", "ä", "a\0"])
def test_unsafe_file_names(text: str) -> None:
    assert not is_safe_filename(text)


@pytest.mark.parametrize(
    ("text", "safe"), [("rootca", True), ("", False), ("a1", False), ("a.b", False), ("a\n", False)]
)
def test_identifiers(text: str, safe: bool) -> None:
    assert is_safe_identifier(text) == safe


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("2030-01-31", True),
        ("2028-02-29", True),
        ("2030-02-29", False),
        ("2030-1-1", False),
        ("2030-01-31\n", False),
        ("0000-01-01", False),
        ("٢٠٣٠-01-31", False),
        ("", False),
    ],
)
def test_dates(text: str, right: bool) -> None:
    assert is_date(text) == right


def test_a_parser_is_given_just_what_it_asks_for() -> None:
    asked = []

    def read_exactly(count: int) -> bytes:
        asked.append(count)
        return EXAMPLE[sum(asked[:-1]) : sum(asked)]

    assert run_parser(read_fields(), read_exactly) == MEANING
    assert asked == [1, 1, 2, 1, 10, 1, 4, 1]


def test_an_error_of_the_reader_reaches_the_caller() -> None:
    def read_exactly(_count: int) -> bytes:
        raise ConnectionResetError

    def twice() -> Parser[tuple[int, int]]:
        return ((yield from read_integer(4)), (yield from read_integer(4)))

    with pytest.raises(ConnectionResetError):
        run_parser(twice(), read_exactly)
