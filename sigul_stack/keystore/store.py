"""All keys of a server, of whatever type, and the chain of passphrases that unlocks them.

A key is in the GnuPG home or in the directory of PEM files, as its type says; the database names
it. The chain: a user's passphrase opens the user's envelope, what is in there is unbound, and
that is the key's own passphrase, random and long, which opens the key.

Every change here is whole or not at all. Keeping store and database in step is the caller's: make
the key, write the row, and delete the key again if that fails; `check_consistency` finds what a
kill in between left.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ..database import Key, KeyType
from ..errors import (
    KeystoreError,
    RequestRefused,
    Status,
    WrongPassphrase,
    quoted,
    shortened,
)
from ..formats import pkcs11_uri
from ..logevents import tell
from ..secret import Secret
from .bindings import CannotUnbind, Layer, Registry, bind, unbind
from .envelope import is_outdated, open_envelope, seal, try_unopenable, wrong_passphrase
from .gnupg import GnuPGHome, UserId
from .log_events import KeystoreLog
from .pem import PemStore
from .tokens import P11Kit, TokenKeys

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made or imported: its fingerprint, and its public key as text."""

    fingerprint: str
    public: bytes


@dataclass(frozen=True, slots=True)
class StoreMismatch:
    """A difference between database and store: what it is, and what to do about it.

    `name` is the key's name in the database, or None where there is no such row.
    """

    fingerprint: str
    name: str | None
    problem: str
    cure: str

    @property
    def text(self) -> str:
        """Problem and cure in one line."""
        return f"{self.problem}: {self.cure}"


class KeyPart(Protocol):
    """A place where keys are, by their fingerprints; `path` is where that is."""

    @property
    def path(self) -> Path:
        """The directory."""
        ...

    def public(self, fingerprint: str) -> bytes:
        """The public key, as `get-public-key` answers it. Raises `KeystoreError`."""
        ...

    def delete(self, fingerprint: str) -> None:
        """Delete the key. Raises `KeystoreError`."""
        ...

    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of all keys there. Raises `KeystoreError`."""
        ...

    def require_whole(self, fingerprint: str) -> None:
        """Raise `KeystoreError` unless the key's files hold what such files hold."""
        ...


