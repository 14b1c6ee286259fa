"""The public keys in GnuPG's keybox, `pubring.kbx`.

A keybox is blobs one behind the other (GnuPG's kbx/keybox-blob.c describes them), big-endian:

    blob = u32 length, u8 type (2: an OpenPGP key), u8 version, u16 flags, u32 where the key is in
           the blob, u32 its length, u16 number of keys, u16 bytes of each entry, entries, …
    entry = fingerprint (20 bytes, more behind it in version 2), …

gpg writes a keybox anew beside the old one and renames it, or marks a blob as deleted (type 0): so
whoever opens the file once sees one state of it.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

_HEAD: Final = struct.Struct(">IBBHIIHH")
_OPENPGP: Final = 2
_VERSIONS: Final = (1, 2)
#: The largest blob that GnuPG itself takes, in bytes.
_MAX_BLOB: Final = 20 << 20


def find_key(box: bytes | mmap.mmap, fingerprint: bytes) -> bytes | None:
    """The packets of the key whose primary key has that fingerprint; None where there is none.

    It is searched for, not walked to: a box of 100,000 keys takes milliseconds.
    """
    at = box.find(fingerprint)
    while at >= 0:
        if (key := _key_of_blob(box, at - _HEAD.size)) is not None:
            return key
        at = box.find(fingerprint, at + 1)
    return None


def _key_of_blob(box: bytes | mmap.mmap, start: int) -> bytes | None:
    """The key in the blob at `start`, where there is one."""
    if start < 0 or start + _HEAD.size > len(box):
        return None
    length, kind, version, _flags, offset, size, keys, _entry = _HEAD.unpack(
        box[start : start + _HEAD.size]
    )
    if (
        kind != _OPENPGP
        or version not in _VERSIONS
        or not keys
        or not _HEAD.size < offset < offset + size <= length <= _MAX_BLOB
        or start + length > len(box)
    ):
        return None
    return bytes(box[start + offset : start + offset + size])
