"""The headers of a PE image, as far as they say where its parts and its signatures lie.

Layout (Microsoft, "PE Format"; little-endian):

    DOS header         64 bytes, the first two MZ; at 0x3C a u32: where the PE header begins
    PE header          PE 0 0, then the COFF file header of 20 bytes
    optional header    its length is in the COFF header; begins with the magic number of PE32 or
                       PE32+; ends with the data directories, the fifth of which is the
                       certificate table: where the signatures lie in the file
    section table      40 bytes a section, with its size and place in the file

Firmware hashes the headers, then each section, then whatever is left of the file's length
(Microsoft, "Windows Authenticode Portable Executable Signature Format"; UEFI's implementations).
Only where the sections lie one behind the other, the first one behind the headers, are those the
bytes of the file in their order, each once: other images are refused, for their signature would be
good for some who hash them and bad for others, and leave bytes of them unsigned.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..errors import ProtocolError

_DOS_HEADER: Final = 0x40
_COFF_HEADER: Final = 24  # with the signature before it
_SECTION_HEADER: Final = 40
#: The processors that UEFI has images for (UEFI Specification, 2.1.1), of 32 bits: x86, ARM,
#: RISC-V, LoongArch; and of more: x86-64, AArch64, RISC-V, LoongArch, Itanium.
_PE32_MACHINES: Final = frozenset({0x14C, 0x1C2, 0x5032, 0x6232})
_PE32PLUS_MACHINES: Final = frozenset({0x8664, 0xAA64, 0x5064, 0x5128, 0x6264, 0x200})
_EXECUTABLE: Final = 0x0002  # IMAGE_FILE_EXECUTABLE_IMAGE, among the file header's flags
_PE32PLUS: Final = b"\x0b\x02"
#: By the optional header's magic number: where its data directories begin.
_DIRECTORIES: Final[Mapping[int, int]] = MappingProxyType({0x10B: 96, 0x20B: 112})
_CERTIFICATE_TABLE: Final = 4  # which of the directories
_CHECKSUM: Final = 64  # where the optional header has it
#: The cure for an image that is not laid out as one for UEFI.
_LAY_OUT_ANEW: Final = "objcopy --file-alignment=512 IN OUT lays them out anew"
_PLACES: Final = struct.Struct("<16xII16x")  # of a section header: size and place in the file

#: Gives `(offset, size)` of a file: `size` bytes, or fewer where it ends before.
ReadAt = Callable[[int, int], bytes]


class InvalidImage(ProtocolError):
    """Bytes that are no whole PE image with a place for signatures."""


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """The places in an image that no hash of it covers, each an offset in bytes.

    `checksum` is that of the checksum, a u32; `directory` that of the entry that says where the
    signatures are, two u32; `end` is where they begin, or the image's length without any.
    """

    checksum: int
    directory: int
    end: int


def check_headers(length: int, read_at: ReadAt) -> ImageLayout:
    """Check that an image of `length` bytes is whole, and can have signatures that hold.

    Raises `InvalidImage`.
    """
    dos = _read(read_at, 0, _DOS_HEADER)
    if not dos.startswith(b"MZ"):
        raise InvalidImage("it does not begin with MZ")
    (at,) = struct.unpack_from("<I", dos, 0x3C)
    if at < _DOS_HEADER:
        raise InvalidImage("its PE header is inside its DOS header")
    signature, machine, sections, optional_size, flags = struct.unpack(
        "<4sHH12xHH", _read(read_at, at, _COFF_HEADER)
    )
    if signature != b"PE\0\0":
        raise InvalidImage("it has no PE header")
    if not flags & _EXECUTABLE:
        raise InvalidImage("its header says that it cannot be run", "link it without errors")
    optional = _read(read_at, at + _COFF_HEADER, optional_size)
    table = at + _COFF_HEADER + optional_size
    headers_size, certificates_at, certificates_size = _parse_optional_header(optional)
    plus = optional.startswith(_PE32PLUS)
    if machine not in (_PE32PLUS_MACHINES if plus else _PE32_MACHINES):
        raise InvalidImage(
            f"UEFI knows no processor {machine:#06x} with images of this kind (PE32{'+' * plus})"
        )
    end = length
    if certificates_at or certificates_size:
        end = certificates_at
        if certificates_at + certificates_size != length or certificates_at < headers_size:
            raise InvalidImage("its signatures are not at its end")
    if not table + sections * _SECTION_HEADER <= headers_size <= end:
        raise InvalidImage("the size of its headers cannot be right", _LAY_OUT_ANEW)
    headers = _read(read_at, table, sections * _SECTION_HEADER)
    _check_sections(
        [(start, size) for size, start in _PLACES.iter_unpack(headers)], headers_size, end
    )
    directories = at + _COFF_HEADER + _DIRECTORIES[int.from_bytes(optional[:2], "little")]
    return ImageLayout(
        checksum=at + _COFF_HEADER + _CHECKSUM,
        directory=directories + 8 * _CERTIFICATE_TABLE,
        end=end,
    )


def _check_sections(sections: Iterable[tuple[int, int]], headers_size: int, end: int) -> None:
    """Check that sections (place and size) lie one behind the other, from the headers to `end`."""
    hashed = headers_size
    for start, size in sections:
        if not size:
            continue
        if start + size > end:
            raise InvalidImage("a section reaches beyond its end", "is it complete?")
        if start != hashed:
            raise InvalidImage(
                "its headers and sections do not follow each other without gap or overlap, so that"
                " firmware hashes other bytes",
                _LAY_OUT_ANEW,
            )
        hashed += size
    if hashed == headers_size:
        raise InvalidImage("it has no sections")


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
    if directories + 8 * count != len(optional):
        raise InvalidImage("its data directories do not end where its optional header does")
    (headers_size,) = struct.unpack_from("<I", optional, 60)
    place, size = struct.unpack_from("<II", optional, entry)
    return headers_size, place, size


def _read(read_at: ReadAt, offset: int, size: int) -> bytes:
    data = read_at(offset, size)
    if len(data) != size:
        raise InvalidImage("it ends inside its headers")
    return data
