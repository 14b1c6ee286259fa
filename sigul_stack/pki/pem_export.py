"""A certificate, its private key and the CAs as PEM, for programs that do not use NSS.

OpenSSL-based clients such as siguldry's take three files: the certificate (intermediate CAs after
it), the key in PKCS#8, and the CAs to trust, of which there are two while a CA is rolled over. The
key leaves its database by pk12util, in memory alone; it is on a disk only in the file that it was
asked for. Trust has no place in a PEM file: what NSS does not trust for the leaf's peers is left
out.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from ..errors import ConfigurationError, NSSError, WrongNSSPassword
from ..secret import Secret
from .certificate_info import CertificateInfo, common_name, current_time, extension, issued, to_pem
from .nss_directory import NSSDatabase
from .nss_store import PrivateKey
from .password_files import Permissions, make_directory, write_file

#: The most that OpenSSL takes as the passphrase of a PEM file, in bytes.
MAX_PASSPHRASE: Final = 1023

#: Certificates are for everybody.
_PUBLIC: Final = 0o644


@dataclass(frozen=True, slots=True)
class PEMFiles:
    """The contents of the three files, and what their reader may stumble over (`notes`)."""

    certificate: bytes
    key: bytes = field(repr=False)
    authorities: bytes
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PEMPaths:
    """The names of the three files, which have to differ. Raises `ConfigurationError`."""

    certificate: Path
    key: Path
    authorities: Path

    def __post_init__(self) -> None:
        if len(set(self.every)) < len(self.every):
            raise ConfigurationError(
                "certificate, key and CAs go into a file each, and two of these are the same",
                "give --cert, --key and --ca different names",
            )

    @property
    def every(self) -> tuple[Path, ...]:
        """All of them, in the order in which they are written."""
        return (self.authorities, self.certificate, self.key)

    @classmethod
    def of(
        cls,
        nickname: str,
        directory: Path,
        certificate: Path | None = None,
        key: Path | None = None,
        authorities: Path | None = None,
    ) -> PEMPaths:
        """`NICKNAME.crt`, `NICKNAME.key` and `ca.crt` in `directory`, unless one is named.

        In file names `_` stands for what is awkward there, such as blanks.
        """
        stem = re.sub(r"[^A-Za-z0-9._@+-]", "_", nickname)
        stem = f"_{stem[1:]}" if stem.startswith((".", "-")) else stem
        return cls(
            certificate or directory / f"{stem}.crt",
            key or directory / f"{stem}.key",
            authorities or directory / "ca.crt",
        )


def find_leaf(database: NSSDatabase, nickname: str | None) -> CertificateInfo:
    """The certificate `nickname`, or the one that has its private key. Raises `NSSError`."""
    if nickname is not None:
        if ":" in nickname:
            raise _stays(nickname, "is in a token of its own")
        found = database.find(nickname)
    else:
        able = [item for item in database.certificates() if item.has_private_key]
        own = [item for item in able if not item.is_authority] or able
        names = list(dict.fromkeys(item.nickname for item in own))
        if len(names) != 1:
            raise NSSError(
                f"'{database.directory}' holds private keys of several certificates"
                f" ({', '.join(names)})"
                if names
                else f"'{database.directory}' holds no certificate with its private key",
                "name the one to export with --nickname"
                if names
                else "have one issued into it (sigul-stack pki issue), or name another directory",
            )
        found = database.find(names[0])
    if found.is_authority:
        raise NSSError(
            f"'{found.nickname}' in '{database.directory}' is a CA, whose private key is for"
            " issuing alone",
            "to have others trust it, hand out ca.pem beside its database; to move the CA, copy"
            " the whole directory",
        )
    if not found.has_private_key:
        raise NSSError(
            f"'{found.nickname}' in '{database.directory}' has no private key there",
            "export it where the key is, or have it issued anew with one (sigul-stack pki renew"
            " --new-key)",
        )
    return found


def export_pem(
    database: NSSDatabase,
    leaf: CertificateInfo,
    passphrase: Secret | None = None,
    *,
    now: datetime | None = None,
) -> PEMFiles:
    """The PEM of `leaf` of `database`, its key encrypted where there is a `passphrase`.

    Raises `WrongNSSPassword`, `NSSError` where the key cannot be taken out or no CA is trusted,
    `ConfigurationError` for the passphrase.
    """
    protection = _protection(passphrase)
    now = now or current_time()
    held = database.certificates()
    trusted = _trusted(held, leaf, now)
    if not trusted:
        raise NSSError(
            f"no CA that is valid is trusted in '{database.directory}' for the peers of"
            f" '{leaf.nickname}'",
            "add it with sigul-stack pki import --ca",
        )
    between = _between(held, leaf.certificate, trusted)
    key = _key(database, leaf)
    return PEMFiles(
        b"".join(map(to_pem, (leaf.certificate, *between))),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection),
        # Those in between as well: a peer may show its own certificate and no other.
        b"".join(map(to_pem, (*trusted, *between))),
        tuple(_notes(leaf, trusted, between, now)),
    )


def write_pem_files(
    files: PEMFiles, paths: PEMPaths, permissions: Permissions, *, replace: bool = False
) -> None:
    """Write the three, each whole or not at all; the key comes last, with the `permissions`' mode.

    Raises `NSSError`; without `replace` also where one of them is there already, and then writes
    none.
    """
    for path in paths.every:
        _check_target(path, replace=replace)
    public = Permissions(permissions.uid, permissions.gid, _PUBLIC)
    contents = (files.authorities, files.certificate, files.key)
    for path, content in zip(paths.every, contents, strict=True):
        if not path.parent.is_dir():
            make_directory(path.parent, Permissions(permissions.uid, permissions.gid))
        write_file(path, content, permissions if path == paths.key else public, replace=replace)


def _check_target(path: Path, *, replace: bool) -> None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise NSSError(f"'{path}' cannot be written: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise NSSError(
            f"'{path}' is there, and is no file", "name a file, of which nothing else is made"
        )
    if not replace:
        raise NSSError(
            f"'{path}' is there already", "name another, or write over it with --replace"
        )


def _protection(passphrase: Secret | None) -> KeySerializationEncryption:
    if passphrase is None:
        return NoEncryption()
    if not 0 < len(passphrase.reveal()) <= MAX_PASSPHRASE:
        raise ConfigurationError(
            f"a private key's passphrase has 1 to {MAX_PASSPHRASE} bytes, and this one"
            f" {len(passphrase.reveal()) or 'none'}",
            "give another, or none at all for a key that is not encrypted",
        )
    return BestAvailableEncryption(passphrase.reveal())


def _key(database: NSSDatabase, leaf: CertificateInfo) -> PrivateKey:
    try:
        key = database.export_key(leaf.nickname)
    except WrongNSSPassword:
        raise
    except NSSError as error:
        raise _stays(leaf.nickname, f"cannot be taken out ({error.problem})") from error
    if key.public_key() != leaf.certificate.public_key():
        raise NSSError(
            f"the key that NSS gives for '{leaf.nickname}' in '{database.directory}' is not its"
            " certificate's",
            "if several certificates have that nickname, keep one (sigul-stack pki remove"
            " --others)",
        )
    return key


def _stays(nickname: str, why: str) -> NSSError:
    return NSSError(
        f"the private key of '{nickname}' {why}",
        "a key that is in a token, or was made as not extractable, stays where it is: issue a"
        " certificate with a key of its own (sigul-stack pki issue) and export that",
    )


def _trusted(
    held: Iterable[CertificateInfo], leaf: CertificateInfo, now: datetime
) -> tuple[x509.Certificate, ...]:
    """The CAs that may have issued the certificates of the leaf's peers."""
    usages = extension(leaf.certificate, x509.ExtendedKeyUsage)
    wanted = {
        letter
        for letter, usage in (
            ("C", ExtendedKeyUsageOID.CLIENT_AUTH),
            ("T", ExtendedKeyUsageOID.SERVER_AUTH),
        )
        if usages is None or usage in usages
    }
    return tuple(
        item.certificate
        for item in held
        if item.is_authority
        and wanted & set(item.trust.partition(",")[0])
        and item.not_before <= now < item.not_after
    )


