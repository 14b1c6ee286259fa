"""OpenPGP packets (RFC 9580, section 4; the same in RFC 4880): heads, bodies, and what is in them.

    packet = head, body
    head   = 11TTTTTT, length of 1, 2 or 5 bytes or of a part         (the format of today)
           | 10TTTTLL, length of 1, 2 or 4 bytes, or none: to the end  (the format of old)

where T is the packet's type ID. Only packets of data may come in parts or without a length.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from ..errors import ProtocolError


class MalformedPacket(ProtocolError):
    """Bytes that are no OpenPGP packet, or not all of one; the problem speaks of "it"."""


class PacketType(IntEnum):
    """Type IDs (RFC 9580, 5; "tags" in RFC 4880)."""

    TO_KEY = 1  # a session key, encrypted to a key: PKESK
    SIGNATURE = 2
    SESSION_KEY = 3  # encrypted with a passphrase: SKESK
    ONE_PASS = 4
    SECRET_KEY = 5
    PUBLIC_KEY = 6
    SECRET_SUBKEY = 7
    COMPRESSED = 8
    UNPROTECTED = 9  # encrypted without integrity protection
    LITERAL = 11
    USER_ID = 13
    PUBLIC_SUBKEY = 14
    ENCRYPTED = 18  # and integrity protected: SEIPD


#: Bytes, or a view of a part of others.
Buffer = bytes | memoryview

#: The bit in a subpacket's type that says: who does not understand it refuses the signature.
CRITICAL: Final = 0x80

_STREAMED: Final = frozenset(
    {PacketType.COMPRESSED, PacketType.LITERAL, PacketType.ENCRYPTED, PacketType.UNPROTECTED}
)

#: Public-key algorithms that are RSA (RFC 9580, 9.1): in general, and for signing alone.
RSA: Final = frozenset({1, 3})


def encode_packet(kind: PacketType, body: bytes) -> bytes:
    """A packet in the format of today, its length in as few bytes as that takes."""
    return bytes([0xC0 | kind]) + encode_length(len(body)) + body


def encode_length(length: int) -> bytes:
    """A length in bytes, as packets and subpackets have it (RFC 9580, 4.2.1 and 5.2.3.7)."""
    if length < 192:
        return bytes([length])
    if length < 8384:
        return (length - 192 + (192 << 8)).to_bytes(2, "big")
    return b"\xff" + length.to_bytes(4, "big")


def split_packet(data: Buffer) -> tuple[int, bytes, Buffer]:
    """Type and body of the first packet in `data`, and what follows it: of a view, another view.

    Raises `MalformedPacket`.
    """
    head, rest = _take(data, 1)
    if not head[0] & 0x80:
        raise MalformedPacket("it is not a binary OpenPGP message")
    if head[0] & 0x40:
        return _split_body(head[0] & 0x3F, rest)
    kind, length_type = head[0] >> 2 & 0x0F, head[0] & 0x03
    if length_type == 3:
        if kind not in _STREAMED:
            raise MalformedPacket(f"packet {kind} has no length")
        return kind, bytes(rest), b""
    length, rest = _take(rest, 1 << length_type)
    body, rest = _take(rest, int.from_bytes(length, "big"))
    return kind, bytes(body), rest


def _split_body(kind: int, data: Buffer) -> tuple[int, bytes, Buffer]:
    """As `split_packet`, behind a head in the format of today."""
    parts = []
    while True:
        (lead,), data = _take(data, 1)
        partial = 224 <= lead < 255
        if not partial:
            length, data = _length(lead, data)
        elif kind in _STREAMED:
            length = 1 << (lead & 0x1F)
        else:
            raise MalformedPacket(f"packet {kind} comes in parts")
        part, data = _take(data, length)
        parts.append(part)
        if not partial:
            return kind, b"".join(parts), data


def subpackets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type, without the bit for "critical", and content of each subpacket of a signature.

    Raises `MalformedPacket`.
    """
    for kind, content in raw_subpackets(data):
        yield kind & ~CRITICAL, content


def raw_subpackets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type, with the bit `CRITICAL` where it is set, and content of each subpacket.

    Such an area is u8 type, content, each behind its length (RFC 9580, 5.2.3.7). Raises
    `MalformedPacket`.
    """
    rest: Buffer = memoryview(data)
    while rest:
        (lead,), rest = _take(rest, 1)
        length, rest = _length(lead, rest)
        subpacket, rest = _take(rest, length)
        (kind,), content = _take(subpacket, 1)
        yield kind, bytes(content)


def _length(lead: int, data: Buffer) -> tuple[int, Buffer]:
    """A length that begins with the byte `lead`, and what follows it in `data`."""
    if lead < 192:
        return lead, data
    if lead < 255:
        (second,), data = _take(data, 1)
        return (lead - 192 << 8) + second + 192, data
    four, data = _take(data, 4)
    return int.from_bytes(four, "big"), data


def _take(data: Buffer, count: int) -> tuple[Buffer, Buffer]:
    if count > len(data):
        raise MalformedPacket("it is cut short")
    return data[:count], data[count:]


def signature_algorithm(signature: bytes) -> int:
    """The public-key algorithm of a signature of version 4 that is one packet.

    Its body is u8 version, u8 type, u8 algorithm, … (RFC 9580, 5.2.3). Raises `MalformedPacket`.
    """
    kind, body, rest = split_packet(signature)
    if kind != PacketType.SIGNATURE or rest or len(body) < 3 or body[0] != 4:
        raise MalformedPacket("it is not one signature packet of version 4")
    return body[2]
