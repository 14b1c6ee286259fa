"""Inspection of an NSS database: is it what its component needs? Changes nothing.

`pki check`, `doctor` and `health` show these checks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ..checks import Check, State, Value, failed, ok, warning
from ..config.identity import rights_of_owner
from ..errors import NSSError, WrongNSSPassword
from .certificate_info import CertificateInfo, covers, current_time, extension, issued, newest
from .leaf import Role
from .nss_directory import NSSDatabase
from .password_files import PASSWORD_FILE_NAME

WARN_DAYS: Final = 30

_OfDays = Callable[[int], State]


class Topic(enum.StrEnum):
    """The subject of a check (its `layer`), in the order in which they are looked at."""

    DATABASE = "database"
    PASSWORD = "password"  # noqa: S105 - a topic
    FILES = "files"
    CERTIFICATE = "certificate"
    KEY = "key"
    DATES = "dates"
    NAMES = "names"
    USAGE = "usage"
    AUTHORITY = "authority"
    NOTHING_ELSE = "nothing-else"


def inspect_database(
    database: NSSDatabase,
    role: Role,
    *,
    nickname: str | None = None,
    names: Iterable[str] = (),
    warn_days: int = WARN_DAYS,
    now: datetime | None = None,
) -> list[Check]:
    """Look at all that a component of `role` needs in its database, and that nothing else is there.

    `names` are what the component is called: host names that have to be in the certificate, for a
    client the one user name. Raises nothing about the database: that it cannot be opened is a
    failed check, the last one then.
    """
    try:
        held = database.certificates()
        strays = database.other_key_ids()
    except WrongNSSPassword as error:
        return [failed(Topic.PASSWORD, error.problem, error.cure)]
    except NSSError as error:
        return [failed(Topic.DATABASE, error.problem, error.cure)]
    checks = [ok(Topic.PASSWORD, "the password opens the database"), _files(database)]
    wanted = nickname or role.nickname
    leaf = newest(held, wanted)
    if leaf is not None:
        now = now or current_time()

        def of_days(days: int) -> State:
            return State.WARNING if days < warn_days else State.OK

        checks += [
            ok(Topic.CERTIFICATE, f"'{wanted}' is there"),
            *_others(held, leaf),
            _key(leaf),
            date_check(leaf, now, "renew it with sigul-stack pki renew", of_days),
            names_check(leaf, role, tuple(names)),
            usage_check(leaf, role),
            *_authority(leaf, held, role, of_days, now),
        ]
    else:
        there = ", ".join(item.nickname for item in held) or "none"
        checks.append(
            failed(
                Topic.CERTIFICATE,
                f"there is no certificate with the nickname '{wanted}' (there are: {there})",
                "issue it with sigul-stack pki issue, or name the right one",
            )
        )
    return [*checks, *_nothing_else(held, strays, wanted)]


def _others(held: list[CertificateInfo], leaf: CertificateInfo) -> Iterator[Check]:
    others = [item for item in held if item.nickname == leaf.nickname and item is not leaf]
    if others:
        yield warning(
            Topic.CERTIFICATE,
            f"{len(others) + 1} certificates have the nickname '{leaf.nickname}': NSS uses the"
            f" newest, valid until {leaf.not_after:%Y-%m-%d}, with serial number {leaf.serial}",
            "remove the others: sigul-stack pki remove --others",
        )


def _key(leaf: CertificateInfo) -> Check:
    if leaf.has_private_key:
        return ok(Topic.KEY, f"'{leaf.nickname}' has its private key")
    return failed(
        Topic.KEY,
        f"'{leaf.nickname}' has no private key here",
        "import certificate and key together (sigul-stack pki import), or renew it with --new-key",
    )


def date_check(item: CertificateInfo, now: datetime, cure: str, of_days: _OfDays) -> Check:
    """Check that a certificate is valid; `of_days` is the state of one with so many days left."""
    day, left = f"{item.not_after:%Y-%m-%d}", item.days_left(now)
    values: dict[str, Value] = {
        "days_left": left,
        "not_after": f"{item.not_after:%Y-%m-%dT%H:%M:%SZ}",
    }
    if item.not_before > now:
        return failed(
            Topic.DATES,
            f"'{item.nickname}' is not yet valid: it is from {item.not_before:%Y-%m-%d %H:%M} to"
            f" {item.not_after:%Y-%m-%d %H:%M} UTC, and this machine's clock says"
            f" {now:%Y-%m-%d %H:%M} UTC",
            "is this machine's clock right? Else set the one it was issued by, and issue it anew",
            **values,
        )
    if item.expired(now):
        return failed(Topic.DATES, f"'{item.nickname}' expired on {day}", cure, **values)
    state = of_days(left)
    if state is State.OK:
        return ok(Topic.DATES, f"'{item.nickname}' is valid until {day}, {left} days", **values)
    finding = f"'{item.nickname}' expires on {day}, in {left} days"
    return Check(Topic.DATES, state, finding, f"{cure} before then", values)


def names_check(leaf: CertificateInfo, role: Role, names: tuple[str, ...]) -> Check:
    """Check that a certificate has all `names` that its component is called by."""
    if not role.is_dialled:
        finding = f"'{leaf.nickname}' is for the user '{leaf.common_name}'"
        if wrong := [name for name in names if name != leaf.common_name]:
            return failed(
                Topic.NAMES,
                f"{finding}, not '{wrong[0]}'",
                "the server compares that with user-name: issue one for the right user",
            )
        return ok(Topic.NAMES, finding)
    missing = [name for name in names if not covers(name, leaf.certificate)]
    held = ", ".join(leaf.names) or leaf.common_name
    if missing:
        return failed(
            Topic.NAMES,
            f"'{leaf.nickname}' does not name {', '.join(missing)} (it names: {held}), so whoever"
            " dials that gets SSL_ERROR_BAD_CERT_DOMAIN",
            "renew it with --san (or have its CA issue it anew with these alternative names)",
        )
    if not leaf.names:
        return warning(
            Topic.NAMES,
            f"'{leaf.nickname}' has its host name in the CN only, which newer peers do not accept",
            f"renew it with --san {leaf.common_name} (or have its CA do so)",
        )
    return ok(Topic.NAMES, f"'{leaf.nickname}' names {held}")


def usage_check(leaf: CertificateInfo, role: Role) -> Check:
    """Check that a certificate may be used for what `role` does with it."""
    usages = extension(leaf.certificate, x509.ExtendedKeyUsage)
    if usages is None:
        return ok(Topic.USAGE, f"'{leaf.nickname}' may be used for anything")
    if needed := [usage for usage in role.usages if usage not in usages]:
        return failed(
            Topic.USAGE,
            f"'{leaf.nickname}' is not meant for a {role.value}: its extended key usage lacks"
            f" {', '.join(_USAGE_NAMES[usage] for usage in needed)}",
            f"issue it with --role {role.value} (or have its CA issue it anew with these usages)",
        )
    return ok(Topic.USAGE, f"'{leaf.nickname}' may be used as a {role.value}'s")


_USAGE_NAMES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS server",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS client",
}


def _authority(
    leaf: CertificateInfo, held: list[CertificateInfo], role: Role, of_days: _OfDays, now: datetime
) -> Iterator[Check]:
    issuers = [item for item in held if issued(item.certificate, leaf.certificate)]
    if not issuers:
        yield failed(
            Topic.AUTHORITY,
            f"the CA that issued '{leaf.nickname}' ({leaf.issuer}) is not in the database",
            "add it with sigul-stack pki import --ca",
        )
        return
    trusted = [
        item
        for item in held
        if item.is_authority and set(role.needed_trust) <= set(item.trust.split(",")[0])
    ]
    if not trusted:
        yield failed(
            Topic.AUTHORITY,
            f"no CA is trusted for a {role.value}'s peers ({role.needed_trust},,)",
            f"mend it with: certutil -M -n {issuers[0].nickname} -t CT,, -d sql:DIRECTORY",
        )
        return
    names = " and ".join(f"'{name}'" for name in dict.fromkeys(item.nickname for item in trusted))
    if len({item.common_name for item in trusted}) > 1:
        # Not wrong: in the middle of a rollover it has to be like this.
        yield ok(
            Topic.AUTHORITY,
            f"{names} are trusted, as while a CA is rolled over; '{issuers[0].nickname}' has issued"
            f" '{leaf.nickname}'",
        )
    else:
        yield ok(Topic.AUTHORITY, f"{names} is trusted")
    for item in trusted:
        dates = date_check(item, now, "renew the CA (sigul-stack pki renew-ca)", of_days)
        if dates.state is not State.OK:
            yield dates


def _files(database: NSSDatabase) -> Check:
    path = database.directory / PASSWORD_FILE_NAME
    try:
        with rights_of_owner(database.directory):
            mode, content = path.stat().st_mode, path.read_bytes()
    except OSError:
        mode, content = 0, b""
    if mode & 0o007:
        return failed(
            Topic.FILES, f"everybody may read the password in '{path}'", f"chmod 0600 '{path}'"
        )
    if content.endswith((b"\n", b"\0")):
        return warning(
            Topic.FILES,
            f"'{path}' ends with a line end, which other programs take for part of the password",
            "write it without one",
        )
    if (database.directory / "key4.db").stat().st_mode & 0o007:
        return warning(
            Topic.FILES,
            f"everybody may read the private keys in '{database.directory}', protected by their"
            " password alone",
            "chmod 0600 its files",
        )
    return ok(Topic.FILES, "nobody else may read the private key")


def _nothing_else(held: list[CertificateInfo], strays: list[str], nickname: str) -> Iterator[Check]:
    others = [item for item in held if item.has_private_key and item.nickname != nickname]
    for item in others:
        if item.is_authority:
            yield failed(
                Topic.NOTHING_ELSE,
                f"the private key of the CA '{item.nickname}' is in here: whoever gets this"
                " database can issue certificates for everybody",
                "keep the key on the machine that issues, and make this database anew without it"
                " (sigul-stack pki issue)",
            )
        else:
            yield failed(
                Topic.NOTHING_ELSE,
                f"the private key of '{item.nickname}' is in here, which belongs to somebody else",
                f"remove it: sigul-stack pki remove --nickname {item.nickname}",
            )
    for identity in strays:
        yield warning(
            Topic.NOTHING_ELSE,
            "a private key without certificate is in here, left by an interrupted renewal or a"
            " certificate request",
            f"certutil -F -k {identity} -d sql:DIRECTORY removes it",
        )
    strangers = [
        item
        for item in held
        if not item.has_private_key and not item.is_authority and item.nickname != nickname
    ]
    # These are there for a use: to be shut out (docs/security.md).
    if distrusted := [item.nickname for item in strangers if item.distrusted]:
        yield ok(Topic.NOTHING_ELSE, f"distrusted: {', '.join(distrusted)}")
    foreign = [item.nickname for item in strangers if not item.distrusted]
    if foreign:
        yield warning(
            Topic.NOTHING_ELSE,
            f"certificates of others are in here, without use: {', '.join(foreign)}",
            "remove each: sigul-stack pki remove --nickname NICKNAME",
        )
    if not others and not strays and not foreign:
        yield ok(Topic.NOTHING_ELSE, "nothing is in here that belongs elsewhere")
