"""Rolling a CA over to a new one while the site works: begin, issue, finish.

    begin    the next CA is made beside the current one; every component trusts both
    issue    the next CA issues from now on; each leaf gets a certificate of it, in any order
    finish   no component trusts the old CA any more, and its private key is deleted

Between two steps the databases go to their components, and the programs reopen them. After each
step a site works whatever components have got it already: leaves of either CA are taken from
`begin`'s end to `finish`'s begin.

Invariant: no component's leaf is of a CA that another known component does not trust. Known are
the databases that `begin`, or an issue since then, was given; `rollover.json` beside the CA names
them. How far it has come is told by nicknames in the CA's database (see `authority`), which change
whole or not at all; each step does what is missing, so that one that was cut off is repeated.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from ..config.identity import rights_of_owner
from ..errors import NSSError
from ..secret import Secret
from .authority import (
    AUTHORITY_LIFETIME,
    BACKDATED,
    NEXT_SUFFIX,
    OLD_SUFFIX,
    Authority,
    new_authority,
)
from .certificate_info import CertificateInfo, common_name, issued, key_id
from .contents import put_authority
from .leaf import LEAF_LIFETIME
from .nss_directory import DatabaseKind, NSSDatabase
from .nss_store import TRUSTED_AUTHORITY
from .password_files import Permissions, write_file
from .renewal import renew_leaf

#: The components' databases that take part, in a file beside the CA's database.
REGISTER: Final = "rollover.json"

#: Gives the password of the database in a directory.
Passwords = Callable[[Path], Secret]


class Phase(enum.Enum):
    """The phases of a CA's rollover."""

    NONE = "none"
    #: Both CAs are to be trusted; the current one issues.
    BEGUN = "begun"
    #: Both CAs are to be trusted; the new one issues.
    ISSUING = "issuing"


class RolloverAction(enum.Enum):
    """The change made to a database."""

    TRUSTS = "trusts"
    ISSUED = "issued"
    RETIRED = "retired"
    #: Nothing: it has been done before.
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class RolloverChange:
    """One database, and what was done about it."""

    directory: Path
    action: RolloverAction


@dataclass(frozen=True, slots=True)
class RolloverProgress:
    """The progress of a component's database."""

    directory: Path
    #: Whether it trusts the CA that issues after the rollover.
    trusts_new: bool
    #: Whether it trusts the CA that issued before the rollover.
    trusts_old: bool
    #: Whether all of its leaves are of the new CA.
    issued_by_new: bool


