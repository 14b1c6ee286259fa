"""Keys that sign digests: the interface between signature formats and where a key is.

A format (`openpgp`, `rpm`, `ima`) makes a digest and puts the signature where it belongs; a backend
in `signers` makes the signature and knows no format. Nobody above asks which one it is.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives import hashes

from ..formats.keygrip import SigningKey


class Signer(Protocol):
    """A key that is open."""

    @property
    def public_key(self) -> SigningKey:
        """The public key that checks the signatures."""
        ...

    def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        """The signature over a `digest` made with `algorithm`, of that algorithm's size.

        RSA with PKCS#1 v1.5, as long as the modulus; ECDSA and DSA in DER; of Ed25519 R and S, 64
        bytes, over the digest as the message (as OpenPGP has it). Raises `KeystoreError`. Safe to
        call from threads.
        """
        ...
