"""Keys that sign digests: the interface between signature formats and where a key is.

A format (`ima`) makes a digest and puts the signature where it belongs; a backend makes the
signature and knows no format. A new backend, as a token, is a class with the methods of `Signer`.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from ..keystore.pem import PrivateKey, PublicKey


class Signer(Protocol):
    """An ECC or RSA key that is open."""

    @property
    def public_key(self) -> PublicKey:
        """The public key that checks the signatures."""
        ...

    def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        """The signature over a `digest` made with `algorithm`, of that algorithm's size.

        ECDSA in DER, or RSA with PKCS#1 v1.5. Raises `KeystoreError`. Safe to call from threads.
        """
        ...


class PemSigner:
    """Signs with a private key in memory."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> PublicKey:
        """The public key that checks the signatures."""
        return self._key.public_key()

    def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        """The signature over a `digest` made with `algorithm`."""
        prehashed = utils.Prehashed(algorithm)
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(digest, ec.ECDSA(prehashed))
        return self._key.sign(digest, padding.PKCS1v15(), prehashed)
