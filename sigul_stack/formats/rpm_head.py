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

A head is parsed in place: entries are views of its bytes, and nothing is copied that nobody asks
for. A package in a file is best mapped into memory and given to `parse_head`. For streams there
are parsers that are generators: each yields how many bytes it wants next, is sent exactly that
many, and returns its value. What a package means to a signer is `signing.rpm`.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..errors import ProtocolError
from .rpm_tags import EntryType, Region, SignatureTag

LEAD_BYTES: Final = 96
#: Bytes of a header before its index.
INTRO_BYTES: Final = 16
#: Most bytes of a header's data. A file costs a main header some 160 bytes, so that this is for
#: 400,000 files, several times what the largest packages have; rpm's own limit is 256 MiB.
MAX_MAIN_HEADER: Final = 64 * 1024**2
#: The signature header grows with the files only by their signatures; this is rpm's own limit.
MAX_SIGNATURE_HEADER: Final = 64 * 1024**2
#: Most entries of a header: several times the number of all tags that rpm knows.
MAX_ENTRIES: Final = 1024
#: Most bytes of a text that stands alone: names, versions, digests.
MAX_TEXT_BYTES: Final = 4096
#: Most texts of one entry: of files, far more than any package has.
MAX_TEXTS: Final = 1 << 22

_LEAD_MAGIC: Final = b"\xed\xab\xee\xdb"
_HEADER_MAGIC: Final = b"\x8e\xad\xe8\x01\0\0\0\0"
_INTRO: Final = struct.Struct(">8sII")
_INDEX: Final = struct.Struct(">IIiI")
_SIGNATURE_ALIGNMENT: Final = 8
#: How much of an array of texts is looked at, at a time, in bytes.
_PIECE: Final = 4096

#: Bytes, or a view of a part of others.
Buffer = bytes | memoryview
#: `signature_type` in the lead: the signature is a header of its own.
_HEADER_SIGNATURE: Final = 5


class CorruptRPM(ProtocolError):
    """Bytes that are no RPM package of version 4, or not all of one."""


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
    data: Buffer

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
    raw: Buffer

    def __contains__(self, tag: int) -> bool:
        return tag in self.entries

    def blob(self, tag: int) -> bytes | None:
        """The bytes of entry `tag`, or None."""
        data = self._of(tag, EntryType.BIN)
        return None if data is None else bytes(data)

    def string(self, tag: int) -> str | None:
        """The text of entry `tag`, or None."""
        data = self._of(tag, EntryType.STRING)
        if data is None:
            return None
        if len(data) > MAX_TEXT_BYTES:
            raise CorruptRPM(f"the RPM's header entry {tag} has a text of {len(data)} bytes")
        return _text(bytes(data[:-1]))

    def strings(self, tag: int) -> list[str] | None:
        """The texts of entry `tag`, or None."""
        return list(self.each_string(tag)) if tag in self.entries else None

    def each_string(self, tag: int) -> Iterator[str]:
        """The texts of entry `tag` one by one; none where it is not there.

        Raises `CorruptRPM` where one has more than `MAX_TEXT_BYTES`.
        """
        data = self._of(tag, EntryType.STRING_ARRAY) or b""
        rest = b""
        for at in range(0, len(data), _PIECE):
            *whole, rest = (rest + bytes(data[at : at + _PIECE])).split(b"\0")
            if max(map(len, (rest, *whole))) > MAX_TEXT_BYTES:
                raise CorruptRPM(f"the RPM's header entry {tag} has a text that is too long")
            yield from map(_text, whole)

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

    def _of(self, tag: int, kind: EntryType) -> Buffer | None:
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
        return LEAD_BYTES + length + padding(length)

    @property
    def length(self) -> int:
        """Length of the head in bytes: the payload's offset."""
        return self.main_offset + len(self.main.raw)

    @property
    def parts(self) -> tuple[Buffer, ...]:
        """The head's bytes, as they came, in parts that are no copies."""
        zeros = bytes(padding(len(self.signature.raw)))
        return self.lead, self.signature.raw, zeros, self.main.raw

    @property
    def raw(self) -> bytes:
        """The head's bytes, as they came."""
        return b"".join(self.parts)

    def before_main(self, signature: bytes) -> bytes:
        """Lead and another signature header: what comes before the main header then."""
        return self.lead + padded(signature)


