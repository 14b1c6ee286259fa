"""Putting authorities and leaves into an NSS database, each under its nickname.

Invariant: what is added is found under its nickname afterwards, with its private key and its
issuer, or there is an error and (in `database`) no change. NSS itself is less strict: it keeps the
old nickname where it knows the subject already, and says success.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cryptography import x509

from ..errors import ConfigurationError, NSSError
from .certificate_info import common_name, is_authority, issued, key_id
from .leaf import Leaf
from .material import Bundle, authority_trust
from .nss_store import NO_TRUST, TRUSTED_AUTHORITY, NSSStore

#: The nickname that `pki` gives a CA's certificate.
AUTHORITY_NICKNAME: Final = "sigul-ca"


def check_nickname(nickname: str) -> None:
    """Raise `ConfigurationError` where NSS would not find a certificate by this nickname."""
    if nickname.strip() != nickname or not nickname or not nickname.isprintable():
        raise ConfigurationError(f"{nickname!r} is no nickname", "write printable text")
    if ":" in nickname or nickname.startswith("-"):
        raise ConfigurationError(
            f"the nickname {nickname!r} will not do: what stands before a `:` is a token for NSS,"
            " and a leading `-` an option",
            "choose another",
        )


def put_authority(
    store: NSSStore,
    certificate: x509.Certificate,
    nickname: str = AUTHORITY_NICKNAME,
    *,
    trust: str = TRUSTED_AUTHORITY,
) -> str:
    """Have the CA's certificate in the database with this trust at least; give its nickname.

    A CA that is there already keeps its nickname. An older certificate of the same CA and key is
    replaced. A nickname that another CA has gets a number. Raises `NSSError`.
    """
    check_nickname(nickname)
    if not is_authority(certificate):
        raise NSSError(
            f"'{common_name(certificate.subject)}' is no CA's certificate and cannot be trusted as"
            " one",
            "give the certificate of the CA that issued the others",
        )
    entries = store.entries()
    for entry in entries:
        if entry.certificate == certificate:
            if not set(trust) <= set(entry.trust):
                store.set_trust(entry.nickname, trust)
            return entry.nickname
    # NSS knows certificates of one subject by one nickname.
    namesakes = [item for item in entries if item.certificate.subject == certificate.subject]
    if namesakes:
        nickname = namesakes[0].nickname
        kept = [
            item for item in namesakes if item.certificate.public_key() != certificate.public_key()
        ]
        if len(kept) < len(namesakes):
            store.delete_certificates(nickname)
            for item in kept:
                store.add_certificate(item.certificate, nickname, item.trust.replace("u", ""))
    else:
        taken = {item.nickname for item in entries}
        wanted, number = nickname, 2
        while nickname in taken:
            nickname, number = f"{wanted}-{number}", number + 1
    store.add_certificate(certificate, nickname, trust)
    if certificate not in store.certificates(nickname):
        raise NSSError(f"NSS did not take the CA's certificate under the nickname '{nickname}'")
    return nickname


def put_leaf(
    store: NSSStore,
    leaf: Leaf,
    nickname: str,
    *,
    authorities: Iterable[x509.Certificate] = (),
    replace: bool = False,
) -> tuple[str, ...]:
    """Add a leaf, after the CAs to trust; its issuer must be in the database by then.

    With `replace` it takes the place of the one there. Gives the ids of private keys that no
    certificate needs any more. They are to be deleted in a later change, once the certificates that
    need the new key are in place. Raises `NSSError`.
    """
    check_nickname(nickname)
    for authority in authorities:
        put_authority(store, authority)
    certificate, identity = leaf.certificate, key_id(leaf.certificate)
    entries, keys = store.entries(), store.key_ids()
    outdated = [item for item in entries if item.nickname == nickname]
    if outdated and not replace:
        raise NSSError(
            f"the nickname '{nickname}' is taken, by"
            f" '{common_name(outdated[0].certificate.subject)}'",
            "renew that one (sigul-stack pki renew), replace it by one that you bring along, with"
            " --replace (sigul-stack pki import, sigul_setup_client), or choose another nickname",
        )
    for item in entries:
        if item.nickname != nickname and item.certificate.subject == certificate.subject:
            raise NSSError(
                f"'{item.nickname}' has the same subject, and NSS gives one subject one nickname",
                f"use the nickname '{item.nickname}', or remove it first (sigul-stack pki remove)",
            )
    if not any(issued(item.certificate, certificate) for item in entries):
        raise NSSError(
            f"the CA that issued '{common_name(certificate.subject)}'"
            f" ({certificate.issuer.rfc4514_string()}) is not in the database, so that no peer's"
            " certificate could be checked",
            "give the CA's certificate with --ca",
        )
    store.delete_certificates(nickname)
    if identity in keys:
        store.add_certificate(certificate, nickname, NO_TRUST)
    elif leaf.key is not None:
        store.add_key(leaf.key, certificate, nickname)
    if store.certificates(nickname) != (certificate,) or identity not in store.key_ids():
        raise NSSError(
            f"'{nickname}' could not be added together with its private key",
            "give the private key that the certificate was issued for",
        )
    needed = {key_id(item.certificate) for item in store.entries()}
    return tuple({key_id(item.certificate) for item in outdated} & keys.keys() - needed)


def put_bundle(
    store: NSSStore,
    bundle: Bundle | None,
    given: tuple[x509.Certificate, ...],
    nickname: str | None,
    *,
    replace: bool = False,
    as_authority: bool = False,
) -> tuple[str, ...]:
    """Add what a site brings along: a certificate with its key and chain, and CAs to trust.

    `nickname` is the certificate's, without one the (first) CA's. A CA with its private key is
    taken `as_authority` only. Gives what `put_leaf` gives. Raises `NSSError`.
    """
    chain = bundle.chain if bundle is not None else ()
    own = nickname if bundle is None else None
    for certificate, trust in authority_trust(given, chain):
        put_authority(store, certificate, own or AUTHORITY_NICKNAME, trust=trust)
    if bundle is None or nickname is None:
        return ()
    leaf = bundle.leaf
    if not is_authority(leaf.certificate):
        return put_leaf(store, leaf, nickname, replace=replace)
    if not as_authority:
        raise NSSError(
            f"'{common_name(leaf.certificate.subject)}' is a CA, whose private key must not get"
            " into a component's database",
            "if this is the CA's own database, use: sigul-stack pki import --as-ca",
        )
    put_authority(store, leaf.certificate, nickname)
    if leaf.key is not None and key_id(leaf.certificate) not in store.key_ids():
        store.add_key(leaf.key, leaf.certificate, nickname)
    return ()
