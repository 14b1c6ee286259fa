"""A look at a certificate of another CA before its database is changed: will its peers take it?

Our own words come first, for they can say what to do; the last word is NSS's, by whose rules the
peers go. It is asked on the working copy, so that what is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ..checks import Check, State, failed, warning
from ..errors import NSSError
from .certificate_info import CertificateInfo, current_time, extension, issued, key_id
from .inspection import WARN_DAYS, Topic, date_check, names_check, usage_check
from .leaf import Role
from .nss_store import TRUSTED_AUTHORITY, NSSStore

_RENEW = "have it issued anew by its CA"


def accept_leaf(
    store: NSSStore,
    nickname: str,
    role: Role | None = None,
    names: tuple[str, ...] = (),
    *,
    now: datetime | None = None,
) -> tuple[Check, ...]:
    """Look at the certificate `nickname` as one of a component's of `role`; gives warnings.

    `names` are what the component is called, as in `inspect_database`. Raises `NSSError` for the
    first thing that is wrong: dates, usage, names, a chain that ends in no trusted CA.
    """
    now = now or current_time()
    keys = store.key_ids()
    held = [
        CertificateInfo(
            item.nickname, item.trust, key_id(item.certificate) in keys, item.certificate
        )
        for item in store.entries()
    ]
    (leaf,) = [item for item in held if item.nickname == nickname]
    warnings = []
    for check in _checks(leaf, held, role, names, now):
        if check.state is State.FAILED:
            raise NSSError(check.finding, check.cure)
        if check.state is State.WARNING:
            warnings.append(check)
    for usage in _usages(leaf, role):
        if (refusal := store.verify(nickname, server=usage is _SERVER)) is not None:
            kind = "server" if usage is _SERVER else "client"
            raise NSSError(
                f"NSS does not take '{nickname}' for a TLS {kind}'s certificate: {refusal}",
                f"{_RENEW}, with key usage digitalSignature and keyEncipherment, signed with"
                " SHA-256",
            )
    return tuple(warnings)


_SERVER = ExtendedKeyUsageOID.SERVER_AUTH


def _usages(leaf: CertificateInfo, role: Role | None) -> tuple[x509.ObjectIdentifier, ...]:
    """The usages that the certificate has to be good for; without a role, all that it says."""
    if role is not None:
        return role.usages
    stated = extension(leaf.certificate, x509.ExtendedKeyUsage)
    both = (_SERVER, ExtendedKeyUsageOID.CLIENT_AUTH)
    return tuple(usage for usage in both if stated is None or usage in stated)


def _checks(
    leaf: CertificateInfo,
    held: list[CertificateInfo],
    role: Role | None,
    names: tuple[str, ...],
    now: datetime,
) -> Iterator[Check]:
    yield date_check(leaf, now, _RENEW, _of_days)
    if role is not None:
        yield usage_check(leaf, role)
        yield names_check(leaf, role, names)
    elif not _usages(leaf, None):
        yield failed(
            Topic.USAGE,
            f"'{leaf.nickname}' is meant neither for a TLS server nor for a TLS client (extended"
            " key usage)",
            f"{_RENEW} with serverAuth, clientAuth or both",
        )
    yield from _chain(leaf, held, role, now)


def _of_days(days: int) -> State:
    return State.WARNING if days < WARN_DAYS else State.OK


def _chain(
    leaf: CertificateInfo, held: list[CertificateInfo], role: Role | None, now: datetime
) -> Iterator[Check]:
    """Follow the issuers up to one that is trusted."""
    needed = set(TRUSTED_AUTHORITY.strip(",") if role is None else role.needed_trust)
    authorities = [item for item in held if item.is_authority]
    item, seen = leaf, [leaf]
    while True:
        # Of a CA's certificates one that is trusted and valid.
        above = sorted(
            (other for other in authorities if issued(other.certificate, item.certificate)),
            key=lambda other: (not needed <= _trust(other), other.expired(now)),
        )
        if not above:
            yield failed(
                Topic.AUTHORITY,
                f"the chain of '{leaf.nickname}' ends with '{item.common_name}', whose issuer"
                f" ('{item.issuer}') is not in the database",
                "give all CAs up to the root: with --ca, or behind the certificate in its file",
            )
            return
        item = above[0]
        dates = date_check(item, now, "give the CA's renewed certificate with --ca", _of_days)
        if dates.state is not State.OK:
            yield dates
        if needed <= _trust(item):
            return
        if item in seen or issued(item.certificate, item.certificate):
            trusted = [other.common_name for other in authorities if needed <= _trust(other)] or [
                "none"
            ]
            yield failed(
                Topic.AUTHORITY,
                f"the chain of '{leaf.nickname}' ends in '{item.common_name}', which is none of the"
                f" CAs that are trusted ({', '.join(trusted)})",
                "give its CA with --ca, or another certificate",
            )
            return
        seen.append(item)


def _trust(item: CertificateInfo) -> set[str]:
    return set(item.trust.partition(",")[0])


def authority_warnings(
    given: tuple[x509.Certificate, ...], *, now: datetime | None = None
) -> Iterator[Check]:
    """Warnings about the CAs that are to be trusted: their dates."""
    for certificate in given:
        item = CertificateInfo("", "", False, certificate)
        check = date_check(item, now or current_time(), "", _of_days)
        if check.state is not State.OK:
            finding = check.finding.replace("''", f"the CA '{item.common_name}'", 1)
            yield warning(Topic.AUTHORITY, finding, "add its renewed certificate, too")
