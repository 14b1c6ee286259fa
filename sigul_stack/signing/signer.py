"""Keys that sign digests: the interface between signature formats and where a key is.

A format (`openpgp`, `rpm`, `ima`, `pe`, `x509`) makes a digest and puts the signature where it
belongs; a backend in `signers` makes the signature and knows no format. Nobody above asks which one
it is.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from cryptography.hazmat.primitives import hashes

from ..formats.keygrip import SigningKey


@runtime_checkable
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


@runtime_checkable
class OpenPGPSigner(Signer, Protocol):
    """A key that is open and has an OpenPGP certificate, whose signatures name it."""

    @property
    def certificate(self) -> bytes:
        """The certificate: public keys, user IDs and self-signatures, packets without armour."""
        ...

    @property
    def algorithm(self) -> int:
        """OpenPGP's number of the algorithm of the key or subkey that signs."""
        ...

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the key or subkey that signs, of version 4: 20 bytes."""
        ...
