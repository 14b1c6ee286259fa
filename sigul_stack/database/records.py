"""The database's records of users, keys and who may use which key.

Plain immutable values: nothing here knows of SQL, and changing one changes no database.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class KeyType(enum.StrEnum):
    """The kinds of keys, spelt as the database and the wire spell them."""

    GNUPG = "gnupg"
    ECC = "ECC"
    RSA = "RSA"


@dataclass(frozen=True, slots=True)
class User:
    """A user. `password_hash` is a crypt(3) string as bytes; None means no password opens it."""

    name: str
    password_hash: bytes | None = field(repr=False)
    admin: bool


@dataclass(frozen=True, slots=True)
class Key:
    """A key. `fingerprint` names it in the key store (docs/protocol.md says how it is made)."""

    name: str
    keytype: KeyType
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """One user's access to one key.

    `encrypted_passphrase` is the key's passphrase, locked with that user's own: an OpenPGP
    message in binary form.
    """

    user: str
    key: Key
    encrypted_passphrase: bytes = field(repr=False)
    key_admin: bool