class KeyStore:
    """The keys of a server. Raises `KeystoreError` wherever the store or a tool fails."""

    def __init__(self, gnupg: GnuPGHome, pem: PemStore, tokens: TokenKeys | None = None) -> None:
        self.gnupg = gnupg
        self.pem = pem
        #: The keys of the kind PKCS11, which are not in this store.
        self.tokens = tokens or P11Kit()
        #: Where the keys of each kind are. Those of any other are not in this store.
        self._parts: Mapping[str, KeyPart] = {
            KeyType.GNUPG: gnupg,
            KeyType.ECC: pem,
            KeyType.RSA: pem,
        }

    def holds(self, key: Key) -> bool:
        """Whether keys of this kind are in this store: not those on tokens, nor unknown ones."""
        return key.keytype in self._parts

    def prepare(self) -> None:
        """Make what is missing, check what is there; once, before others use it."""
        self.gnupg.prepare()
        self.pem.prepare()

    def make(
        self,
        keytype: KeyType,
        passphrase: Secret,
        user_id: UserId,
        expires: datetime.date | None = None,
    ) -> NewKey:
        """Make a key protected with `passphrase`.

        `user_id` and `expires` (None: never) are for gnupg keys. Raises `RequestRefused`
        (unsupported keytype).
        """
        if keytype is KeyType.GNUPG:
            fingerprint = self.gnupg.generate(passphrase, user_id, expires)
        else:
            fingerprint = self.pem.generate(keytype, passphrase)
        return self._new(keytype, fingerprint)

    def import_(
        self,
        keytype: KeyType,
        data: bytes,
        file_passphrase: Secret,
        passphrase: Secret,
        known: Container[str] | None = None,
    ) -> NewKey:
        """Import the secret key in the file `data` and protect it with `passphrase`.

        One that is in the store, and not among the `known` fingerprints (None: all), is nobody's:
        the same key
        from the file takes its place. That is how a `delete-key` of 1.2 may have left it. Raises
        `RequestRefused`: invalid import, import passphrase error, already exists,
        unsupported keytype.
        """
        if keytype is KeyType.GNUPG:
            fingerprint = self.gnupg.import_secret(data, file_passphrase, passphrase, known)
        else:
            fingerprint = self.pem.import_secret(keytype, data, file_passphrase, passphrase, known)
        return self._new(keytype, fingerprint)

    def _new(self, keytype: KeyType, fingerprint: str) -> NewKey:
        part = self._part(keytype)
        try:
            return NewKey(fingerprint, part.public(fingerprint))
        except BaseException:
            part.delete(fingerprint)
            raise

    def delete(self, fingerprint: str) -> None:
        """Delete a key of whatever type, with its certificates."""
        for part in (self.gnupg, self.pem):
            if part.has_any_of(fingerprint):
                part.delete(fingerprint)

    def public(self, key: Key, passphrase: Secret | None = None) -> bytes:
        """The public key: armoured OpenPGP, or PEM.

        `passphrase` is the key's own, where it is known: a token may show more to who has its PIN.
        Raises `RequestRefused` (unsupported keytype) where there is no way to it, `TokenError`.
        """
        if key.keytype == KeyType.PKCS11:
            return self.tokens.public(key.fingerprint, passphrase)
        return self._part(key.keytype).public(key.fingerprint)

    def expire(
        self,
        key: Key,
        passphrase: Secret,
        expires: datetime.date | None,
        subkey: int = 0,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        """Have a key, or its `subkey` (counted from 1), expire on that day; None means never.

        `permit` is called when nobody else changes the store, and raises where it is not to be.
        Raises `RequestRefused` (unsupported keytype), `WrongPassphrase`.
        """
        if key.keytype is not KeyType.GNUPG:
            raise RequestRefused(Status.UNSUPPORTED_KEYTYPE)
        self.gnupg.change_expiration(key.fingerprint, passphrase, expires, subkey, permit)

    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of all keys in the store."""
        return self.gnupg.fingerprints() | self.pem.fingerprints()

    def check_consistency(self, keys: Iterable[Key]) -> list[StoreMismatch]:
        """The differences between the store and the `keys` in the database."""
        rows = {key.fingerprint: key for key in keys}
        gnupg, pem = self.gnupg.fingerprints(), self.pem.fingerprints()
        missing = [
            StoreMismatch(
                key.fingerprint,
                key.name,
                f"key {key.name} ({key.keytype}, {key.fingerprint}) is in the database, but not in"
                f" {self._part(key.keytype).path}",
                "restore it from a backup, or delete-key",
            )
            for key in rows.values()
            if self.holds(key)
            and key.fingerprint not in (gnupg if key.keytype is KeyType.GNUPG else pem)
        ]
        unknown = [
            StoreMismatch(
                fingerprint,
                None,
                f"key {fingerprint} is in {path}, but not in the database",
                "restore the database from a backup; or import-key the same key, which takes it"
                " over (and delete-key, to have it gone)",
            )
            for path, there in ((self.gnupg.path, gnupg), (self.pem.path, pem))
            for fingerprint in sorted(there - rows.keys())
        ]
        return missing + unknown

    def odd_rows(self, keys: Iterable[Key]) -> list[StoreMismatch]:
        """The findings about `keys` that no operation can use, whatever is in the store."""
        return [
            StoreMismatch(key.fingerprint, key.name, problem, cure)
            for key in keys
            if not self.holds(key)
            for problem, cure in _oddities(key)
        ]

    def weak_keys(self, keys: Iterable[Key]) -> list[StoreMismatch]:
        """The findings about `keys` that are shorter than a new one must be: they sign on."""
        bits = self.gnupg.weak_keys() | self.pem.weak_keys()
        return [
            StoreMismatch(
                key.fingerprint,
                key.name,
                f"key {key.name} ({key.keytype}) has {bits[key.fingerprint]} bits, and new ones"
                " have to have more (min-key-bits)",
                "make a new key, and sign with it from now on",
            )
            for key in keys
            if key.fingerprint in bits
        ]

    def slow_keys(self, keys: Iterable[Key]) -> list[StoreMismatch]:
        """The findings about `keys` that take long to open, at each signature."""
        seconds = self.gnupg.opening_seconds()
        return [
            StoreMismatch(
                key.fingerprint,
                key.name,
                f"key {key.name} takes about {seconds[key.fingerprint] * 1000:.0f} ms to open at"
                " each signature (its file has a slow derivation, which a random passphrase of the"
                " server's does not need)",
                f"have somebody with access run sigul change-passphrase {key.name} once; where the"
                " key stays slow, the server's log says why (key-stays-slow)",
            )
            for key in keys
            if key.keytype is KeyType.GNUPG and key.fingerprint in seconds
        ]

    def hasten(self, key: Key, passphrase: Secret) -> None:
        """Have a key that takes long to open take little, with the same passphrase of its own.

        Where that cannot be, it stays as it is, and the log says why.
        """
        if key.keytype is not KeyType.GNUPG:
            return
        try:
            if self.gnupg.hasten(key.fingerprint, passphrase):
                tell(_log, KeystoreLog.KEY_HASTENED, fingerprint=key.fingerprint)
        except KeystoreError as error:
            tell(_log, KeystoreLog.KEY_STAYS_SLOW, fingerprint=key.fingerprint, why=str(error))

    def require_whole(self, key: Key) -> None:
        """Raise `KeystoreError` unless the key's files hold what such files hold.

        A key that is not in this store has none.
        """
        if self.holds(key):
            self._part(key.keytype).require_whole(key.fingerprint)

    def _part(self, keytype: str) -> KeyPart:
        part = self._parts.get(keytype)
        if part is None:
            raise RequestRefused(
                Status.UNSUPPORTED_KEYTYPE,
                f"this server does not hold {shortened(shown(keytype), 60)} keys",
            )
        return part


def shown(keytype: str) -> str:
    """The word of a kind as it may stand in a list or a message, whatever the database has."""
    return "".join(char if " " <= char <= "~" else "?" for char in keytype[:_SHOWN])


#: Most characters of a kind's word that are shown.
_SHOWN: Final = 64


def _oddities(key: Key) -> Iterator[tuple[str, str]]:
    """Each problem of a row whose key is not in this store, with its cure."""
    if key.keytype != KeyType.PKCS11:
        yield (
            f"key {quoted(key.name, 60)} is of type '{shown(key.keytype)}', which this version does"
            " not know: no operation uses it",
            "install the version that made it, or delete-key",
        )
        return
    try:
        pkcs11_uri.parse(key.fingerprint, as_typed=True)
    except pkcs11_uri.InvalidURI as error:
        yield (
            f"key {quoted(key.name, 60)} is of type PKCS11, and its fingerprint is no URI of a key"
            f" on a token ({error.problem}); import-key of Sigul 1.4 makes such rows",
            "delete-key, then sigul_server_add_pkcs11_token",
        )


# --- Passphrases -------------------------------------------------------------------------------


def new_access(
    key_passphrase: Secret, user_passphrase: Secret, layers: Sequence[Layer], registry: Registry
) -> bytes:
    """A user's `encrypted_passphrase`: the key's, bound with `layers`, opened by the user's.

    Raises `CannotBind`, and `KeystoreError` for an empty passphrase.
    """
    return seal(bind(key_passphrase, layers, registry), user_passphrase)


def open_access(access: bytes | None, user_passphrase: Secret, registry: Registry) -> Secret:
    """The key's passphrase, by a user's `encrypted_passphrase` (None: the user has no access).

    Raises `WrongPassphrase`, which says the same where there is no access, and `CannotUnbind`: each
    takes one time, whatever the access is like. Raises `KeystoreError` for a damaged access.
    """
    try:
        if access is None:
            raise wrong_passphrase()
        return unbind(open_envelope(access, user_passphrase), registry)
    except (WrongPassphrase, CannotUnbind):
        try_unopenable(user_passphrase, but=access)
        raise


def renewed_access(access: bytes, user_passphrase: Secret) -> bytes | None:
    """An `encrypted_passphrase` without integrity protection, written anew; None of another one.

    Raises `WrongPassphrase`.
    """
    if not is_outdated(access):
        return None
    return seal(open_envelope(access, user_passphrase), user_passphrase)
