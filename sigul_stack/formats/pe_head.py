"""The headers of a PE image, as far as they say where its parts and its signatures lie.

Layout (Microsoft, "PE Format"; little-endian):

    DOS header         64 bytes, the first two MZ; at 0x3C a u32: where the PE header begins
    PE header          PE 0 0, then the COFF file header of 20 bytes
    optional header    its length is in the COFF header; begins with the magic number of PE32 or
                       PE32+; ends with the data directories, the fifth of which is the
                       certificate table: where the signatures lie in the file
    section table      40 bytes a section, with its size and place in the file
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from ..errors import ProtocolError

_DOS_HEADER: Final = 0x40
_COFF_HEADER: Final = 24  # with the signature before it
_SECTION_HEADER: Final = 40
#: By the optional header's magic number: where its data directories begin.
_DIRECTORIES: Final[Mapping[int, int]] = MappingProxyType({0x10B: 96, 0x20B: 112})
_CERTIFICATE_TABLE: Final = 4  # which of the directories

#: Gives `(offset, size)` of a file: `size` bytes, or fewer where it ends before.
ReadAt = Callable[[int, int], bytes]


class InvalidImage(ProtocolError):
    """Bytes that are no whole PE image with a place for signatures."""


def check_headers(length: int, read_at: ReadAt) -> None:
    """Check that an image of `length` bytes is whole, and has a place for signatures.

    Raises `InvalidImage`.
    """
    dos = _read(read_at, 0, _DOS_HEADER)
    if not dos.startswith(b"MZ"):
        raise InvalidImage("it does not begin with MZ")
    (at,) = struct.unpack_from("<I", dos, 0x3C)
    if at < _DOS_HEADER:
        raise InvalidImage("its PE header is inside its DOS header")
    signature, sections, optional_size = struct.unpack(
        "<4s2xH12xH2x", _read(read_at, at, _COFF_HEADER)
    )
    if signature != b"PE\0\0":
        raise InvalidImage("it has no PE header")
    optional = _read(read_at, at + _COFF_HEADER, optional_size)
    table = at + _COFF_HEADER + optional_size
    headers_size, certificates_at, certificates_size = _parse_optional_header(optional)
    end = length
    if certificates_at or certificates_size:
        end = certificates_at
        if certificates_at + certificates_size != length or certificates_at < headers_size:
            raise InvalidImage("its signatures are not at its end")
    if not table + sections * _SECTION_HEADER <= headers_size <= end:
        raise InvalidImage("the size of its headers cannot be right")
    headers = _read(read_at, table, sections * _SECTION_HEADER)
    for size, start in struct.iter_unpack("<16xII16x", headers):
        if size and start + size > end:
            raise InvalidImage("a section reaches beyond its end", "is it complete?")


def _parse_optional_header(optional: bytes) -> tuple[int, int, int]:
    """The size of all headers, and place and size of the signatures."""
    directories = _DIRECTORIES.get(int.from_bytes(optional[:2], "little"))
    if directories is None:
        raise InvalidImage("it is neither PE32 nor PE32+")
    entry = directories + 8 * _CERTIFICATE_TABLE
    if len(optional) < entry + 8:
        raise InvalidImage("its optional header is too short for signatures")
    (count,) = struct.unpack_from("<I", optional, directories - 4)
    if count <= _CERTIFICATE_TABLE:
        raise InvalidImage("its optional header has no place for signatures")
    (headers_size,) = struct.unpack_from("<I", optional, 60)
    place, size = struct.unpack_from("<II", optional, entry)
    return headers_size, place, size


def _read(read_at: ReadAt, offset: int, size: int) -> bytes:
    data = read_at(offset, size)
    if len(data) != size:
        raise InvalidImage("it ends inside its headers")
    return data
