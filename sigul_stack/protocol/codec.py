"""Integers, field maps and the text forms that fields may take.

Layout (big-endian throughout; docs/protocol.md, "Fields"):

    field map = u8 n, then n × ( u8 klen 1–255, key, u8 vlen 0–255, value )

A parser here is a generator: it yields how many bytes it wants next, is sent exactly that many and
returns its value. It never asks for more than 255 bytes at once, so memory is bounded by what has
arrived.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TypeVar

from ..errors import LocalProtocolError, RemoteProtocolError
from ..records import dataclass

#: Longest key and longest value of a field, in bytes; also the most fields of one map.
MAX_FIELD_BYTES = 255

U8_BYTES, U32_BYTES, U64_BYTES = 1, 4, 8

T = TypeVar("T")
#: Yields the number of bytes wanted, is sent just those, returns a `T`.
Parser = Generator[int, bytes, T]

_SAFE_TEXT = re.compile(r"[\x20-\x7f]*")
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.]*")
_IDENTIFIER = re.compile(r"[A-Za-z]+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def pack_u32(value: int) -> bytes:
    """`value` as four bytes. Raises `ProtocolError` unless it is 0 to 2³²-1."""
    return pack(value, U32_BYTES)


def pack(value: int, size: int) -> bytes:
    """`value` as so many bytes. Raises `ProtocolError` unless it fits."""
    try:
        return value.to_bytes(size, "big")
    except OverflowError:
        raise LocalProtocolError(f"{value} does not fit into {size} bytes") from None


def unpack_u32(data: bytes) -> int:
    """The integer in exactly four bytes."""
    if len(data) != U32_BYTES:
        raise RemoteProtocolError(f"an integer field has {len(data)} bytes instead of {U32_BYTES}")
    return int.from_bytes(data, "big")


def read_integer(size: int) -> Parser[int]:
    """Parse an unsigned integer of `size` bytes."""
    return int.from_bytes((yield size), "big")


class Fields(Mapping[str, bytes]):
    """A field map: an ordered, immutable mapping of names to raw values, with typed access.

    `boolean_bytes` is the width of a boolean in it, which depends on the protocol's version; maps
    that never hold one do without. The typed accessors raise `ProtocolError` naming the field where
    it is absent or malformed. `repr` shows names only, because inner fields are secrets.
    """

    __slots__ = ("_boolean_bytes", "_values")

    def __init__(self, values: Mapping[str, bytes], boolean_bytes: int = U8_BYTES) -> None:
        self._values = dict(values)
        self._boolean_bytes = boolean_bytes

    def __getitem__(self, name: str) -> bytes:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Fields({', '.join(self._values)})"

    def blob(self, name: str) -> bytes:
        """The bytes of field `name`."""
        try:
            return self._values[name]
        except KeyError:
            raise RemoteProtocolError(f"required field '{name}' is missing") from None

    def string(self, name: str) -> str:
        """Field `name` as text: UTF-8 without NUL."""
        value = self.blob(name)
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise RemoteProtocolError(f"field '{name}' is not UTF-8") from None
        if "\0" in text:
            raise RemoteProtocolError(f"field '{name}' holds a NUL")
        return text

    def safe_string(self, name: str) -> str:
        """Field `name` as text of code points 0x20 to 0x7F only."""
        text = self.string(name)
        if not is_safe_text(text):
            wrong = next(character for character in text if not is_safe_text(character))
            raise RemoteProtocolError(
                f"field '{name}' holds an unprintable character or one beyond ASCII"
                f" (U+{ord(wrong):04X}): the protocol allows printable ASCII here, nothing else"
            )
        return text

    def boolean(self, name: str) -> bool:
        """Field `name` as a bool: 0 or 1, in as many bytes as booleans have here."""
        value, width = self.blob(name), self._boolean_bytes
        if len(value) != width or int.from_bytes(value, "big") > 1:
            raise RemoteProtocolError(f"field '{name}' is not a boolean ({width}-byte 0 or 1)")
        return value[-1] == 1

    def integer(self, name: str) -> int:
        """Field `name` as a u32."""
        return unpack_u32(self.blob(name))


def is_safe_text(text: str) -> bool:
    """Whether `text` holds only code points 0x20 to 0x7F."""
    return _SAFE_TEXT.fullmatch(text) is not None


def is_safe_filename(text: str) -> bool:
    """Whether `text` is letters, digits and `.`, not starting with `.`, and not empty."""
    return _FILENAME.fullmatch(text) is not None


def is_safe_identifier(text: str) -> bool:
    """Whether `text` is ASCII letters only, and not empty."""
    return _IDENTIFIER.fullmatch(text) is not None


def is_date(text: str) -> bool:
    """Whether `text` is an existing day as yyyy-mm-dd."""
    if _DATE.fullmatch(text) is None:
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths, in bytes, that differ between the protocol's versions."""

    #: Of a boolean field's value.
    boolean_bytes: int
    #: Of a payload's length, in requests, replies, subrequests and subreplies.
    length_bytes: int

    @property
    def max_length(self) -> int:
        """The most bytes that a payload's length can name."""
        return (1 << 8 * self.length_bytes) - 1

    def encode_value(self, value: str | bool | int | bytes) -> bytes:
        """A field's value as bytes, by its Python type.

        Raises `LocalProtocolError` where it has none: a number out of range, text from undecodable
        input.
        """
        if isinstance(value, bytes):
            return value
        if isinstance(value, bool):
            return pack(value, self.boolean_bytes)
        if isinstance(value, int):
            return pack_u32(value)
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError:
            raise LocalProtocolError("a text that is not valid UTF-8 cannot be sent") from None

    def encode_length(self, length: int) -> bytes:
        """A payload's length as bytes. Raises `LocalProtocolError` where it cannot be said."""
        if length > self.max_length:
            raise LocalProtocolError(
                f"a payload of {length} bytes cannot be sent in this version of the protocol, whose"
                f" lengths end at {self.max_length} bytes",
                "send a smaller one, or have client and server speak a later version",
            )
        return pack(length, self.length_bytes)

    def read_length(self) -> Parser[int]:
        """Parse a payload's length."""
        return read_integer(self.length_bytes)


