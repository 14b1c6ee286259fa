"""GnuPG's key boxes, pubring.kbx: the public key with a fingerprint, found without gpg.

As the comments of GnuPG's kbx/keybox-blob.c have it; all numbers are big-endian, and offsets count
from the blob's start:

    file   = blob …, the first of which is a head: u32 length, u8 1, u8 1, u16 flags, "KBXf", …
    blob   = u32 length of all of it, u8 type, u8 version, u16 flags, u32 offset and u32 length of
             the key's packets, u16 number of keys, u16 size of what follows for each of them:
             its fingerprint (20 bytes; in version 2 32 bytes, with zeros behind a short one), …;
             user IDs, signatures, the packets, a checksum

Type 2 is an OpenPGP key, 3 an X.509 certificate, 0 a deleted one. The first key of a blob is the
primary one. GnuPG writes a box anew beside the old one and renames it, so that who has it open has
a whole one; an "ephemeral" blob is none of gpg's keys.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

from .openpgp_packets import Buffer, MalformedPacket

_HEAD: Final = struct.Struct(">IBBHIIHH")
_MAGIC: Final = b"KBXf"
_FIRST, _OPENPGP = 1, 2
_EPHEMERAL: Final = 2
#: The fewest bytes that a key takes in the table of a blob: fingerprint, offset, flags, reserved.
_MIN_KEY: Final = 28
_FINGERPRINT_BYTES: Final = 20


def find_key(data: Buffer | mmap.mmap, fingerprint: bytes) -> bytes | None:
    """The packets of the key whose primary key has `fingerprint`, 20 bytes; None if it has none.

    `data` is the box, which may be mapped. It is walked from blob to blob, 0.05 s for 100,000: a
    search for the bytes takes longer, and finds them in what a user ID says, too. Raises
    `MalformedPacket` where it is no box, or damaged before that key.
    """
    if len(fingerprint) != _FINGERPRINT_BYTES:
        raise ValueError("a fingerprint of version 4 has 20 bytes")
    with memoryview(data) as box:
        size = len(box)
        if size < 32 or box[4] != _FIRST or bytes(box[8:12]) != _MAGIC:
            raise MalformedPacket("it is no key box of GnuPG")
        unpack, head_size = _HEAD.unpack_from, _HEAD.size
        at = 0
        while at < size:
            if size - at < head_size:
                raise MalformedPacket(f"its blob at byte {at} is cut short")
            length, kind, _version, flags, offset, count, keys, key_size = unpack(box, at)
            if length < head_size or length > size - at:
                raise MalformedPacket(f"its blob at byte {at} has a wrong length ({length})")
            if (
                box[at + head_size : at + head_size + _FINGERPRINT_BYTES] == fingerprint
                and kind == _OPENPGP
                and not flags & _EPHEMERAL
            ):
                if (
                    keys < 1
                    or key_size < _MIN_KEY
                    or head_size + keys * key_size > length
                    or offset < head_size
                    or offset + count > length
                ):
                    raise MalformedPacket(f"its blob at byte {at} contradicts itself")
                return bytes(box[at + offset : at + offset + count])
            at += length
    return None
