"""PE images of the tests' own making: small EFI applications for x86-64 and AArch64."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence

FILE_ALIGNMENT = 0x200
SECTION_ALIGNMENT = 0x1000
_PE_OFFSET = 0x80
_HEADERS_SIZE = 0x400


class Machine(enum.IntEnum):
    """The processor of an image, as its header has it."""

    X86_64 = 0x8664
    AARCH64 = 0xAA64


#: Code that returns EFI_SUCCESS.
_CODE = {
    Machine.X86_64: bytes.fromhex("31c0c3"),
    Machine.AARCH64: bytes.fromhex("000080d2c0035fd6"),
}


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def make_image(machine: Machine, data: bytes = b"data", *, trailing: bytes = b"") -> bytes:
    """A PE32+ image with a section of code and one of `data`, and bytes behind all sections."""
    sections = [(b".text", _CODE[machine], 0x60000020), (b".data", data, 0xC0000040)]
    place, address, table, content = _HEADERS_SIZE, SECTION_ALIGNMENT, b"", b""
    for name, body, flags in sections:
        raw = _padded(body, FILE_ALIGNMENT)
        table += struct.pack(
            "<8sIIIIIIHHI", name, len(body), address, len(raw), place, 0, 0, 0, 0, flags
        )
        content += raw
        place += len(raw)
        address += -(-len(body) // SECTION_ALIGNMENT) * SECTION_ALIGNMENT
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        0x20B, 14, 0, len(_padded(_CODE[machine], FILE_ALIGNMENT)),
        len(_padded(data, FILE_ALIGNMENT)), 0, SECTION_ALIGNMENT, SECTION_ALIGNMENT,
        0, SECTION_ALIGNMENT, FILE_ALIGNMENT, 0, 0, 0, 0, 0, 0, 0,
        address, _HEADERS_SIZE, 0, 10, 0x160, 0, 0, 0, 0, 0, 16,
    ) + bytes(16 * 8)  # fmt: skip
    coff = struct.pack("<HHIIIHH", machine, len(sections), 0, 0, 0, len(optional), 0x0206)
    dos = b"MZ" + bytes(58) + struct.pack("<I", _PE_OFFSET)
    headers = dos.ljust(_PE_OFFSET, b"\0") + b"PE\0\0" + coff + optional + table
    return headers.ljust(_HEADERS_SIZE, b"\0") + content + trailing


def make_layout(
    places: Sequence[tuple[int, int]], *, headers_size: int = _HEADERS_SIZE, length: int = 0
) -> bytes:
    """An image of at least `length` bytes whose sections are at those places (offset and size).

    Its bytes differ, so that a hash tells which were hashed, and in which order.
    """
    optional = _PE_OFFSET + 24
    table = optional + 112 + 16 * 8
    head = bytearray(make_image(Machine.X86_64)[:table].ljust(_HEADERS_SIZE, b"\0"))
    struct.pack_into("<H", head, _PE_OFFSET + 6, len(places))
    struct.pack_into("<I", head, optional + 60, headers_size)
    for number, (place, size) in enumerate(places):
        address = SECTION_ALIGNMENT * (number + 1)
        struct.pack_into(
            "<8sIIIIIIHHI", head, table + 40 * number,
            b".text", max(size, 1), address, size, place, 0, 0, 0, 0, 0x60000020,
        )  # fmt: skip
    end = max(length, headers_size, *(place + size for place, size in places))
    body = b"".join(struct.pack("<I", at) for at in range(0, end, 4))
    return bytes(head) + body[len(head) : end]
