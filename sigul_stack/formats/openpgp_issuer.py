"""The maker of an OpenPGP signature, as it says itself (RFC 9580, 5.2.3), and what it is over.

Body of a signature packet of version 4: u8 4, u8 type, u8 algorithm, u8 hash algorithm, u16 length
of the hashed subpackets, those; u16 length of the others, those; the first 16 bits of the digest; …
Subpacket: its length as a packet's of today, which counts the type; u8 type (the highest bit marks
critical ones); data. Type 16 is the issuer's key ID, 33 a version and the issuer's fingerprint.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import Final

from .openpgp_packets import MalformedPacket, PacketType, split_packet, subpackets

_KEY_ID_BYTES: Final = 8
_ISSUER_KEY_ID, _ISSUER_FINGERPRINT = 16, 33

#: Names of digests in hashlib, by their OpenPGP numbers (RFC 9580, 9.5): those that it has always.
_DIGESTS: Final = MappingProxyType(
    {
        2: "sha1",
        8: "sha256",
        9: "sha384",
        10: "sha512",
        11: "sha224",
        12: "sha3_256",
        14: "sha3_512",
    }
)
_OVER_BINARY: Final = 0x00  # the type of a signature over bytes as they are


def is_of_other_data(signature: bytes, data: bytes | memoryview) -> bool:
    """True where `signature`, one packet of version 4, says itself that it is not over `data`.

    No key is needed for that: the packet has the first 16 bits of what was digested. False where it
    does not say, and for one in 65,536 that is over other data.
    """
    try:
        kind, body, _ = split_packet(signature)
        if kind != PacketType.SIGNATURE or body[:2] != bytes((4, _OVER_BINARY)):
            return False
        hashed, behind = _counted(body[4:])
        _, start = _counted(behind)
    except MalformedPacket:
        return False
    name = _DIGESTS.get(body[3])
    if name is None or len(start) < 2:
        return False
    head = body[: 6 + len(hashed)]
    digest = hashlib.new(name, data, usedforsecurity=False)
    digest.update(head + b"\4\xff" + len(head).to_bytes(4, "big"))
    return digest.digest()[:2] != start[:2]


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
        for subpacket, data in (*subpackets(hashed), *subpackets(unhashed)):
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
