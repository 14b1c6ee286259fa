"""The public keys of a GnuPG home, read without gpg where they are in a keybox.

That is the file in which every GnuPG since 2.1 keeps them. Of an older home, and of a key that is
not found, gpg is asked (`export`): so nothing is believed to be missing that gpg would have found.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Final

from ...errors import KeystoreError
from ...formats.keybox import find_key
from ...formats.openpgp_packets import MalformedPacket
from .program import GnuPG

KEYBOX_NAME: Final = "pubring.kbx"


class NoPublicKey(KeystoreError):
    """A home does not have a key, as far as gpg can tell."""


def public_key(home: GnuPG, fingerprint: str) -> bytes:
    """The packets of the key `fingerprint`, without armour.

    Raises `NoPublicKey`, `OSError`.
    """
    # An empty file cannot be mapped; and gpg makes it before the first key. Of a damaged one it
    # may read more than is read here.
    with (
        contextlib.suppress(FileNotFoundError, ValueError, MalformedPacket),
        (home.path / KEYBOX_NAME).open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as box,
    ):
        key = find_key(box, bytes.fromhex(fingerprint))
        if key is not None:
            return key
    try:
        return home.export(fingerprint, armor=False)
    except KeystoreError as error:
        raise NoPublicKey(error.problem, error.cure) from None


def has_secret(home: GnuPG, keygrip: bytes) -> bool:
    """Whether the agent has a secret for `keygrip`, or knows the smart card that does."""
    return (home.path / "private-keys-v1.d" / f"{keygrip.hex().upper()}.key").exists()