# --- Reading -----------------------------------------------------------------------------------


def read_head() -> Generator[int, bytes, Head]:
    """Parse a package's head. Raises `CorruptRPM`."""
    lead = yield LEAD_BYTES
    _check_lead(lead)
    signature = yield from read_header(Region.SIGNATURE)
    zeros = padding(len(signature.raw))
    if zeros and any((yield zeros)):
        raise CorruptRPM(_BETWEEN)
    return Head(lead, signature, (yield from read_header(Region.MAIN)))


def read_header(region: Region) -> Generator[int, bytes, Header]:
    """Parse one header. Raises `CorruptRPM`."""
    intro = yield INTRO_BYTES
    body = yield header_length(intro, region) - INTRO_BYTES
    return _parse_header(memoryview(intro + body), region)


def head_length(data: Buffer) -> int:
    """The length of the head of the package that begins with `data`, in bytes, by what it says.

    Raises `CorruptRPM`, also where `data` are shorter.
    """
    _lead, signature, main = _split_head(memoryview(data))
    length = len(signature)
    return LEAD_BYTES + length + padding(length) + len(main)


def parse_head(data: Buffer) -> Head:
    """The head of the package that begins with `data`; it refers to them. Raises `CorruptRPM`."""
    lead, signature, main = _split_head(memoryview(data))
    return Head(lead, _parse_header(signature, Region.SIGNATURE), _parse_header(main, Region.MAIN))


def parse_signature(data: Buffer) -> Header:
    """The signature header alone of the package that begins with `data`, as `parse_head`."""
    return _parse_header(_split_head(memoryview(data))[1], Region.SIGNATURE)


def header_length(intro: Buffer, region: Region) -> int:
    """The length in bytes of the header that begins with `intro`. Raises `CorruptRPM`."""
    magic, count, length = _INTRO.unpack(intro)
    if magic != _HEADER_MAGIC:
        raise CorruptRPM("the RPM has no header where one should be")
    limit = MAX_SIGNATURE_HEADER if region is Region.SIGNATURE else MAX_MAIN_HEADER
    if not 1 <= count <= MAX_ENTRIES or not _INDEX.size <= length <= limit:
        raise CorruptRPM(f"the RPM has a header of {count} entries and {length} bytes")
    return INTRO_BYTES + int(count) * _INDEX.size + int(length)


_BETWEEN: Final = "the RPM has something between its headers"


def _check_lead(lead: bytes) -> None:
    if not lead.startswith(_LEAD_MAGIC):
        raise CorruptRPM("the file is not an RPM")
    if lead[4] not in (3, 4) or int.from_bytes(lead[78:80], "big") != _HEADER_SIGNATURE:
        raise CorruptRPM("the RPM is of a package format that is not supported", "rebuild it")


def _split_head(data: memoryview) -> tuple[bytes, memoryview, memoryview]:
    """Lead, signature header and main header of a package."""

    def take(start: int, count: int) -> memoryview:
        if start + count > len(data):
            raise CorruptRPM("the RPM is truncated")
        return data[start : start + count]

    lead = bytes(take(0, LEAD_BYTES))
    _check_lead(lead)
    at = LEAD_BYTES
    signature = take(at, header_length(take(at, INTRO_BYTES), Region.SIGNATURE))
    at += len(signature)
    zeros = take(at, padding(len(signature)))
    if any(zeros):
        raise CorruptRPM(_BETWEEN)
    at += len(zeros)
    return lead, signature, take(at, header_length(take(at, INTRO_BYTES), Region.MAIN))


def _parse_header(raw: memoryview, region: Region) -> Header:
    entries = {}
    for entry in _entries(raw, region):
        if entry.tag in entries:
            raise CorruptRPM(f"the RPM's header has entry {entry.tag} twice")
        entries[entry.tag] = entry
    return Header(MappingProxyType(entries), raw)