def _between(
    held: Iterable[CertificateInfo],
    certificate: x509.Certificate,
    trusted: Iterable[x509.Certificate],
) -> tuple[x509.Certificate, ...]:
    """The CAs between the certificate and a trusted one, from the bottom up."""
    authorities = [item.certificate for item in held if item.is_authority and not item.distrusted]
    found: list[x509.Certificate] = []
    while not any(issued(item, certificate) for item in trusted):
        above = [item for item in authorities if item not in found and issued(item, certificate)]
        if not above or certificate.issuer == certificate.subject:
            break
        certificate = above[0]
        found.append(certificate)
    return tuple(found)


def _notes(
    leaf: CertificateInfo,
    trusted: tuple[x509.Certificate, ...],
    between: tuple[x509.Certificate, ...],
    now: datetime,
) -> Iterable[str]:
    if leaf.expired(now):
        yield f"'{leaf.nickname}' expired on {leaf.not_after:%Y-%m-%d}: no peer accepts it"
    top = between[-1] if between else leaf.certificate
    if not any(issued(item, top) for item in trusted):
        yield (
            f"the CA of '{leaf.nickname}' ({leaf.issuer}) is none of those that are trusted here:"
            " whoever gets these files cannot check it"
        )
    for item in trusted:
        if not any(issued(other, item) for other in trusted):
            yield (
                f"'{common_name(item.subject)}' is trusted and is no root: OpenSSL wants the root"
                f" as well ('{common_name(item.issuer)}'); add it with sigul-stack pki import --ca"
            )
