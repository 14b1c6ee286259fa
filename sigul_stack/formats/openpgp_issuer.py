"""The maker of an OpenPGP signature, as it says itself (RFC 9580, 5.2.3).

Body of a signature packet of version 4: u8 4, u8 type, u8 algorithm, u8 hash algorithm, u16 length
of the hashed subpackets, those; u16 length of the others, those; …
Subpacket: its length as a packet's of today, which counts the type; u8 type (the highest bit marks
critical ones); data. Type 16 is the issuer's key ID, 33 a version and the issuer's fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .openpgp_packets import MalformedPacket, PacketType, split_packet

_KEY_ID_BYTES: Final = 8
_ISSUER_KEY_ID, _ISSUER_FINGERPRINT = 16, 33


def issuer_key_id(signature: bytes) -> bytes | None:
    """The key ID of the key (or subkey) that `signature`, one packet of version 4, says made it.

    None where it is anything else, or does not say: nothing here is proven.
    """
    try:
        kind, body, rest = split_packet(signature)
        if kind != PacketType.SIGNATURE or rest or body[:1] != b"\4":
            return None
        hashed, behind = _counted(body[4:])
        unhashed, _ = _counted(behind)
        for subpacket, data in (*_subpackets(hashed), *_subpackets(unhashed)):
            if subpacket == _ISSUER_FINGERPRINT and data[:1] == b"\4":
                return data[-_KEY_ID_BYTES:]
            if subpacket == _ISSUER_KEY_ID:
                return data
    except MalformedPacket:
        pass
    return None


def _counted(data: bytes) -> tuple[bytes, bytes]:
    end = 2 + int.from_bytes(data[:2], "big")
    if len(data) < max(2, end):
        raise MalformedPacket("it is cut short")
    return data[2:end], data[end:]


def _subpackets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and data of each subpacket."""
    while data:
        lead, start = data[0], 1
        if lead == 255:
            length, start = int.from_bytes(data[1:5], "big"), 5
        elif lead >= 192:
            length, start = (lead - 192 << 8) + int.from_bytes(data[1:2], "big") + 192, 2
        else:
            length = lead
        if not length or start + length > len(data):
            raise MalformedPacket("a subpacket is damaged")
        yield data[start] & 0x7F, data[start + 1 : start + length]
        data = data[start + length :]