class Rollover:
    """The rollover of the CA in a directory. `passwords` opens the databases of components.

    Raises `NSSError`, saying what to do, where a step is out of order.
    """

    def __init__(self, authority: Authority, passwords: Passwords) -> None:
        self.authority = authority
        self._passwords = passwords

    @property
    def phase(self) -> Phase:
        """The phase that it has reached."""
        if not self.authority.others:
            return Phase.NONE
        is_next = self.authority.others[0].nickname.endswith(NEXT_SUFFIX)
        return Phase.BEGUN if is_next else Phase.ISSUING

    @property
    def old(self) -> x509.Certificate | None:
        """The CA that goes; None where there is none."""
        if self.phase is Phase.BEGUN:
            return self.authority.certificate
        return self.authority.others[0].certificate if self.authority.others else None

    @property
    def new(self) -> x509.Certificate:
        """The CA that stays."""
        if self.phase is Phase.BEGUN:
            return self.authority.others[0].certificate
        return self.authority.certificate

    def directories(self, further: Iterable[Path] = ()) -> list[Path]:
        """The databases that take part, and `further` ones, each once."""
        return list(dict.fromkeys((*_registered(self.authority), *map(_place, further))))

    def progress(self) -> list[RolloverProgress]:
        """The progress of each database that takes part and is there."""
        found = []
        for database in self._there(self.directories()):
            held = database.certificates()
            found.append(
                RolloverProgress(
                    database.directory,
                    trusts_new=_trusts(held, self.new),
                    trusts_old=self.old is not None and _trusts(held, self.old),
                    issued_by_new=all(issued(self.new, item.certificate) for item in _leaves(held)),
                )
            )
        return found

    # ------------------------------------------------------------------------------ the steps

    def begin(
        self,
        directories: Iterable[Path],
        *,
        name: str | None = None,
        lifetime: timedelta = AUTHORITY_LIFETIME,
        now: datetime | None = None,
    ) -> list[RolloverChange]:
        """Make the next CA where there is none, and have both trusted everywhere."""
        given = [_place(path) for path in directories]
        for path in given:
            NSSDatabase(path).require()
        every = self.directories(given)
        present = self._there(every)
        for database in present:
            self._check_leaves(database)
        if self.phase is Phase.NONE:
            self._make_next(name, lifetime, now)
        self.authority.write_pem()
        register(self.authority, every)
        return [RolloverChange(item.directory, self._trust_both(item)) for item in present]

    def issue(
        self,
        directories: Iterable[Path] = (),
        *,
        new_key: bool = False,
        now: datetime | None = None,
    ) -> list[RolloverChange]:
        """Give every leaf in `directories` (none: in all) a certificate of the new CA.

        Subject, names, usages and lifetime stay, and so does the key without `new_key`.
        """
        if self.phase is Phase.NONE:
            raise NSSError(
                f"no rollover of the CA in '{self.authority.database.directory}' is under way",
                f"first: {self._command('begin')}, naming all components' databases",
            )
        wanted = [_place(path) for path in directories]
        lacking = [item.directory for item in self.progress() if not item.trusts_new]
        strangers = [path for path in wanted if path not in self.directories()]
        if lacking or strangers:
            raise NSSError(
                "not every component trusts the new CA yet, and whoever does not would refuse its"
                " certificates",
                f"first: {self._command('begin', (*lacking, *strangers))}, and"
                " bring the databases to their components",
            )
        if self.phase is Phase.BEGUN:
            self._let_next_issue()
        self.authority.write_pem()
        return [
            RolloverChange(item.directory, self._reissue(item, new_key, now))
            for item in self._there(wanted or self.directories())
        ]

    def finish(self, directories: Iterable[Path] = ()) -> list[RolloverChange]:
        """Have the old CA trusted nowhere, and delete it with its private key."""
        if self.phase is Phase.BEGUN:
            raise NSSError(
                "no certificate has been issued by the new CA yet",
                f"first: {self._command('issue')}, and bring the databases to their components",
            )
        old = self.old
        done = []
        if old is not None:
            databases = self._there(self.directories(directories))
            behind = [item.directory for item in databases if self._needs(old, item)]
            if behind:
                raise NSSError(
                    f"the old CA '{common_name(old.subject)}' is still needed in"
                    f" {', '.join(map(str, behind))}",
                    f"first: {self._command('issue', behind)}, and"
                    " bring the databases to their components",
                )
            done = [RolloverChange(item.directory, _retire(item, old)) for item in databases]
            self._delete_old()
        self.authority.write_pem()
        directory = self.authority.database.directory
        with rights_of_owner(directory):
            (directory / REGISTER).unlink(missing_ok=True)
        return done

    # ---------------------------------------------------------------------------- the CA itself

    def _make_next(self, name: str | None, lifetime: timedelta, now: datetime | None) -> None:
        key, certificate = new_authority(name, lifetime, now=now)
        if certificate.subject == self.authority.certificate.subject:
            raise NSSError(
                f"the next CA cannot have the name of the current one,"
                f" '{common_name(certificate.subject)}': NSS tells CAs apart by it",
                "choose another with --name, or leave that out",
            )
        nickname = self.authority.nickname + NEXT_SUFFIX
        with self.authority.database.changing() as store:
            # The trust first: pk12util leaves it as it is.
            put_authority(store, certificate, nickname)
            store.add_key(key, certificate, nickname)
        self._reopen()

    def _let_next_issue(self) -> None:
        own = self.authority.nickname
        with self.authority.database.changing() as store:
            held = {name: store.certificates(name) for name in (own, own + NEXT_SUFFIX)}
            for name in held:
                store.delete_certificates(name)
            for name, after in ((own, own + OLD_SUFFIX), (own + NEXT_SUFFIX, own)):
                for certificate in held[name]:
                    store.add_certificate(certificate, after, TRUSTED_AUTHORITY)
        self._reopen()

    def _delete_old(self) -> None:
        other = self.authority.others[0]
        with self.authority.database.changing() as store:
            store.delete_certificates(other.nickname)
        self.authority.database.delete_keys((key_id(other.certificate),))
        self._reopen()

    def _reopen(self) -> None:
        database = self.authority.database
        if database.password is None:
            raise NSSError(f"the password of '{database.directory}' is not known", "give it")
        self.authority = Authority.open(
            *(database.directory, database.password), nickname=self.authority.nickname
        )

    # ------------------------------------------------------------------------------- components

    def _there(self, directories: Iterable[Path]) -> list[NSSDatabase]:
        every = [NSSDatabase(path) for path in directories]
        found = [item for item in every if item.recognise() is not DatabaseKind.MISSING]
        for database in found:
            database.password = self._passwords(database.directory)
            database.require()
        return found

    def _check_leaves(self, database: NSSDatabase) -> None:
        for item in _leaves(database.certificates()):
            if not any(issued(own, item.certificate) for own in self.authority.trusted):
                raise NSSError(
                    f"'{item.nickname}' in '{database.directory}' was issued by another CA"
                    f" ({item.issuer}), which is not rolled over here",
                    "leave that database out, or"
                    " have its certificate issued by this CA first (sigul-stack pki renew)",
                )

    def _trust_both(self, database: NSSDatabase) -> RolloverAction:
        held = database.certificates()
        if all(_trusts(held, item) for item in self.authority.trusted):
            return RolloverAction.KEPT
        with database.changing() as store:
            for certificate in self.authority.trusted:
                put_authority(store, certificate)
        return RolloverAction.TRUSTS

    def _reissue(
        self, database: NSSDatabase, new_key: bool, now: datetime | None
    ) -> RolloverAction:
        step = RolloverAction.KEPT
        for item in _leaves(database.certificates()):
            if issued(self.new, item.certificate):
                continue
            renew_leaf(
                *(self.authority, database, item.nickname),
                lifetime=self._lifetime(item.certificate),
                new_key=new_key,
                now=now,
            )
            step = RolloverAction.ISSUED
        return step

    def _lifetime(self, leaf: x509.Certificate) -> timedelta:
        """The leaf's lifetime, or the usual one where the old CA's end had cut it short."""
        old = self.old
        if old is not None and leaf.not_valid_after_utc == old.not_valid_after_utc:
            return LEAF_LIFETIME
        return leaf.not_valid_after_utc - leaf.not_valid_before_utc - BACKDATED

    def _needs(self, old: x509.Certificate, database: NSSDatabase) -> bool:
        held = database.certificates()
        from_old = any(issued(old, item.certificate) for item in _leaves(held))
        return from_old or not _trusts(held, self.new)

    # --------------------------------------------------------------------------------- messages

    def _command(self, step: str, directories: Sequence[Path] = ()) -> str:
        words = ["sigul-stack pki rollover", step, "--ca", str(self.authority.database.directory)]
        into = ["--into", *map(str, directories)] if directories else []
        return " ".join((*words, *into))