def encode_fields(fields: Mapping[str, bytes]) -> bytes:
    """A field map as bytes, in the order of `fields`.

    Raises `ProtocolError` where a key or value cannot be sent: too long, unprintable key.
    """
    if len(fields) > MAX_FIELD_BYTES:
        raise LocalProtocolError(f"{len(fields)} fields are more than {MAX_FIELD_BYTES}")
    out = bytearray((len(fields),))
    for name, value in fields.items():
        if not 1 <= len(name) <= MAX_FIELD_BYTES or not is_safe_text(name):
            raise LocalProtocolError(f"{name!r} cannot be a field's name")
        if len(value) > MAX_FIELD_BYTES:
            raise LocalProtocolError(
                f"field '{name}' has {len(value)} bytes; the protocol allows {MAX_FIELD_BYTES}"
            )
        out += bytes((len(name),)) + name.encode("ascii")
        out += bytes((len(value),)) + value
    return bytes(out)


def read_fields(boolean_bytes: int = U8_BYTES) -> Parser[Fields]:
    """Parse a field map with booleans of that width.

    Rejects an empty, unprintable or repeated key.
    """
    values: dict[str, bytes] = {}
    for _ in range((yield U8_BYTES)[0]):
        key_length = (yield U8_BYTES)[0]
        if key_length == 0:
            raise RemoteProtocolError("a field has an empty name")
        name = (yield key_length).decode("ascii", "replace")
        if not is_safe_text(name):
            raise RemoteProtocolError("a field's name is not printable ASCII")
        if name in values:
            raise RemoteProtocolError(f"field '{name}' is repeated")
        value_length = (yield U8_BYTES)[0]
        values[name] = (yield value_length) if value_length else b""
    return Fields(values, boolean_bytes)


def run_parser(parser: Parser[T], read_exactly: Callable[[int], bytes]) -> T:
    """Drive `parser` with a blocking `read_exactly(n) -> n bytes`, which raises at a short read."""
    try:
        wanted = next(parser)
        while True:
            wanted = parser.send(read_exactly(wanted))
    except StopIteration as end:
        value: T = end.value
        return value
