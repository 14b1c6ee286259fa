"""File signatures of version 2 for the kernel's Integrity Measurement Architecture (IMA).

Layout, as in the extended attribute `security.ima` (the kernel's documentation, "IMA Template
Management Mechanism", and ima-evm-utils; big-endian):

    u8 3 (a digital signature), u8 2 (version), u8 hash algorithm, u8[4] key id,
    u16 length, signature

The signature is over the file's digest: ECDSA in DER, or RSA with PKCS#1 v1.5.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_HEAD: Final = struct.Struct(">BBB4sH")
_DIGITAL_SIGNATURE: Final = 3
_VERSION: Final = 2
#: The kernel's number of a hash algorithm (include/uapi/linux/hash_info.h), by hashlib's name.
#: SHA-1 and MD5 are left out on purpose.
HASH_NUMBERS: Final[Mapping[str, int]] = MappingProxyType(
    {"sha256": 4, "sha384": 5, "sha512": 6, "sha224": 7}
)


def key_id(public_key: bytes) -> bytes:
    """The four bytes that name a key: the last of the SHA-1 over `public_key`.

    That is the uncompressed point of an ECC key, the DER RSAPublicKey of an RSA key.
    """
    return hashlib.sha1(public_key, usedforsecurity=False).digest()[-4:]


def encode_file_signature(hash_name: str, key: bytes, signature: bytes) -> bytes:
    """The file signature around `signature`, over a `hash_name` digest by the key of id `key`."""
    number = HASH_NUMBERS[hash_name]
    return _HEAD.pack(_DIGITAL_SIGNATURE, _VERSION, number, key, len(signature)) + signature
