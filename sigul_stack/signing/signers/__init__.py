"""Backends: one module for each place where keys are, one row for each kind of key.

A new one is a class with the methods of `signer.Signer`, and those of `signer.OpenPGPSigner` where
its keys have OpenPGP certificates; a function that opens a key; and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from ...database import Key, KeyType
from ...errors import RequestRefused, Status
from ...keystore.store import KeyStore
from ...secret import Secret
from ..signer import OpenPGPSigner, Signer
from .gnupg_agent import open_gnupg
from .pem import open_pem

#: Opens the key with a fingerprint by its own passphrase. Raises `KeystoreError`,
#: `WrongPassphrase`.
Opener = Callable[[KeyStore, str, Secret], Signer]

BACKENDS: Final[Mapping[str, Opener]] = MappingProxyType(
    {
        KeyType.GNUPG: open_gnupg,
        KeyType.ECC: open_pem,
        KeyType.RSA: open_pem,
    }
)


def open_signer(store: KeyStore, key: Key, passphrase: Secret) -> Signer:
    """The key, opened by its own passphrase.

    Raises `RequestRefused` (unsupported keytype) for a kind of which no signer is here,
    `KeystoreError`, `WrongPassphrase`.
    """
    opener = BACKENDS.get(key.keytype)
    if opener is None:
        raise RequestRefused(Status.UNSUPPORTED_KEYTYPE)
    return opener(store, key.fingerprint, passphrase)


def open_openpgp_signer(store: KeyStore, key: Key, passphrase: Secret) -> OpenPGPSigner:
    """The part of a key that makes its OpenPGP signatures now, as `open_signer`.

    Raises `RequestRefused` (unsupported keytype) for a key that has no OpenPGP certificate, too.
    """
    signer = open_signer(store, key, passphrase)
    if not isinstance(signer, OpenPGPSigner):
        raise RequestRefused(Status.UNSUPPORTED_KEYTYPE)
    return signer