def register(authority: Authority, directories: Iterable[Path]) -> None:
    """Have these databases take part in the CA's rollover, where one is under way."""
    if not authority.others:
        return
    every = dict.fromkeys((*_registered(authority), *map(_place, directories)))
    # Relative, so that the control directory may be moved or reached by another path.
    base = authority.database.directory.resolve()
    content = json.dumps({"databases": [os.path.relpath(path, base) for path in every]}, indent=2)
    path = base / REGISTER
    if not path.exists() or path.read_text() != content:
        write_file(path, content.encode(), Permissions())


def _registered(authority: Authority) -> list[Path]:
    base = authority.database.directory.resolve()
    path = base / REGISTER
    try:
        return [
            Path(os.path.normpath(base / str(item)))
            for item in json.loads(path.read_text())["databases"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NSSError(
            f"'{path}' cannot be read ({type(error).__name__})",
            "remove it, and repeat sigul-stack pki rollover begin with all components' databases",
        ) from error


def _place(directory: Path) -> Path:
    return NSSDatabase(directory).directory.resolve()


def _leaves(held: Iterable[CertificateInfo]) -> list[CertificateInfo]:
    return [item for item in held if item.has_private_key and not item.is_authority]


def _trusts(held: Iterable[CertificateInfo], certificate: x509.Certificate) -> bool:
    wanted = set(TRUSTED_AUTHORITY)
    return any(item.certificate == certificate and wanted <= set(item.trust) for item in held)


def _retire(database: NSSDatabase, old: x509.Certificate) -> RolloverAction:
    names = {
        item.nickname
        for item in database.certificates()
        if item.is_authority and item.certificate.subject == old.subject
    }
    for nickname in names:
        database.remove(nickname)
    return RolloverAction.RETIRED if names else RolloverAction.KEPT
