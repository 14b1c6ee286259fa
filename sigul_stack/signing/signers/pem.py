"""Keys in memory, which `cryptography` works with: those of the directory of PEM files."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from ...keystore.pem import PrivateKey, PublicKey
from ...keystore.store import KeyStore
from ...secret import Secret


class PemSigner:
    """Signs with a private key in memory."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> PublicKey:
        """The public key that checks the signatures."""
        return self._key.public_key()

    def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        """See `Signer.sign_digest`."""
        prehashed = utils.Prehashed(algorithm)
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(digest, ec.ECDSA(prehashed))
        return self._key.sign(digest, padding.PKCS1v15(), prehashed)


def open_pem(store: KeyStore, fingerprint: str, passphrase: Secret) -> PemSigner:
    """The key of the PEM files, opened. Raises `KeystoreError`, `WrongPassphrase`."""
    return PemSigner(store.pem.load(fingerprint, passphrase))
