"""One header of an RPM package, as bytes and back; `rpm_head` has its layout in a package.

A header is parsed in place, and refused where anything is outside its region, where an entry is
there twice, or where entries are not in the order of their data (`rpm_head` says why).
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .rpm_lead import GET_AGAIN, CorruptRPM
from .rpm_tags import EntryType, Region

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

_HEADER_MAGIC: Final = b"\x8e\xad\xe8\x01\0\0\0\0"
_INTRO: Final = struct.Struct(">8sII")
_INDEX: Final = struct.Struct(">IIiI")
#: Bytes of an entry of an index.
INDEX_BYTES: Final = _INDEX.size
#: How much of an array of texts is looked at, at a time, in bytes.
_PIECE: Final = 4096

#: Bytes, or a view of a part of others.
Buffer = bytes | memoryview
#: Names of the headers in messages, and what to do about one that is not in order.
_NAMES: Final = MappingProxyType({Region.SIGNATURE: "signature header", Region.MAIN: "header"})
_CURES: Final = MappingProxyType(
    {
        Region.SIGNATURE: "rpmsign --delsign makes a new one where rpm still reads it; else get the"
        " RPM again from who built it",
        Region.MAIN: GET_AGAIN,
    }
)

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

    @property
    def region(self) -> Region:
        """The one of the two headers that it is."""
        return Region(_INDEX.unpack_from(self.raw, INTRO_BYTES)[0])

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
            raise _broken(self.region, f"entry {tag} has a text of {len(data)} bytes")
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
                raise _broken(self.region, f"entry {tag} has a text that is too long")
            yield from map(_text, whole)

    def integer(self, tag: int) -> int | None:
        """The one u32 of entry `tag`, or None."""
        data = self._of(tag, EntryType.INT32)
        if data is None:
            return None
        if len(data) != 4:
            raise _broken(self.region, f"entry {tag} has several numbers instead of one")
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
            raise _broken(self.region, f"entry {tag} has type {entry.type} instead of {kind}")
        return entry.data


def _broken(region: Region, what: str) -> CorruptRPM:
    """The error for one header, of which `what` says what is wrong in it."""
    return CorruptRPM(f"the RPM's {_NAMES[region]} is broken: {what}", _CURES[region])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


# --- Reading -----------------------------------------------------------------------------------


def read_header(region: Region) -> Generator[int, bytes, Header]:
    """Parse one header. Raises `CorruptRPM`."""
    intro = yield INTRO_BYTES
    body = yield header_length(intro, region) - INTRO_BYTES
    return parse_header(memoryview(intro + body), region)


def header_length(intro: Buffer, region: Region) -> int:
    """The length in bytes of the header that begins with `intro`. Raises `CorruptRPM`."""
    magic, count, length = _INTRO.unpack(intro)
    if magic != _HEADER_MAGIC:
        raise CorruptRPM(f"the RPM has no {_NAMES[region]} where one should be", GET_AGAIN)
    limit = MAX_SIGNATURE_HEADER if region is Region.SIGNATURE else MAX_MAIN_HEADER
    if not 1 <= count <= MAX_ENTRIES or not INDEX_BYTES <= length <= limit:
        raise _broken(region, f"it has {count} entries and {length} bytes")
    return INTRO_BYTES + int(count) * INDEX_BYTES + int(length)


def parse_header(raw: memoryview, region: Region) -> Header:
    """The header that is all of `raw`, to which it refers. Raises `CorruptRPM`."""
    entries = {}
    for entry in _entries(raw, region):
        if entry.tag in entries:
            raise _broken(region, f"it has entry {entry.tag} twice")
        entries[entry.tag] = entry
    return Header(MappingProxyType(entries), raw)


def _entries(raw: memoryview, region: Region) -> Iterator[HeaderEntry]:
    _magic, count, _length = _INTRO.unpack_from(raw)
    size, end = count * INDEX_BYTES, len(raw) - INDEX_BYTES
    index, data = raw[INTRO_BYTES:], INTRO_BYTES + size
    if _INDEX.unpack_from(index) != (region, EntryType.BIN, end - data, INDEX_BYTES):
        raise _broken(region, "it has no region, or entries outside of it")
    if _INDEX.unpack_from(raw, end) != (region, EntryType.BIN, -size, INDEX_BYTES):
        raise _broken(region, "its region does not cover it")
    at = data
    for tag, kind, offset, values in _INDEX.iter_unpack(index[INDEX_BYTES:size]):
        start = data + offset
        if not at <= start <= end:
            raise _broken(region, f"entry {tag} lies where it must not")
        at = _data_end(raw, kind, start, values, end)
        if not values or at > end:
            raise _broken(region, f"entry {tag} does not fit into it")
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


def header_parts(region: Region, entries: Iterable[HeaderEntry]) -> list[Buffer]:
    """A header in parts, the large ones of which are the entries' own data."""
    index, data, size = bytearray(), list[Buffer](), 0
    ordered = sorted(entries, key=lambda entry: entry.tag)
    for entry in ordered:
        gap = -size % _WIDTHS.get(entry.type, 1)
        index += _INDEX.pack(entry.tag, entry.type, size + gap, entry.count)
        data += (bytes(gap), entry.data)
        size += gap + len(entry.data)
    count = len(ordered) + 1
    start = _INDEX.pack(region, EntryType.BIN, size, INDEX_BYTES)
    data.append(_INDEX.pack(region, EntryType.BIN, -count * INDEX_BYTES, INDEX_BYTES))
    intro = _INTRO.pack(_HEADER_MAGIC, count, size + INDEX_BYTES)
    return [intro, start, bytes(index), *data]


def encode_header(region: Region, entries: Iterable[HeaderEntry]) -> bytes:
    """A header with these entries, by tag, in a region that covers them all."""
    return b"".join(header_parts(region, entries))
