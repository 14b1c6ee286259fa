"""The head of an RPM package: lead, signature header and main header, as bytes and back.

Layout of a package of version 4 (rpm's documentation, "RPM V4 Package format"; big-endian):

    lead              96 bytes, the first four ED AB EE DB
    signature header  header, then zeros up to a multiple of 8
    main header       header
    payload           compressed archive

    header = 8E AD E8 01, u32 0, u32 n, u32 length, n × index entry, u8[length] data
    index entry = u32 tag, u32 type, u32 offset into data, u32 count

The first entry of a header is its region: it covers all entries, and its data, the last 16 bytes,
is an index entry again, whose offset is -16 n. Headers that have anything outside their region
are refused: a signature over the main header covers the region only. Data of entries is in the
order of the entries and never overlaps, as rpm itself wants it, so that what is read here is
bounded by what has arrived.

A parser here is a generator: it yields how many bytes it wants next, is sent exactly that many,
and returns its value. What a package means to a signer is `signing.rpm`.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from ..errors import ProtocolError

LEAD_BYTES: Final = 96
#: Most bytes of a header, index and data together; rpm's own limits are higher.
MAX_SIGNATURE_HEADER: Final = 64 * 1024**2
MAX_MAIN_HEADER: Final = 128 * 1024**2
#: Most entries of a header: rpm's own limit.
MAX_ENTRIES: Final = 0xFFFF
#: Most texts of one entry: of files, far more than any package has.
MAX_TEXTS: Final = 1 << 22

_LEAD_MAGIC: Final = b"\xed\xab\xee\xdb"
_HEADER_MAGIC: Final = b"\x8e\xad\xe8\x01\0\0\0\0"
_INTRO: Final = struct.Struct(">8sII")
_INDEX: Final = struct.Struct(">IIiI")
_SIGNATURE_ALIGNMENT: Final = 8
#: `signature_type` in the lead: the signature is a header of its own.
_HEADER_SIGNATURE: Final = 5


class CorruptRPM(ProtocolError):
    """Bytes that are no RPM package of version 4, or not all of one."""


class EntryType(IntEnum):
    """Types of an entry's data."""

    CHAR = 1
    INT8 = 2
    INT16 = 3
    INT32 = 4
    INT64 = 5
    STRING = 6
    BIN = 7
    STRING_ARRAY = 8
    I18NSTRING = 9


_WIDTHS: Final[Mapping[int, int]] = MappingProxyType(
    {
        EntryType.CHAR: 1,
        EntryType.INT8: 1,
        EntryType.INT16: 2,
        EntryType.INT32: 4,
        EntryType.INT64: 8,
        EntryType.BIN: 1,
    }
)
_STRINGS: Final = (EntryType.STRING_ARRAY, EntryType.I18NSTRING)


class Region(IntEnum):
    """The tag of a header's region, which tells the two kinds of header apart."""

    SIGNATURE = 62
    MAIN = 63


class SignatureTag(IntEnum):
    """Tags of entries in the signature header."""

    DSA_HEADER = 267  # despite its name, of any algorithm but RSA
    RSA_HEADER = 268
    SHA1_HEADER = 269
    LONG_SIZE = 270
    SHA256_HEADER = 273
    FILE_SIGNATURES = 274
    FILE_SIGNATURE_LENGTH = 275
    OPENPGP = 278
    SIZE = 1000
    PGP = 1002
    MD5 = 1004
    GPG = 1005
    PGP5 = 1006
    RESERVED_SPACE = 1008


class MainTag(IntEnum):
    """Tags of entries in the main header."""

    NAME = 1000
    VERSION = 1001
    RELEASE = 1002
    EPOCH = 1003
    ARCH = 1022
    FILE_DIGESTS = 1035
    SOURCE_RPM = 1044
    FILE_DIGEST_ALGORITHM = 5011
    PAYLOAD_DIGEST = 5092
    FORMAT = 5114


