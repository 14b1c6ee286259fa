"""Whether an NSS database is what its component needs: findings as data, nothing changed.

`doctor`, health checks and the Ansible kit read the findings; each names the first thing to do.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ..errors import NSSError, WrongNSSPassword
from .certificates import CertificateInfo, covers, current_time, issued
from .database import NSSDatabase
from .leaf import Role
from .passwords import PASSWORD_FILE_NAME

WARN_DAYS: Final = 30


class Severity(enum.Enum):
    """How bad a finding is. Only an ERROR keeps a component from working, or is a leak."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Topic(enum.Enum):
    """What a finding is about, in the order in which they are looked at."""

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


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `message` says what is wrong and what to do, or what is right."""

    severity: Severity
    topic: Topic
    message: str


def inspect_database(
    database: NSSDatabase,
    role: Role,
    *,
    nickname: str | None = None,
    names: Iterable[str] = (),
    warn_days: int = WARN_DAYS,
    now: datetime | None = None,
) -> list[Finding]:
    """Look at all that a component of `role` needs in its database, and that nothing else is there.

    `names` are what the component is called: host names that have to be in the certificate, for a
    client the one user name. Raises nothing about the database: that it cannot be opened is a
    finding, the last one then.
    """
    try:
        database.require()
    except NSSError as error:
        return [_error(Topic.DATABASE, str(error))]
    try:
        held = database.certificates()
        strays = database.other_key_ids()
    except WrongNSSPassword as error:
        return [_error(Topic.PASSWORD, str(error))]
    except NSSError as error:
        return [_error(Topic.DATABASE, str(error))]
    findings = [_ok(Topic.PASSWORD, "the password opens the database"), *_files(database)]
    wanted = nickname or role.nickname
    own = [item for item in held if item.nickname == wanted]
    if own:
        leaf = max(own, key=lambda item: item.not_after)
        findings.append(_ok(Topic.CERTIFICATE, f"'{wanted}' is there"))
        findings += _leaf(leaf, role, tuple(names), warn_days, now or current_time())
        findings += _authority(leaf, held, role, warn_days, now or current_time())
    else:
        there = ", ".join(item.nickname for item in held) or "none"
        findings.append(
            _error(
                Topic.CERTIFICATE,
                f"there is no certificate with the nickname '{wanted}' (there are: {there}); issue"
                " it with sigul-stack pki issue, or name the right one",
            )
        )
    return findings + list(_nothing_else(held, strays, wanted))


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any finding is an error."""
    return any(finding.severity is Severity.ERROR for finding in findings)


def _leaf(
    leaf: CertificateInfo, role: Role, names: tuple[str, ...], warn_days: int, now: datetime
) -> Iterator[Finding]:
    yield (
        _ok(Topic.KEY, f"'{leaf.nickname}' has its private key")
        if leaf.has_private_key
        else _error(
            Topic.KEY,
            f"'{leaf.nickname}' has no private key here; import certificate and key together"
            " (sigul-stack pki import), or renew it with --new-key",
        )
    )
    yield _dates(leaf, warn_days, now, "renew it with sigul-stack pki renew")
    yield from _names(leaf, role, names)
    yield from _usage(leaf, role)


def _dates(item: CertificateInfo, warn_days: int, now: datetime, cure: str) -> Finding:
    day = f"{item.not_after:%Y-%m-%d}"
    if item.not_before > now:
        return _error(
            Topic.DATES,
            f"'{item.nickname}' is valid only from {item.not_before:%Y-%m-%d %H:%M} UTC on; is this"
            " machine's clock right?",
        )
    if item.expired(now):
        return _error(Topic.DATES, f"'{item.nickname}' expired on {day}; {cure}")
    left = item.days_left(now)
    if left < warn_days:
        return _warning(
            Topic.DATES, f"'{item.nickname}' expires on {day}, in {left} days; {cure} before then"
        )
    return _ok(Topic.DATES, f"'{item.nickname}' is valid until {day}, {left} days")


def _names(leaf: CertificateInfo, role: Role, names: tuple[str, ...]) -> Iterator[Finding]:
    if not role.is_dialled:
        wrong = [name for name in names if name != leaf.common_name]
        yield (
            _error(
                Topic.NAMES,
                f"'{leaf.nickname}' is for the user '{leaf.common_name}', not '{wrong[0]}'; the"
                " server compares that with user-name: issue one for the right user",
            )
            if wrong
            else _ok(Topic.NAMES, f"'{leaf.nickname}' is for the user '{leaf.common_name}'")
        )
        return
    missing = [name for name in names if not covers(name, leaf.certificate)]
    held = ", ".join(leaf.names) or leaf.common_name
    if missing:
        yield _error(
            Topic.NAMES,
            f"'{leaf.nickname}' does not name {', '.join(missing)} (it names: {held}), so whoever"
            " dials that gets SSL_ERROR_BAD_CERT_DOMAIN; renew it with --san",
        )
    elif not leaf.names:
        yield _warning(
            Topic.NAMES,
            f"'{leaf.nickname}' has its host name in the CN only, which newer peers do not accept;"
            f" renew it with --san {leaf.common_name}",
        )
    else:
        yield _ok(Topic.NAMES, f"'{leaf.nickname}' names {held}")


