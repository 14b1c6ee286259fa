"""IMA file signatures, version 2: what a kernel checks a file against before it is used.

    u8 3 (a digital signature), u8 2 (version), u8 hash algorithm, u8[4] key id,
    u16 length, signature

The key id is the last four bytes of SHA-1 over the public key: the uncompressed point of an ECC
key, the DER RSAPublicKey of an RSA key. The signature is over the file's digest: ECDSA in DER, or
RSA with PKCS#1 v1.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..errors import RequestRefused, Status
from ..keystore.pem import PrivateKey

_DIGITAL_SIGNATURE: Final = 3
_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class _Algorithm:
    number: int
    hash: hashes.HashAlgorithm


#: By their OpenPGP numbers, which RPM uses. SHA-1 and MD5 are left out on purpose.
_ALGORITHMS: Final[Mapping[int, _Algorithm]] = MappingProxyType(
    {
        8: _Algorithm(4, hashes.SHA256()),
        9: _Algorithm(5, hashes.SHA384()),
        10: _Algorithm(6, hashes.SHA512()),
        11: _Algorithm(7, hashes.SHA224()),
    }
)


class FileSigner:
    """Signs files' digests with an ECC or RSA key that is open already."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self._key_id = _key_id(key)

    def sign(self, algorithm: int, digest: bytes) -> bytes:
        """The IMA signature of a file with that `digest`; `algorithm` is its OpenPGP number.

        Raises `RequestRefused` where the algorithm is none that IMA signatures are made for.
        """
        known = _ALGORITHMS.get(algorithm)
        if known is None:
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                "the RPM names its files by MD5, SHA-1 or an unknown digest, which file signatures"
                " are not made of; build it with SHA-256",
            )
        if len(digest) != known.hash.digest_size:
            raise RequestRefused(Status.CORRUPT_RPM, "a file's digest has the wrong length")
        prehashed = utils.Prehashed(known.hash)
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            signature = self._key.sign(digest, ec.ECDSA(prehashed))
        else:
            signature = self._key.sign(digest, padding.PKCS1v15(), prehashed)
        head = bytes((_DIGITAL_SIGNATURE, _VERSION, known.number))
        return head + self._key_id + len(signature).to_bytes(2, "big") + signature


def _key_id(key: PrivateKey) -> bytes:
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        data = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    else:
        data = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return hashlib.sha1(data, usedforsecurity=False).digest()[-4:]