_OPENPGP_SIGNATURES: Final = frozenset(
    {
        SignatureTag.DSA_HEADER, SignatureTag.RSA_HEADER, SignatureTag.OPENPGP,
        SignatureTag.PGP, SignatureTag.GPG, SignatureTag.PGP5,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeaderEntry:
    """One entry of a header: its tag, type, number of values, and their bytes."""

    tag: int
    type: int
    count: int
    data: bytes

    @classmethod
    def binary(cls, tag: int, data: bytes) -> HeaderEntry:
        """An entry of plain bytes."""
        return cls(tag, EntryType.BIN, len(data), data)

    @classmethod
    def integer(cls, tag: int, value: int) -> HeaderEntry:
        """An entry of one u32."""
        return cls(tag, EntryType.INT32, 1, struct.pack(">I", value))

    @classmethod
    def strings(cls, tag: int, values: Iterable[str]) -> HeaderEntry:
        """An entry of texts (ASCII)."""
        listed = [value.encode("ascii") + b"\0" for value in values]
        return cls(tag, EntryType.STRING_ARRAY, len(listed), b"".join(listed))


@dataclass(frozen=True, slots=True)
class Header:
    """A header: its entries by tag, without the region's, and its bytes as they came."""

    entries: Mapping[int, HeaderEntry]
    raw: bytes

    def __contains__(self, tag: int) -> bool:
        return tag in self.entries

    def blob(self, tag: int) -> bytes | None:
        """The bytes of entry `tag`, or None."""
        return self._of(tag, EntryType.BIN)

    def string(self, tag: int) -> str | None:
        """The text of entry `tag`, or None."""
        data = self._of(tag, EntryType.STRING)
        return None if data is None else _text(data[:-1])

    def strings(self, tag: int) -> list[str] | None:
        """The texts of entry `tag`, or None."""
        data = self._of(tag, EntryType.STRING_ARRAY)
        return None if data is None else [_text(item) for item in data[:-1].split(b"\0")]

    def integer(self, tag: int) -> int | None:
        """The one u32 of entry `tag`, or None."""
        data = self._of(tag, EntryType.INT32)
        if data is None:
            return None
        if len(data) != 4:
            raise CorruptRPM(f"the RPM's header entry {tag} has several numbers instead of one")
        return int.from_bytes(data, "big")

    def long(self, tag: int) -> int | None:
        """The one u64 of entry `tag`, or None."""
        data = self._of(tag, EntryType.INT64)
        return None if data is None else int.from_bytes(data[:8], "big")

    def _of(self, tag: int, kind: EntryType) -> bytes | None:
        entry = self.entries.get(tag)
        if entry is None:
            return None
        if entry.type != kind:
            raise CorruptRPM(
                f"the RPM's header entry {tag} has type {entry.type} instead of {kind}"
            )
        return entry.data


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Head:
    """All of a package before its payload."""

    lead: bytes
    signature: Header
    main: Header

    @property
    def main_offset(self) -> int:
        """Offset of the main header in the package, in bytes."""
        length = len(self.signature.raw)
        return LEAD_BYTES + length + _padding(length)

    @property
    def length(self) -> int:
        """Length of the head in bytes: the payload's offset."""
        return self.main_offset + len(self.main.raw)

    @property
    def raw(self) -> bytes:
        """The head's bytes, as they came."""
        return self.before_main(self.signature.raw) + self.main.raw

    def before_main(self, signature: bytes) -> bytes:
        """Lead and another signature header: what comes before the main header then."""
        return self.lead + padded(signature)


def read_head() -> Generator[int, bytes, Head]:
    """Parse a package's head. Raises `CorruptRPM`."""
    lead = yield LEAD_BYTES
    if not lead.startswith(_LEAD_MAGIC):
        raise CorruptRPM("the file is not an RPM")
    if lead[4] not in (3, 4) or int.from_bytes(lead[78:80], "big") != _HEADER_SIGNATURE:
        raise CorruptRPM("the RPM is of a package format that is not supported", "rebuild it")
    signature = yield from read_header(Region.SIGNATURE)
    padding = _padding(len(signature.raw))
    if padding and any((yield padding)):
        raise CorruptRPM("the RPM has something between its headers")
    return Head(lead, signature, (yield from read_header(Region.MAIN)))


def read_header(region: Region) -> Generator[int, bytes, Header]:
    """Parse one header. Raises `CorruptRPM`."""
    intro = yield _INTRO.size
    magic, count, length = _INTRO.unpack(intro)
    if magic != _HEADER_MAGIC:
        raise CorruptRPM("the RPM has no header where one should be")
    limit = MAX_SIGNATURE_HEADER if region is Region.SIGNATURE else MAX_MAIN_HEADER
    if not 1 <= count <= MAX_ENTRIES or not _INDEX.size <= length <= limit:
        raise CorruptRPM(f"the RPM has a header of {count} entries and {length} bytes")
    body = yield count * _INDEX.size + length
    entries = {}
    for entry in _entries(body, count, region):
        if entry.tag in entries:
            raise CorruptRPM(f"the RPM's header has entry {entry.tag} twice")
        entries[entry.tag] = entry
    return Header(MappingProxyType(entries), intro + body)


def _entries(body: bytes, count: int, region: Region) -> Iterator[HeaderEntry]:
    size, end = count * _INDEX.size, len(body) - _INDEX.size
    if _INDEX.unpack_from(body) != (region, EntryType.BIN, end - size, _INDEX.size):
        raise CorruptRPM("the RPM's header has entries outside of its region")
    if _INDEX.unpack_from(body, end) != (region, EntryType.BIN, -size, _INDEX.size):
        raise CorruptRPM("the RPM's header has a region that does not cover it")
    at = size
    for tag, kind, offset, values in _INDEX.iter_unpack(body[_INDEX.size : size]):
        start = size + offset
        if not at <= start <= end:
            raise CorruptRPM(f"the RPM's header entry {tag} lies where it must not")
        at = _data_end(body, kind, start, values, end)
        if not values or at > end:
            raise CorruptRPM(f"the RPM's header entry {tag} does not fit into the header")
        yield HeaderEntry(tag, kind, values, body[start:at])


def _data_end(body: bytes, kind: int, start: int, count: int, end: int) -> int:
    """The end of an entry's data, which begin at `start`; past `end` where that cannot be.

    Alignment is the same in `body` as in the data: the index before those is of 16-byte entries.
    """
    if kind in _WIDTHS:
        return end + 1 if start % _WIDTHS[kind] else start + _WIDTHS[kind] * count
    most = 1 if kind == EntryType.STRING else min(end - start, MAX_TEXTS)
    if kind not in (EntryType.STRING, *_STRINGS) or count > most:
        return end + 1
    for _ in range(count):
        start = body.find(b"\0", start, end) + 1
        if not start:
            return end + 1
    return start


def encode_header(region: Region, entries: Iterable[HeaderEntry]) -> bytes:
    """A header with these entries, by tag, in a region that covers them all."""
    index, data = bytearray(), bytearray()
    ordered = sorted(entries, key=lambda entry: entry.tag)
    for entry in ordered:
        data += bytes(-len(data) % _WIDTHS.get(entry.type, 1))
        index += _INDEX.pack(entry.tag, entry.type, len(data), entry.count)
        data += entry.data
    count = len(ordered) + 1
    start = _INDEX.pack(region, EntryType.BIN, len(data), _INDEX.size)
    data += _INDEX.pack(region, EntryType.BIN, -count * _INDEX.size, _INDEX.size)
    return _INTRO.pack(_HEADER_MAGIC, count, len(data)) + start + bytes(index + data)


def signed_header(old: Header, added: Iterable[HeaderEntry]) -> bytes:
    """The signature header `old` with the entries `added`, without the signatures it had.

    It is as long as the old one as far as the space that rpmbuild reserved in there goes.
    """
    reserved = SignatureTag.RESERVED_SPACE
    entries = {
        tag: entry
        for tag, entry in old.entries.items()
        if tag not in _OPENPGP_SIGNATURES and tag != reserved
    }
    entries |= {entry.tag: entry for entry in added}
    whole = encode_header(Region.SIGNATURE, entries.values())
    room = len(old.raw) - len(whole) - _INDEX.size
    if reserved not in old or room <= 0:
        return whole
    # Behind everything else, so that its length is free.
    return encode_header(
        Region.SIGNATURE, [*entries.values(), HeaderEntry.binary(reserved, bytes(room))]
    )


def padded(signature: bytes) -> bytes:
    """A signature header as it lies in a file: with zeros up to a multiple of 8 bytes."""
    return signature + bytes(_padding(len(signature)))


def _padding(length: int) -> int:
    return -length % _SIGNATURE_ALIGNMENT
