"""The database's records of users, keys and who may use which key.

Plain immutable values: nothing here knows of SQL, and changing one changes no database.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

_WILDCARDS: Final = frozenset("*?[")


class KeyType(enum.StrEnum):
    """The kinds of keys that this version knows, spelt as the database and the wire spell them."""

    GNUPG = "gnupg"
    ECC = "ECC"
    RSA = "RSA"
    #: On a PKCS#11 token, as 1.3 has it: the fingerprint is the private key's `pkcs11:` URI.
    PKCS11 = "PKCS11"


@dataclass(frozen=True, slots=True)
class User:
    """A user. `password_hash` is a crypt(3) string as bytes; None means no password opens it."""

    name: str
    password_hash: bytes | None = field(repr=False)
    admin: bool


@dataclass(frozen=True, slots=True)
class Key:
    """A key. `fingerprint` names it in the key store (docs/protocol.md says how it is made).

    `keytype` is a `KeyType`; of a kind that this version does not know it is the database's word.
    """

    name: str
    keytype: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class AccessLimits:
    """The limits of an access: operations by name, and names of RPM packages.

    None is no limit. `rpm_names` are shell patterns; one of them has to match the name in the
    package's own header.
    """

    operations: frozenset[str] | None = None
    rpm_names: tuple[str, ...] | None = None

    def __bool__(self) -> bool:
        return self.operations is not None or self.rpm_names is not None

    def allows_rpm(self, name: str | None) -> bool:
        """Whether a package whose header has that name may be signed; None is one without."""
        if self.rpm_names is None:
            return True
        return name is not None and any(fnmatchcase(name, item) for item in self.rpm_names)

    def within(self, other: AccessLimits) -> bool:
        """Whether nothing is allowed by these limits that is not by `other`.

        A pattern is within another where it is the same, or a plain name that this one matches.
        """
        if other.operations is not None and (
            self.operations is None or not self.operations <= other.operations
        ):
            return False
        if other.rpm_names is None:
            return True
        return self.rpm_names is not None and all(
            item in other.rpm_names or (not _WILDCARDS & set(item) and other.allows_rpm(item))
            for item in self.rpm_names
        )


#: The limits of an access without any, which is good for all that its key is.
UNLIMITED: Final = AccessLimits()


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
    limits: AccessLimits = UNLIMITED
