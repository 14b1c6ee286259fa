"""Bundles: a client's NSS database and configuration in one file, encrypted with a passphrase.

    OpenPGP message, encrypted symmetrically and integrity protected; armoured, base64 or binary
      └─ one literal: a tar archive, with xz, gzip, bzip2 or nothing around it
           .sigul/cert9.db, key4.db, pkcs11.txt     the NSS database
           .sigul/client.conf                       the configuration with its password, if at all

The format is that of the secrets which CI jobs carry for a signing client. Who has a bundle may be
anybody: it is read whole before anything of it is written, and all of it has limits.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..secret import Secret
from .archive import make_tar, read_tar
from .contents import Bundle, BundleError, Members, check_configuration
from .decompression import decompressed
from .encryption import decrypt, encrypt, first_line

__all__ = [
    "Bundle",
    "BundleError",
    "check_configuration",
    "pack",
    "unpack",
]


def pack(members: Mapping[str, bytes], passphrase: Secret) -> bytes:
    """A bundle of these files by path, as armoured text that `unpack` takes.

    Of the passphrase the first line counts. Raises `BundleError`, `KeystoreError`, `ToolMissing`.
    """
    archive, compressed = make_tar(members)
    Bundle.of(read_tar(archive))
    return encrypt(compressed, first_line(passphrase))


def unpack(text: bytes, passphrase: Secret) -> Bundle:
    """The content of a bundle. Of the passphrase the first line counts.

    Raises `BundleError`, which tells what of it is not as it has to be; `KeystoreError`,
    `ToolMissing`.
    """
    held: Members = read_tar(decompressed(decrypt(text, first_line(passphrase))))
    return Bundle.of(held)
