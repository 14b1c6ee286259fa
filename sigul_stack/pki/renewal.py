"""Giving one leaf a new certificate, and nothing else: the rest of its database stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from ..errors import NSSError
from .authority import Authority
from .certificate_info import CertificateInfo
from .leaf import LEAF_LIFETIME, KeyType
from .nss_directory import NSSDatabase


def renew_leaf(
    authority: Authority,
    database: NSSDatabase,
    nickname: str,
    *,
    lifetime: timedelta = LEAF_LIFETIME,
    new_key: bool = False,
    key_type: KeyType | None = None,
    names: Iterable[str] = (),
    now: datetime | None = None,
) -> CertificateInfo:
    """Replace the certificate `nickname` by a new one of the same subject, names and usages.

    `names` are added to it. With `new_key` (of `key_type`; None: of the old one's), first the new
    key comes beside the old one, then the certificate changes, then the old key goes: whatever
    interrupts it, certificate and key fit. The authority need not be the one that issued the old
    certificate; it is added to the database where it is not in there. Gives what the database holds
    then. Raises `NSSError`, `WrongNSSPassword`.
    """
    old = database.find(nickname)
    if old.is_authority:
        raise NSSError(
            f"'{nickname}' in '{database.directory}' is a CA",
            "renew it where its key is, with sigul-stack pki renew-ca",
        )
    if not old.has_private_key and not new_key:
        raise NSSError(
            f"'{nickname}' in '{database.directory}' has no private key there, and a certificate"
            " alone is of no use",
            "give it a new key as well (--new-key)",
        )
    leaf = authority.renew(
        old.certificate,
        lifetime=lifetime,
        new_key=new_key,
        key_type=key_type,
        names=names,
        now=now,
    )
    database.replace_leaf(leaf, nickname, authority.trusted)
    return database.find(nickname)