def _usage(leaf: CertificateInfo, role: Role) -> Iterator[Finding]:
    extensions = leaf.certificate.extensions
    try:
        usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        yield _ok(Topic.USAGE, f"'{leaf.nickname}' may be used for anything")
        return
    needed = [usage for usage in role.usages if usage not in usages]
    if needed:
        yield _error(
            Topic.USAGE,
            f"'{leaf.nickname}' is not meant for a {role.value}: its extended key usage lacks"
            f" {', '.join(_USAGE_NAMES[usage] for usage in needed)}; issue it with --role"
            f" {role.value}",
        )
    else:
        yield _ok(Topic.USAGE, f"'{leaf.nickname}' may be used as a {role.value}'s")


_USAGE_NAMES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS server",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS client",
}


def _authority(
    leaf: CertificateInfo, held: list[CertificateInfo], role: Role, warn_days: int, now: datetime
) -> Iterator[Finding]:
    issuers = [item for item in held if issued(item.certificate, leaf.certificate)]
    if not issuers:
        yield _error(
            Topic.AUTHORITY,
            f"the CA that issued '{leaf.nickname}' ({leaf.issuer}) is not in the database; add it"
            " with sigul-stack pki import --ca",
        )
        return
    trusted = [
        item
        for item in held
        if item.is_authority and set(role.needed_trust) <= set(item.trust.split(",")[0])
    ]
    if not trusted:
        yield _error(
            Topic.AUTHORITY,
            f"no CA is trusted for a {role.value}'s peers ({role.needed_trust},,); mend it with:"
            f" certutil -M -n {issuers[0].nickname} -t CT,, -d sql:DIRECTORY",
        )
        return
    names = " and ".join(f"'{name}'" for name in dict.fromkeys(item.nickname for item in trusted))
    if len({item.common_name for item in trusted}) > 1:
        # Not wrong: in the middle of a rollover it has to be like this.
        yield _ok(
            Topic.AUTHORITY,
            f"{names} are trusted, as while a CA is rolled over; '{issuers[0].nickname}' has issued"
            f" '{leaf.nickname}'",
        )
    else:
        yield _ok(Topic.AUTHORITY, f"{names} is trusted")
    for item in trusted:
        dates = _dates(item, warn_days, now, "renew the CA (sigul-stack pki renew-ca)")
        if dates.severity is not Severity.OK:
            yield dates


def _files(database: NSSDatabase) -> Iterator[Finding]:
    path = database.directory / PASSWORD_FILE_NAME
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError:
        mode, content = 0, b""
    if mode & 0o007:
        yield _error(
            Topic.FILES, f"everybody may read the password in '{path}'; chmod 0600 '{path}'"
        )
    elif content.endswith((b"\n", b"\0")):
        yield _warning(
            Topic.FILES,
            f"'{path}' ends with a line end, which other programs take for part of the password;"
            " write it without one",
        )
    elif (database.directory / "key4.db").stat().st_mode & 0o007:
        yield _warning(
            Topic.FILES,
            f"everybody may read the private keys in '{database.directory}', protected by their"
            " password alone; chmod 0600 its files",
        )
    else:
        yield _ok(Topic.FILES, "nobody else may read the private key")


def _nothing_else(
    held: list[CertificateInfo], strays: list[str], nickname: str
) -> Iterator[Finding]:
    others = [item for item in held if item.has_private_key and item.nickname != nickname]
    for item in others:
        if item.is_authority:
            yield _error(
                Topic.NOTHING_ELSE,
                f"the private key of the CA '{item.nickname}' is in here: whoever gets this"
                " database can issue certificates for everybody; keep the key on the machine that"
                " issues, and make this database anew without it (sigul-stack pki issue)",
            )
        else:
            yield _error(
                Topic.NOTHING_ELSE,
                f"the private key of '{item.nickname}' is in here, which belongs to somebody else;"
                f" remove it: sigul-stack pki remove --nickname {item.nickname}",
            )
    for identity in strays:
        yield _warning(
            Topic.NOTHING_ELSE,
            f"a private key without certificate is in here, left by an interrupted renewal or a"
            f" certificate request: certutil -F -k {identity} -d sql:DIRECTORY removes it",
        )
    foreign = [
        item.nickname
        for item in held
        if not item.has_private_key and not item.is_authority and item.nickname != nickname
    ]
    if foreign:
        yield _warning(
            Topic.NOTHING_ELSE,
            f"certificates of others are in here, without use: {', '.join(foreign)}",
        )
    if not others and not strays and not foreign:
        yield _ok(Topic.NOTHING_ELSE, "nothing is in here that belongs elsewhere")


def _ok(topic: Topic, message: str) -> Finding:
    return Finding(Severity.OK, topic, message)


def _warning(topic: Topic, message: str) -> Finding:
    return Finding(Severity.WARNING, topic, message)


def _error(topic: Topic, message: str) -> Finding:
    return Finding(Severity.ERROR, topic, message)
