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

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Final

from .file_kinds import LOOKED_AT
from .rpm_header import (
    INDEX_BYTES,
    INTRO_BYTES,
    MAX_ENTRIES,
    MAX_MAIN_HEADER,
    MAX_SIGNATURE_HEADER,
    MAX_TEXT_BYTES,
    MAX_TEXTS,
    Buffer,
    Header,
    HeaderEntry,
    encode_header,
    header_length,
    header_parts,
    parse_header,
    read_header,
)
from .rpm_lead import GET_AGAIN, LEAD_BYTES, CorruptRPM, UnsupportedRPM, check_lead, says_source
from .rpm_tags import EntryType, MainTag, Region, SignatureTag

__all__ = [
    "INTRO_BYTES", "LEAD_BYTES", "MAX_ENTRIES", "MAX_MAIN_HEADER", "MAX_SIGNATURE_HEADER",
    "MAX_TEXTS", "MAX_TEXT_BYTES", "Buffer", "CorruptRPM", "EntryType", "Head", "Header",
    "HeaderEntry", "Region", "UnsupportedRPM", "encode_header", "head_length", "header_length",
    "padded", "padding", "parse_head", "parse_signature", "read_head", "read_header",
    "signed_header",
]  # fmt: skip

_SIGNATURE_ALIGNMENT: Final = 8
_OPENPGP_SIGNATURES: Final = frozenset(
    {
        SignatureTag.DSA_HEADER, SignatureTag.RSA_HEADER, SignatureTag.OPENPGP,
        SignatureTag.PGP, SignatureTag.GPG, SignatureTag.PGP5,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """All of a package before its payload."""

    lead: bytes
    signature: Header
    main: Header

    @property
    def source(self) -> bool:
        """True for a source package, by rpm's own rule: what the main header says counts.

        Other builders leave the name of a binary package's source out, or give source packages
        one, so that this entry alone tells nothing.
        """
        if MainTag.SOURCE_PACKAGE in self.main:
            return True
        return says_source(self.lead) and MainTag.SOURCE_RPM not in self.main

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
    check_lead(lead)
    signature = yield from read_header(Region.SIGNATURE)
    zeros = padding(len(signature.raw))
    if zeros and any((yield zeros)):
        raise CorruptRPM(_BETWEEN, GET_AGAIN)
    return Head(lead, signature, (yield from read_header(Region.MAIN)))


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
    return Head(lead, parse_header(signature, Region.SIGNATURE), parse_header(main, Region.MAIN))


def parse_signature(data: Buffer) -> Header:
    """The signature header alone of the package that begins with `data`, as `parse_head`."""
    return parse_header(_split_head(memoryview(data))[1], Region.SIGNATURE)


_BETWEEN: Final = "the RPM has something between its headers"


def _split_head(data: memoryview) -> tuple[bytes, memoryview, memoryview]:
    """Lead, signature header and main header of a package."""

    def take(start: int, count: int) -> memoryview:
        if start + count > len(data):
            raise CorruptRPM("the RPM is truncated", GET_AGAIN)
        return data[start : start + count]

    start = bytes(data[:LOOKED_AT])
    check_lead(start)
    lead = start[:LEAD_BYTES]
    at = LEAD_BYTES
    signature = take(at, header_length(take(at, INTRO_BYTES), Region.SIGNATURE))
    at += len(signature)
    zeros = take(at, padding(len(signature)))
    if any(zeros):
        raise CorruptRPM(_BETWEEN, GET_AGAIN)
    at += len(zeros)
    return lead, signature, take(at, header_length(take(at, INTRO_BYTES), Region.MAIN))


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
    parts = header_parts(Region.SIGNATURE, entries.values())
    length = sum(map(len, parts))
    if length > MAX_SIGNATURE_HEADER:
        raise CorruptRPM(
            f"its signature header would have {length} bytes, more than rpm reads",
            "sign it without a file-signing-key",
        )
    room = len(old.raw) - length - INDEX_BYTES
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