def _entries(raw: memoryview, region: Region) -> Iterator[HeaderEntry]:
    _magic, count, _length = _INTRO.unpack_from(raw)
    size, end = count * _INDEX.size, len(raw) - _INDEX.size
    index, data = raw[INTRO_BYTES:], INTRO_BYTES + size
    if _INDEX.unpack_from(index) != (region, EntryType.BIN, end - data, _INDEX.size):
        raise CorruptRPM("the RPM's header has entries outside of its region")
    if _INDEX.unpack_from(raw, end) != (region, EntryType.BIN, -size, _INDEX.size):
        raise CorruptRPM("the RPM's header has a region that does not cover it")
    at = data
    for tag, kind, offset, values in _INDEX.iter_unpack(index[_INDEX.size : size]):
        start = data + offset
        if not at <= start <= end:
            raise CorruptRPM(f"the RPM's header entry {tag} lies where it must not")
        at = _data_end(raw, kind, start, values, end)
        if not values or at > end:
            raise CorruptRPM(f"the RPM's header entry {tag} does not fit into the header")
        yield HeaderEntry(tag, kind, values, raw[start:at])


def _data_end(raw: memoryview, kind: int, start: int, count: int, end: int) -> int:
    """The end of an entry's data, which begin at `start`; past `end` where that cannot be.

    Alignment is the same in `raw` as in the data: what is before those has a multiple of 16 bytes.
    """
    if kind in _WIDTHS:
        return end + 1 if start % _WIDTHS[kind] else start + _WIDTHS[kind] * count
    most = 1 if kind == EntryType.STRING else min(end - start, MAX_TEXTS)
    if kind not in (EntryType.STRING, *_STRINGS) or count > most:
        return end + 1
    # Whole pieces are counted at once: what somebody sends may be millions of empty texts.
    while start < end:
        piece = bytes(raw[start : min(start + _PIECE, end)])
        there = piece.count(0)
        if there >= count:
            at = 0
            for _ in range(count):
                at = piece.index(0, at) + 1
            return start + at
        count -= there
        start += len(piece)
    return end + 1


# --- Writing -----------------------------------------------------------------------------------


def _parts(region: Region, entries: Iterable[HeaderEntry]) -> list[Buffer]:
    """A header in parts, the large ones of which are the entries' own data."""
    index, data, size = bytearray(), list[Buffer](), 0
    ordered = sorted(entries, key=lambda entry: entry.tag)
    for entry in ordered:
        gap = -size % _WIDTHS.get(entry.type, 1)
        index += _INDEX.pack(entry.tag, entry.type, size + gap, entry.count)
        data += (bytes(gap), entry.data)
        size += gap + len(entry.data)
    count = len(ordered) + 1
    start = _INDEX.pack(region, EntryType.BIN, size, _INDEX.size)
    data.append(_INDEX.pack(region, EntryType.BIN, -count * _INDEX.size, _INDEX.size))
    intro = _INTRO.pack(_HEADER_MAGIC, count, size + _INDEX.size)
    return [intro, start, bytes(index), *data]


def encode_header(region: Region, entries: Iterable[HeaderEntry]) -> bytes:
    """A header with these entries, by tag, in a region that covers them all."""
    return b"".join(_parts(region, entries))


def signed_header(old: Header, added: Iterable[HeaderEntry]) -> bytes:
    """The signature header `old` with the entries `added`, without the signatures it had.

    It is as long as the old one as far as the space that rpmbuild reserved in there goes. Raises
    `CorruptRPM` where it would be longer than a reader takes.
    """
    reserved = SignatureTag.RESERVED_SPACE
    entries = {
        tag: entry
        for tag, entry in old.entries.items()
        if tag not in _OPENPGP_SIGNATURES and tag != reserved
    }
    entries |= {entry.tag: entry for entry in added}
    parts = _parts(Region.SIGNATURE, entries.values())
    length = sum(map(len, parts))
    if length > MAX_SIGNATURE_HEADER:
        raise CorruptRPM(
            f"its signature header would have {length} bytes, more than rpm reads",
            "sign it without a file-signing-key",
        )
    room = len(old.raw) - length - _INDEX.size
    if reserved not in old or room <= 0:
        return b"".join(parts)
    # Behind everything else, so that its length is free.
    return encode_header(
        Region.SIGNATURE, [*entries.values(), HeaderEntry.binary(reserved, bytes(room))]
    )


def padded(signature: Buffer) -> bytes:
    """A signature header as it lies in a file: with zeros up to a multiple of 8 bytes."""
    return b"".join((signature, bytes(padding(len(signature)))))


def padding(length: int) -> int:
    """The number of zeros behind a signature header of that length in a file."""
    return -length % _SIGNATURE_ALIGNMENT
