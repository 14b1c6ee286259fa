"""Checks of a component's NSS database: it is there, its password opens it, certificate and key.

For doctor, all but the private key is looked at through certutil, before NSS is opened in this
process: the key comes last, the way that the component itself opens it. For health that is all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..checks import Check, State, any_failed, failed, ok, warning
from ..config.shared import NSS_FILES, NSSSettings
from ..errors import NSSError, SigulError, WrongNSSPassword
from ..pki.certificate_info import CertificateInfo, current_time, from_der, newest
from ..pki.derivation import read_derivation
from ..pki.inspection import Topic, date_check, inspect_database
from ..pki.leaf import Role
from ..pki.nss_directory import NSSDatabase
from ..secret import Secret
from ..transport import nss
from .configuration_checks import password_file_checks
from .steps import DOCTOR, HEALTH, CheckContext, Layer, Skipped, Step

#: More than any sensible lifetime of a leaf's certificate, and of a CA's, in days.
LONG_LEAF_DAYS: Final = 10 * 366
LONG_AUTHORITY_DAYS: Final = 30 * 366

_DAY_SECONDS: Final = 86400.0

#: What a password file gets too much of.
_STRAY: Final = b"\r\n\0 \t"

#: Where a check of `pki.inspection` belongs; those not named here to the certificate.
_LAYERS: Final = {
    Topic.KEY: Layer.KEY,
    Topic.FILES: Layer.SECRETS,
    Topic.NOTHING_ELSE: Layer.SECRETS,
}

_NOT_OPENED_CURE: Final = (
    "give the password that the database was made with, which a later deployment may have written"
    " over; if it is lost, move the directory away and issue the certificate anew (sigul-stack pki"
    " issue)"
)


class NSSChecks:
    """Checks of one component's NSS database, and what of it other checks need.

    `leaf` is the component's certificate, from the layer `password` on (doctor) or `NSS database`
    on (health); `identity` the same with its key, once NSS is open in this process.
    """

    leaf: CertificateInfo
    identity: nss.TLSIdentity

    def __init__(self, context: CheckContext[Any], role: Role, nickname: str) -> None:
        self.context = context
        #: With the password, once it was asked for.
        self.settings: NSSSettings = context.settings.nss
        self._role = role
        self._nickname = nickname
        self._held: list[CertificateInfo] = []
        self._inspected: defaultdict[Layer, list[Check]] = defaultdict(list)

    def steps(self) -> tuple[Step, ...]:
        """The layers of the database, in order."""
        return (
            Step(Layer.DATABASE, self.files, (Layer.CONFIGURATION,), DOCTOR),
            Step(Layer.PASSWORD, self.password, (Layer.DATABASE,), DOCTOR),
            Step(Layer.CERTIFICATE, self.certificate, (Layer.PASSWORD,), DOCTOR),
            Step(Layer.KEY, self.key, (Layer.CERTIFICATE,), DOCTOR),
            Step(Layer.DATABASE, self.opening, (), HEALTH),
            Step(Layer.CERTIFICATE, self.dates, (Layer.DATABASE,), HEALTH),
        )

    def _database(self) -> NSSDatabase:
        return NSSDatabase(self.settings.directory, self.settings.password)

    # ----------------------------------------------------------------------------------- doctor

    def files(self) -> Iterator[Check]:
        """Check that it is there, of a format that NSS opens, and readable.

        That it is read-only or another user's is fine.
        """
        self._database().require()
        directory = self.settings.path
        if self.settings.directory.startswith("dbm:"):
            yield failed(
                Layer.DATABASE,
                f"nss-dir asks for the old format (dbm:), and '{directory}' holds the new one",
                f"write nss-dir: {directory}",
            )
            return
        for path in (directory / "cert9.db", directory / "key4.db"):
            if not os.access(path, os.R_OK):
                yield failed(
                    Layer.DATABASE,
                    f"this user (UID {os.geteuid()}) may not read '{path}'",
                    f"give '{directory}' to the user that the component runs as, or run this as"
                    " that user",
                )
                return
        kept = "" if os.access(directory, os.W_OK) else ", read-only, which is enough"
        yield ok(Layer.DATABASE, f"'{directory}' holds one{kept}")
        yield from self._derivation(State.WARNING)
        if (directory / "cert8.db").exists():
            yield warning(
                Layer.DATABASE,
                f"the old cert8.db and key3.db still lie beside it in '{directory}', with the old"
                " private keys",
                "remove cert8.db, key3.db and secmod.db once everything works",
            )

    def password(self) -> Iterator[Check]:
        """Check that it opens the database, and that its file holds nothing else."""
        given = self.settings.password
        secret = self._asked() if given is None else given
        self.settings = dataclasses.replace(self.settings, password=secret)
        place, path = self._place()
        value = secret.reveal()
        if any(byte in value for byte in b"\r\n\0"):
            yield failed(
                Layer.PASSWORD,
                f"{place} has a line end or NUL byte too many"
                + ("; without it, it opens this database" if self._opens(value) else ""),
                f"write the password into '{path}' and nothing else: printf %s, not echo",
            )
            return
        try:
            self._held = self._database().certificates()
        except WrongNSSPassword:
            yield self._wrong_password(value, place, path)
            return
        if (leaf := newest(self._held, self._nickname)) is not None:
            self.leaf = leaf
        yield ok(Layer.PASSWORD, f"{place} opens the database" if value else "there is none")
        if path is not None:
            yield from password_file_checks(path)

    def _asked(self) -> Secret:
        with contextlib.suppress(WrongNSSPassword):
            NSSDatabase(self.settings.directory, Secret("")).check_password()
            return Secret("")
        if self.context.options.ask_nss_password is not None:
            with contextlib.suppress(SigulError):
                return self.context.options.ask_nss_password()
        raise Skipped(
            "the configuration does not hold the NSS password, and nobody can be asked for it here",
            "set nss-password-file in [nss], or run this on a terminal",
        )

    def _opens(self, value: bytes) -> bool:
        """Tell whether the password opens the database without what does not belong to it."""
        password = Secret(value.strip(_STRAY))
        try:
            NSSDatabase(self.settings.directory, password).check_password()
        except NSSError:
            return False
        return True

    def _place(self) -> tuple[str, Path | None]:
        """The name of the password in messages, and its file if it has one."""
        files = self.context.loaded.files
        named = files.get("nss", "nss-password-file")
        plain = files.get("nss", "nss-password")
        if named is not None and (plain is None or named.path != plain.path):
            path = Path(named.text).expanduser()
            return f"the password in '{path}'", path
        return ("the password in [nss] nss-password" if plain else "the password typed"), None

    def _wrong_password(self, value: bytes, place: str, path: Path | None) -> Check:
        written = f", written {_written(path)}" if path is not None else ""
        # The file of the database that has stayed unchanged for longest.
        there = [self.settings.path / name for name in NSS_FILES]
        oldest = min(filter(Path.exists, there), key=lambda file: file.stat().st_mtime)
        finding = (
            f"this password does not open this database (made {_written(oldest)}{written}):"
            f" {place}, '{self.settings.path}'"
        )
        if value.strip(_STRAY) != value and self._opens(value):
            return failed(
                Layer.PASSWORD,
                f"{finding}; without the blanks around it, it does",
                "write the password and nothing else: printf %s, not echo",
            )
        return failed(Layer.PASSWORD, finding, _NOT_OPENED_CURE)

    def certificate(self) -> Iterator[Check]:
        """Check that it is there, in date, with the right names and uses, and its CA beside it."""
        for check in inspect_database(
            self._database(),
            self._role,
            nickname=self._nickname,
            names=self.context.options.names,
            warn_days=self.context.limits.warn_days,
        ):
            if check.layer != Topic.PASSWORD:
                layer = _LAYERS.get(Topic(check.layer), Layer.CERTIFICATE)
                self._inspected[layer].append(dataclasses.replace(check, layer=layer))
        yield from self._inspected[Layer.CERTIFICATE]
        for item in self._held:
            days = (item.not_after - item.not_before).days
            if days > (LONG_AUTHORITY_DAYS if item.is_authority else LONG_LEAF_DAYS):
                yield warning(
                    Layer.CERTIFICATE,
                    f"'{item.nickname}' is valid for {days // 365} years: whoever gets its key can"
                    " use it as long",
                    "have it issued for two years or so, and renewed (sigul-stack pki renew)",
                )

    def key(self) -> Iterator[Check]:
        """Check that it is there, and that NSS in this process opens it as the component does."""
        found = self._inspected[Layer.KEY]
        yield from found
        if not any_failed(found):
            self._open()

    def secrets(self) -> list[Check]:
        """The checks of what of the database lies open, or does not belong into it."""
        return self._inspected[Layer.SECRETS]

    # ----------------------------------------------------------------------------------- health

    def opening(self) -> Iterator[Check]:
        """Check that NSS in this process opens the database, with certificate and key.

        That it is slow is no fault, for whoever restarts what is not healthy.
        """
        try:
            self._open()
        except WrongNSSPassword:
            yield failed(
                Layer.DATABASE,
                f"this password does not open the NSS database '{self.settings.path}'"
                f" (of {_written(self.settings.path / 'key4.db')})",
                _NOT_OPENED_CURE,
            )
        else:
            yield ok(Layer.DATABASE, f"'{self._nickname}' and its key are there, and can be opened")
            yield from self._derivation(State.OK)

    def dates(self) -> Iterator[Check]:
        """Check that the certificate and its CAs are valid for a while."""
        limits, now = self.context.limits, current_time()
        days: dict[str, float] = {}
        for index, der in enumerate(self.identity.chain):
            item, cure = self.leaf, "renew it: sigul-stack pki renew"
            if index:
                issuer = from_der(der)
                item = dataclasses.replace(issuer, nickname=issuer.common_name)
                cure = "renew the CA: sigul-stack pki renew-ca"
            left = (item.not_after - now).total_seconds() / _DAY_SECONDS
            which = "ca" if index else "own"
            days[which] = min(left, days.get(which, left))
            check = date_check(item, now, cure, limits.of_days)
            check = dataclasses.replace(check, layer=Layer.CERTIFICATE)
            # One in the report is enough where it is the CA that has most time left.
            if index == 0 or check.state is not State.OK:
                yield check
        for which, left in days.items():
            self.context.measure(
                "sigul_certificate_days_left",
                left,
                component=self.context.component,
                certificate=which,
            )

    def _derivation(self, state: State) -> Iterator[Check]:
        """Tell, in `state`, that private keys take long to use, if they do; needs no password."""
        try:
            derivation = read_derivation(self.settings.path)
        except NSSError:
            # What is damaged, NSS says itself.
            return
        if derivation.is_slow:
            cost = derivation.milliseconds_a_use()
            yield Check(
                Layer.DATABASE,
                state,
                f"'{self.settings.path}' has {derivation.most_rounds} rounds of key derivation:"
                f" each use of its private key, of which a request needs several, takes {cost:.0f}"
                " ms of CPU time here",
                f"where its password is random: sigul-stack pki tune {self.settings.path}",
                {"rounds": derivation.most_rounds, "key_use_ms": round(cost, 1)},
            )

    def _open(self) -> None:
        nss.open_database(self.settings)
        self.identity = nss.load_identity(self._nickname)
        self.leaf = from_der(self.identity.chain[0], self._nickname)


def _written(path: Path) -> str:
    try:
        when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return "at an unknown time"
    return f"{when:%Y-%m-%d %H:%M} UTC"
