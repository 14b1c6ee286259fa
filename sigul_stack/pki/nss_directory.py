"""An NSS database directory: recognised, made, read, and changed without ever being half changed.

docs/storage.md, "NSS databases", says what its files hold; `key4.db` also holds what protects the
trust records in `cert9.db`. `cert8.db` and `key3.db` are the old format (`dbm:`).

Invariant: a change is made to a copy in a hidden directory beside the files and then renamed into
place, keys before certificates, so that at any instant each certificate in `cert9.db` has its key
in `key4.db`, and a process that has opened the database keeps what it opened. One change at a time
is let in (a lock on the directory). Root does all of it with the rights of whoever can change the
directory. Must not decide what belongs in a database; `contents` does.
"""

from __future__ import annotations

import contextlib
import enum
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from ..config.identity import rights_of_owner
from ..errors import NSSError
from ..secret import Secret
from ..system.files import locked, sync
from .certificate_info import CertificateInfo, issued, key_id, newest
from .contents import put_authority, put_leaf
from .key_cost import KeyCost, key_cost, looks_random
from .leaf import Leaf
from .nss_store import ITERATIONS_FOR_RANDOM_PASSWORD, NSSStore, PrivateKey
from .password_files import Permissions, make_directory

#: In the order in which a change puts them in place; the last makes a database of the rest.
_FILES: Final = ("pkcs11.txt", "key4.db", "cert9.db")
_STAGE_PREFIX: Final = ".sigul-pki-"
_LOCK_TIMEOUT_SECONDS: Final = 60.0
#: Behind the name of a file that is kept as it was before `tune`.
_KEPT_SUFFIX: Final = ".before-tune"


class DatabaseKind(enum.Enum):
    """The content of a directory that should hold an NSS database."""

    SQL = "sql"
    #: Only the old `cert8.db`/`key3.db`, which current NSS does not open.
    DBM = "dbm"
    #: Some of the files of an `sql:` database, but not all.
    INCOMPLETE = "incomplete"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Tuning:
    """The cost of a database's keys before and after, and the file with the keys as they were.

    None: nothing was to be done.
    """

    before: KeyCost
    after: KeyCost
    kept: Path | None


