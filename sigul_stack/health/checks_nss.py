"""A component's NSS database: there, opened by its password, with the right certificate and key.

All but the private key is looked at through certutil, before NSS is opened in this process: the
key is tried last, the way that the component itself opens it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..config.files import Files
from ..config.shared import NSSSettings
from ..errors import NSSError, SigulError, WrongNSSPassword
from ..pki.certificates import CertificateInfo
from ..pki.database import NSSDatabase
from ..pki.inspection import Severity, Topic, inspect_database
from ..pki.leaf import Role
from ..secret import Secret
from ..transport import nss
from .checks_configuration import look_at_ends
from .layers import Layer, Step, Unlooked, failed, from_text, ok, warning
from .report import Check, State

#: More than any sensible lifetime of a leaf's certificate, and of a CA's, in days.
LONG_LEAF_DAYS: Final = 10 * 366
LONG_AUTHORITY_DAYS: Final = 30 * 366

#: What a password file gets too much of.
_STRAY: Final = b"\r\n\0 \t"

_LAYERS: Final = {
    Topic.KEY: Layer.KEY,
    Topic.FILES: Layer.SECRETS,
    Topic.NOTHING_ELSE: Layer.SECRETS,
}
_STATES: Final = {
    Severity.OK: State.OK,
    Severity.WARNING: State.WARNING,
    Severity.ERROR: State.FAILED,
}


@dataclasses.dataclass
class NSSLook:
    """The layers of one NSS database. `names` are what the component is called.

    `ask` gives the password where the configuration has none; None: nobody can be asked.
    """

    role: Role
    settings: NSSSettings
    nickname: str
    files: Files
    names: tuple[str, ...] = ()
    ask: Callable[[], Secret] | None = None
    #: What the database holds, once it was opened.
    held: list[CertificateInfo] = dataclasses.field(default_factory=list)
    #: The component's certificate and key, once NSS has them in this process.
    identity: nss.Identity | None = None
    _found: dict[Layer, list[Check]] = dataclasses.field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where the database lies."""
        return NSSDatabase(self.settings.directory).directory

    @property
    def leaf(self) -> CertificateInfo | None:
        """The component's certificate, the newest of that nickname."""
        own = [item for item in self.held if item.nickname == self.nickname]
        return max(own, key=lambda item: item.not_after) if own else None

    def steps(self) -> tuple[Step, ...]:
        """The layers of the database, in order."""
        return (
            Step(Layer.DATABASE, self.database, (Layer.CONFIGURATION,)),
            Step(Layer.PASSWORD, self.password, (Layer.DATABASE,)),
            Step(Layer.CERTIFICATE, self.certificate, (Layer.PASSWORD,)),
            Step(Layer.KEY, self.key, (Layer.CERTIFICATE,)),
        )

    def database(self) -> Iterator[Check]:
        """There, of a format that NSS opens, readable. Read-only and of another owner is fine."""
        database = NSSDatabase(self.settings.directory)
        database.require()
        if self.settings.directory.startswith("dbm:"):
            yield failed(
                Layer.DATABASE,
                f"nss-dir asks for the old format (dbm:), and '{self.directory}' holds the new one",
                f"write nss-dir: {self.directory}",
            )
            return
        for name in ("cert9.db", "key4.db"):
            path = self.directory / name
            if not os.access(path, os.R_OK):
                yield failed(
                    Layer.DATABASE,
                    f"this user (UID {os.geteuid()}) may not read '{path}'",
                    f"give '{self.directory}' to the user that the component runs as, or run this"
                    " as that user",
                )
                return
        kept = "" if os.access(self.directory, os.W_OK) else ", read-only, which is enough"
        yield ok(Layer.DATABASE, f"'{self.directory}' holds one{kept}")
        if (self.directory / "cert8.db").exists():
            yield warning(
                Layer.DATABASE,
                f"the old cert8.db and key3.db still lie beside it in '{self.directory}', with the"
                " old private keys",
                "remove cert8.db, key3.db and secmod.db once everything works",
            )

    def password(self) -> Iterator[Check]:
        """It opens the database, and its file holds nothing else."""
        given = self.settings.password
        if given is None:
            given = self._asked()
            self.settings = dataclasses.replace(self.settings, password=given)
        place, path = self._place()
        value = given.reveal()
        if any(byte in value for byte in b"\r\n\0"):
            opens = self._opened_without_strays(value)
            yield failed(
                Layer.PASSWORD,
                f"{place} has a line end or NUL byte too many"
                + ("; without it, it opens this database" if opens else ""),
                f"write the password into '{path}' and nothing else: printf %s, not echo",
            )
            return
        try:
            self.held = NSSDatabase(self.settings.directory, given).certificates()
        except WrongNSSPassword:
            yield self._wrong(value, place, path)
            return
        yield ok(Layer.PASSWORD, f"{place} opens the database" if value else "there is none")
        entry = self.files.get("nss", "nss-password-file")
        if path is not None and entry is not None:
            yield from look_at_ends(entry)

    def _asked(self) -> Secret:
        with contextlib.suppress(WrongNSSPassword):
            NSSDatabase(self.settings.directory, Secret("")).check_password()
            return Secret("")
        if self.ask is not None:
            with contextlib.suppress(SigulError):
                return self.ask()
        raise Unlooked(
            "the configuration does not hold the NSS password, and nobody can be asked for it here;"
            " set nss-password-file in [nss], or run this on a terminal"
        )

    def _place(self) -> tuple[str, Path | None]:
        """How messages call the password, and its file if it has one."""
        named = self.files.get("nss", "nss-password-file")
        plain = self.files.get("nss", "nss-password")
        if named is not None and (plain is None or named.path != plain.path):
            path = Path(named.text).expanduser()
            return f"the password in '{path}'", path
        return ("the password in [nss] nss-password" if plain else "the password typed"), None

    def _opened_without_strays(self, value: bytes) -> bool:
        cleaned = value.strip(_STRAY)
        if cleaned == value:
            return False
        try:
            NSSDatabase(self.settings.directory, Secret(cleaned)).check_password()
        except NSSError:
            return False
        return True

    def _wrong(self, value: bytes, place: str, path: Path | None) -> Check:
        written = f", written {_written(path)}" if path is not None else ""
        finding = (
            f"this password does not open this database (made {_written(self._oldest())}{written}):"
            f" {place}, '{self.directory}'"
        )
        if self._opened_without_strays(value):
            return failed(
                Layer.PASSWORD,
                f"{finding}; without the blanks around it, it does",
                "write the password and nothing else: printf %s, not echo",
            )
        return failed(
            Layer.PASSWORD,
            finding,
            "give the password that the database was made with, which a later deployment may have"
            " written over; if it is lost, move the directory away and issue the certificate anew"
            " (sigul-stack pki issue)",
        )

    def _oldest(self) -> Path:
        """The file of the database that has stayed unchanged for longest."""
        names = ("pkcs11.txt", "key4.db", "cert9.db")
        there = [path for name in names if (path := self.directory / name).exists()]
        return min(there, key=lambda path: path.stat().st_mtime)

    def certificate(self) -> Iterator[Check]:
        """There, in date, with the right names and uses, and its CA beside it."""
        self._found = self._inspect()
        yield from self._found.get(Layer.CERTIFICATE, [])
        yield from self._lifetimes()

    def _inspect(self) -> dict[Layer, list[Check]]:
        database = NSSDatabase(self.settings.directory, self.settings.password)
        found: dict[Layer, list[Check]] = {}
        for finding in inspect_database(
            database, self.role, nickname=self.nickname, names=self.names
        ):
            if finding.topic is Topic.PASSWORD:
                continue
            layer = _LAYERS.get(finding.topic, Layer.CERTIFICATE)
            check = from_text(layer, _STATES[finding.severity], finding.message)
            if check.state is State.OK:
                check = dataclasses.replace(check, finding=finding.message, cure="")
            if finding.topic is Topic.DATES and (leaf := self.leaf) is not None:
                check = dataclasses.replace(check, values={"days_left": leaf.days_left()})
            found.setdefault(layer, []).append(check)
        return found

    def _lifetimes(self) -> Iterator[Check]:
        for item in self.held:
            days = (item.not_after - item.not_before).days
            longest = LONG_AUTHORITY_DAYS if item.is_authority else LONG_LEAF_DAYS
            if days > longest:
                yield warning(
                    Layer.CERTIFICATE,
                    f"'{item.nickname}' is valid for {days // 365} years: whoever gets its key can"
                    " use it as long",
                    "have it issued for two years or so, and renewed (sigul-stack pki renew)",
                )

    def key(self) -> Iterator[Check]:
        """There, and NSS in this process opens it as the component does."""
        found = self._found.get(Layer.KEY, [])
        yield from found
        if any(check.state is State.FAILED for check in found):
            return
        nss.open_database(self.settings)
        self.identity = nss.load_identity(self.nickname)

    def secrets(self) -> Iterable[Check]:
        """What of the database lies open, or does not belong into it."""
        return self._found.get(Layer.SECRETS, [])


def _written(path: Path) -> str:
    try:
        when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return "at an unknown time"
    return f"{when:%Y-%m-%d %H:%M} UTC"