class NSSDatabase:
    """The NSS database in `directory`, which may be written with NSS's `sql:` or `dbm:` before it.

    `password` opens it; without one, certificates can be listed and nothing else. Methods raise
    `NSSError` (`WrongNSSPassword` where it is that), and `ToolMissing` without certutil.
    """

    def __init__(self, directory: Path | str, password: Secret | None = None) -> None:
        text = str(directory)
        self.directory = Path(text.removeprefix("sql:").removeprefix("dbm:"))
        self.password = password

    def recognise(self) -> DatabaseKind:
        """The kind of database, told from the files' names; opens nothing."""
        names = {name for name in (*_FILES, "cert8.db", "key3.db") if self._has(name)}
        if {"cert9.db", "key4.db"} <= names:
            return DatabaseKind.SQL
        if "cert9.db" in names or "key4.db" in names:
            return DatabaseKind.INCOMPLETE
        if {"cert8.db", "key3.db"} & names:
            return DatabaseKind.DBM
        return DatabaseKind.MISSING

    def require(self) -> None:
        """Raise `NSSError`, saying what to do, where there is no database that NSS opens."""
        kind = self.recognise()
        if kind is DatabaseKind.SQL:
            return
        where = f"'{self.directory}'"
        if kind is DatabaseKind.DBM:
            raise NSSError(
                f"{where} holds an NSS database of the old format (cert8.db, key3.db), which"
                " current NSS does not open",
                "convert it with: sigul-stack pki convert"
                f" {self.directory}   or, on a machine whose NSS still reads the old format:"
                " certutil -N -d sql:NEW-DIRECTORY, and then certutil --upgrade-merge"
                f" --source-dir {self.directory} --upgrade-id sigul -d sql:NEW-DIRECTORY",
            )
        if kind is DatabaseKind.INCOMPLETE:
            raise NSSError(
                f"{where} does not contain a valid NSS database: of cert9.db and key4.db one is"
                " missing",
                "restore it from a backup, or remove the other and make the database anew",
            )
        raise NSSError(
            f"{where} does not contain a valid NSS database",
            "make one with: sigul-stack pki issue"
            f" --into {self.directory}   or: certutil -N -d sql:{self.directory}",
        )

    # ------------------------------------------------------------------------------- reading

    def check_password(self) -> None:
        """Open the database with the password. Raises `WrongNSSPassword`."""
        self._store().key_ids()

    def certificates(self) -> list[CertificateInfo]:
        """The certificates in the database, in NSS's order.

        With a password, private keys are looked for; without one, NSS's own flag is believed.
        """
        store = self._store()
        keys = store.key_ids() if self.password is not None else None
        return [
            CertificateInfo(
                entry.nickname,
                entry.trust,
                "u" in entry.trust if keys is None else key_id(entry.certificate) in keys,
                entry.certificate,
            )
            for entry in store.entries()
        ]

    def find(self, nickname: str) -> CertificateInfo:
        """The certificate with this nickname, the newest of several. Raises `NSSError`."""
        every = self.certificates()
        found = newest(every, nickname)
        if found is None:
            held = ", ".join(sorted({item.nickname for item in every}))
            raise NSSError(
                f"'{self.directory}' has no certificate with the nickname '{nickname}'"
                f" (it has: {held or 'none'})"
            )
        return found

    def other_key_ids(self) -> list[str]:
        """The ids of private keys that have no certificate in here."""
        store = self._store()
        known = {key_id(entry.certificate) for entry in store.entries()}
        return [identity for identity in store.key_ids() if identity not in known]

    def export_key(self, nickname: str) -> PrivateKey:
        """The private key of the certificate `nickname`."""
        return self._store().export_key(nickname)

    # ------------------------------------------------------------------------------ changing

    def add_authority(self, certificate: x509.Certificate) -> None:
        """Add and trust a CA's certificate; see `put_authority`."""
        with self.changing() as store:
            put_authority(store, certificate)

    def replace_leaf(
        self, leaf: Leaf, nickname: str, authorities: Iterable[x509.Certificate] = ()
    ) -> None:
        """Put a leaf in the place of the one there, if any; see `put_leaf`."""
        with self.changing() as store:
            outdated = put_leaf(store, leaf, nickname, authorities=authorities, replace=True)
        self.delete_keys(outdated)

    def delete_keys(self, ids: tuple[str, ...]) -> None:
        """Delete private keys by id. After a change of the certificates, never in the same one."""
        if ids:
            with self.changing() as store:
                store.delete_keys(ids)

    def remove_others(self, nickname: str) -> int:
        """Remove all certificates with this nickname but the one in use; how many.

        Their private keys go with them. Raises `NSSError`.
        """
        kept = self.find(nickname)
        others = [
            item
            for item in self.certificates()
            if item.nickname == nickname and item.certificate != kept.certificate
        ]
        if not others:
            raise NSSError(f"'{self.directory}' has one certificate with the nickname '{nickname}'")
        with self.changing() as store:
            store.delete_certificates(nickname)
            store.add_certificate(kept.certificate, nickname, kept.trust.replace("u", ""))
            identities = {key_id(item.certificate) for item in others}
            outdated = (identities & set(store.key_ids())) - {key_id(kept.certificate)}
        self.delete_keys(tuple(sorted(outdated)))
        return len(others)

    def remove(self, nickname: str) -> None:
        """Remove a certificate, and its private key with it."""
        found = self.find(nickname)
        dependants = [
            item.nickname
            for item in self.certificates()
            if item.nickname != nickname and issued(found.certificate, item.certificate)
        ]
        if dependants:
            raise NSSError(
                f"'{nickname}' in '{self.directory}' issued {', '.join(dependants)}, which would no"
                " longer be accepted",
                "remove or renew those first",
            )
        with self.changing() as store:
            keys = store.key_ids()
            store.delete_certificates(nickname)
        self.delete_keys((identity,) if (identity := key_id(found.certificate)) in keys else ())

    def convert(self, permissions: Permissions | None = None) -> None:
        """Make an `sql:` database of an old `dbm:` one in the same directory, which stays."""
        if self.recognise() is not DatabaseKind.DBM:
            raise NSSError(
                f"'{self.directory}' does not hold a database of the old format (cert8.db, key3.db)"
                " alone",
                "there is nothing to convert",
            )
        with self.making(permissions or Permissions().over(self.directory / "cert8.db")) as store:
            store.merge_old_format(self.directory)
            if not store.entries():
                raise NSSError(
                    f"nothing came out of '{self.directory}': this machine's NSS no longer reads"
                    " the old format",
                    "run the same command where it does (Debian 12, RHEL 8)",
                )

    def tune(self) -> Tuning:
        """Have private keys protected with as few rounds as a random password needs.

        The password stays. The files as they were are kept beside, as `NAME.before-tune`, and the
        new ones take their place whole. Programs that have the database open keep the old one.
        Raises `NSSError` where the password is not random enough for that, `WrongNSSPassword`.
        """
        self.require()
        self.check_password()
        before = key_cost(self.directory)
        if before.rounds <= ITERATIONS_FOR_RANDOM_PASSWORD:
            return Tuning(before, before, None)
        if not looks_random(self.password):
            raise NSSError(
                f"the password of the NSS database in '{self.directory}' may be one that can be"
                " guessed, and its rounds of key derivation are what slows that down: they stay",
                "give the database a random password first (openssl rand -hex 32 into a file;"
                " certutil -W -d sql:DIRECTORY -f OLD -@ NEW), put that where the configuration"
                " names it, and tune it then",
            )
        with self.changing() as store:
            store.protect_anew()
            after = key_cost(store.directory)
            kept = self.directory / f"key4.db{_KEPT_SUFFIX}"
            _copy(self.directory / "key4.db", store.directory / kept.name)
            self._put(store.directory / kept.name, Permissions().over(self.directory / "key4.db"))
        return Tuning(before, after, kept)

    @contextlib.contextmanager
    def changing(self, permissions: Permissions | None = None) -> Iterator[NSSStore]:
        """A copy to change, which takes the database's place where the block ends well."""
        self.require()
        with rights_of_owner(self.directory), self._locked(), self._stage() as stage:
            for name in _FILES:
                if self._has(name):
                    _copy(self.directory / name, stage / name)
            yield NSSStore(stage, self.password, shown=self.directory)
            _keep_protection(self.directory / "key4.db", stage / "key4.db")
            wanted = permissions or Permissions()
            for name in _FILES:
                kept = wanted.over(self.directory / name) if self._has(name) else wanted
                self._put(stage / name, kept)

    @contextlib.contextmanager
    def making(self, permissions: Permissions | None = None) -> Iterator[NSSStore]:
        """An empty database to fill, which takes its place where the block ends well."""
        if not self.password:
            raise NSSError(
                f"no NSS database is made in '{self.directory}' without a password: give one"
            )
        wanted = permissions or Permissions()
        make_directory(self.directory, wanted)
        with rights_of_owner(self.directory), self._locked():
            kind = self.recognise()
            if kind is DatabaseKind.SQL:
                raise NSSError(f"'{self.directory}' holds an NSS database already", "it is kept")
            if kind is DatabaseKind.INCOMPLETE:
                self.require()
            with self._stage() as stage:
                store = NSSStore(stage, self.password, shown=self.directory)
                store.initialise()
                yield store
                for name in _FILES:
                    self._put(stage / name, wanted)

    def filling(
        self, permissions: Permissions | None = None
    ) -> contextlib.AbstractContextManager[NSSStore]:
        """`changing` where there is a database, `making` where there is none."""
        if self.recognise() is DatabaseKind.MISSING:
            return self.making(permissions)
        return self.changing(permissions)

    # ------------------------------------------------------------------------------- helpers

    def _has(self, name: str) -> bool:
        try:
            (self.directory / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            # Not allowed to look is not the same as not there.
            raise NSSError(
                f"'{self.directory}' cannot be read: {error.strerror}",
                "run this as its owner, or give it to this user",
            ) from error
        return True

    def _store(self) -> NSSStore:
        self.require()
        return NSSStore(self.directory, self.password)

    def _put(self, staged: Path, permissions: Permissions) -> None:
        """Rename a staged file into place, if it differs from what is there."""
        target = self.directory / staged.name
        if target.exists() and target.read_bytes() == staged.read_bytes():
            permissions.apply(target, permissions.file_mode)
            return
        permissions.apply(staged, permissions.file_mode)
        sync(staged)
        staged.replace(target)
        sync(self.directory)

    @contextlib.contextmanager
    def _stage(self) -> Iterator[Path]:
        """A directory for the copy, inside the database's own: on the same file system."""
        for left in self.directory.glob(f"{_STAGE_PREFIX}*"):
            # Of a run that was cut off; nobody else is at work while the lock is ours.
            shutil.rmtree(left, ignore_errors=True)
        try:
            stage = Path(tempfile.mkdtemp(prefix=_STAGE_PREFIX, dir=self.directory))
        except OSError as error:
            raise NSSError(
                f"the NSS database in '{self.directory}' cannot be changed: {error.strerror}",
                "run this as the owner of that directory, where it is writable",
            ) from error
        try:
            yield stage
        except (OSError, sqlite3.Error) as error:
            raise NSSError(
                f"the NSS database in '{self.directory}' could not be changed ({error})",
                "make room and try again",
            ) from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The directory for us alone, among programs that ask; waits for a bounded time.

        What fails inside is an `NSSError` already.
        """
        busy = NSSError(
            f"another sigul-stack pki has been changing '{self.directory}' for"
            f" {_LOCK_TIMEOUT_SECONDS:g} s",
            "try again when it is done",
        )
        try:
            with locked(self.directory, _LOCK_TIMEOUT_SECONDS, busy):
                yield
        except OSError as error:
            raise NSSError(f"'{self.directory}' cannot be read: {error.strerror}") from error


def _copy(source: Path, target: Path) -> None:
    """Copy one file of a database; those of SQLite as they are between two transactions."""
    if source.suffix != ".db":
        shutil.copy2(source, target)
        return
    with (
        contextlib.closing(sqlite3.connect(source)) as original,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)


def _keep_protection(old: Path, new: Path) -> None:
    """Let the new `key4.db` protect the trust records of the old `cert9.db` as well.

    NSS forgets a trust record's protection (in `metaData`) when the certificate is deleted. Until
    `cert9.db` is replaced too, and for good where that is never reached, no CA would be trusted.
    """
    with contextlib.closing(sqlite3.connect(new)) as database:
        database.execute("ATTACH DATABASE ? AS old", (str(old),))
        with database:
            database.execute(
                "INSERT INTO metaData SELECT * FROM old.metaData"
                " WHERE id LIKE 'sig_cert_%' AND id NOT IN (SELECT id FROM metaData)"
            )
