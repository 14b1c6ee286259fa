"""The CA: makes itself, opens an existing one, issues and renews leaf certificates.

Layout: a directory with an NSS database that holds the CA's certificate and private key, and
`ca.pem` (the certificate) beside it. The key is in this process's memory once an `Authority` has
signed, and in no database but its own. Serial numbers are random, so that a CA made again never
reuses one; its name has a random part, so that it is never taken for the old one.

While a CA is rolled over (`rollover`) the database holds two, told apart by their nicknames: the
one that issues has its own, the other has the same with `-next` or `-old` after it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import NSSError
from ..secret import Secret
from .certificate_info import (
    CertificateInfo,
    common_name,
    current_time,
    extension,
    to_pem,
)
from .contents import AUTHORITY_NICKNAME
from .leaf import (
    LEAF_KEY_BITS,
    KeyType,
    Leaf,
    LeafRequest,
    check_common_name,
    general_name,
    make_key,
)
from .nss_directory import NSSDatabase
from .nss_store import TRUSTED_AUTHORITY, PrivateKey
from .password_files import Permissions, write_file

#: Ten years of 365 days.
AUTHORITY_LIFETIME: Final = timedelta(days=10 * 365)

#: The CA's certificate, beside its database.
AUTHORITY_PEM: Final = "ca.pem"

#: What the nickname of the CA that is to issue next, or has issued before, ends with.
NEXT_SUFFIX: Final = "-next"
OLD_SUFFIX: Final = "-old"

_AUTHORITY_KEY_BITS: Final = 3072
_PUBLIC_EXPONENT: Final = 65537

#: How far peers' clocks may be behind ours.
BACKDATED: Final = timedelta(minutes=10)


class Authority:
    """A CA. Made by `create` or `open`."""

    def __init__(
        self,
        database: NSSDatabase,
        nickname: str,
        certificate: x509.Certificate,
        key: PrivateKey | None = None,
        *,
        others: tuple[CertificateInfo, ...] = (),
    ) -> None:
        self.database = database
        self.nickname = nickname
        self.certificate = certificate
        #: The other CA of a rollover that is under way: the next one or the old one.
        self.others = others
        self._loaded_key = key

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """The CAs that components are to trust: this one, and the other one of a rollover."""
        return (self.certificate, *(item.certificate for item in self.others))

    @property
    def pem_file(self) -> Path:
        """The CA's certificate (in a rollover both CAs') in PEM, for those who are to trust it."""
        return self.database.directory / AUTHORITY_PEM

    @classmethod
    def create(
        cls,
        directory: Path | str,
        password: Secret,
        *,
        name: str | None = None,
        lifetime: timedelta = AUTHORITY_LIFETIME,
        permissions: Permissions | None = None,
        now: datetime | None = None,
    ) -> Authority:
        """Make a CA in `directory`, where no database may be yet. Raises `NSSError`."""
        database = NSSDatabase(directory, password)
        key, certificate = new_authority(name, lifetime, now=now)
        with database.making(permissions) as store:
            # The trust first: pk12util leaves it as it is.
            store.add_certificate(certificate, AUTHORITY_NICKNAME, TRUSTED_AUTHORITY)
            store.add_key(key, certificate, AUTHORITY_NICKNAME)
        authority = cls(database, AUTHORITY_NICKNAME, certificate, key)
        authority.write_pem()
        return authority

    @classmethod
    def open(
        cls, directory: Path | str, password: Secret, *, nickname: str | None = None
    ) -> Authority:
        """Open the CA in `directory`, made here or with certutil.

        `nickname` is needed only where several CAs have their keys in there. Raises
        `WrongNSSPassword`, or `NSSError` saying what is missing.
        """
        database = NSSDatabase(directory, password)
        able = [item for item in database.certificates() if item.has_private_key]
        # A CA that was renewed has several certificates with one nickname: the newest counts.
        every = {
            item.nickname: item
            for item in sorted(able, key=lambda item: item.not_after)
            if item.is_authority
        }
        others = {
            name: tuple(
                every[name + end] for end in (NEXT_SUFFIX, OLD_SUFFIX) if name + end in every
            )
            for name in every
        }
        passive = {item.nickname for found in others.values() for item in found}
        found = [
            item
            for name, item in every.items()
            if (name == nickname if nickname else name not in passive)
        ]
        if len(found) != 1:
            names = ", ".join(item.nickname for item in found)
            wanted = f" with the nickname '{nickname}'" if nickname else ""
            raise NSSError(
                f"'{database.directory}' holds the private keys of several CAs ({names}); name one"
                " with --ca-nickname"
                if found
                else f"'{database.directory}' holds no CA{wanted} with its private key; make one"
                " with sigul-stack pki init-ca, or name the directory that has it"
            )
        return cls(
            *(database, found[0].nickname, found[0].certificate),
            others=others[found[0].nickname],
        )

    def issue(self, request: LeafRequest, *, now: datetime | None = None) -> Leaf:
        """Make a key and a certificate. Raises `NSSError` where the CA has expired.

        The certificate ends with the CA's at the latest.
        """
        key = make_key(request.key_type, request.key_bits)
        names = request.alternative_names
        extensions = [
            _extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
            _extension(
                # Key encipherment: NSS demands it of a TLS server's RSA certificate.
                _key_usage(
                    digital_signature=True,
                    key_encipherment=request.role.is_dialled and request.key_type is KeyType.RSA,
                ),
                critical=True,
            ),
            _extension(x509.ExtendedKeyUsage(request.role.granted_usages)),
            *([_extension(x509.SubjectAlternativeName(names))] if names else []),
        ]
        # The role is in the subject because NSS tells certificates apart by it: a bridge and a
        # server on one host would else be one subject with two keys.
        subject = _name(unit=request.role.value, common=request.name)
        return Leaf(self._certify(subject, key, extensions, request.lifetime, now), key)

    def renew(
        self,
        certificate: x509.Certificate,
        *,
        lifetime: timedelta,
        new_key: bool = False,
        key_type: KeyType | None = None,
        names: Iterable[str] = (),
        now: datetime | None = None,
    ) -> Leaf:
        """A successor with the same subject, names, usages and (unless `new_key`) key.

        A new key is of `key_type`; None: of the old one's. `names` are added to its names. Raises
        `NSSError`, `ConfigurationError`.
        """
        key = certificate.public_key()
        bits = key.key_size if isinstance(key, rsa.RSAPublicKey) else LEAF_KEY_BITS
        kind = key_type or KeyType.of(key)
        made = make_key(kind, bits) if new_key else None
        extensions = _inherited(certificate, names)
        if made is not None and kind is not KeyType.of(key):
            extensions = [_usage_for(kind, certificate, item) for item in extensions]
        renewed = self._certify(certificate.subject, made or key, extensions, lifetime, now)
        return Leaf(renewed, made)

    def renew_self(self, lifetime: timedelta, *, now: datetime | None = None) -> None:
        """Give the CA itself a new certificate: same name, same key, so all leaves stay valid.

        Raises `NSSError`, and leaves the old certificate in place then.
        """
        begin = (now or current_time()) - BACKDATED
        old = self.certificate
        kept = {item.oid: (item.value, item.critical) for item in old.extensions}
        usual = {item[0].oid: item for item in _authority_extensions(self._key)}
        renewed = _sign(
            self._key,
            old.subject,
            old.subject,
            self._key.public_key(),
            (begin, begin + BACKDATED + lifetime),
            list((usual | kept).values()),
        )
        self.database.add_authority(renewed)
        self.certificate = renewed
        self.write_pem()

    def write_pem(self) -> None:
        """Write `ca.pem`, readable for everyone, where it is not there or differs."""
        pem = b"".join(to_pem(item) for item in self.trusted)
        if not self.pem_file.exists() or self.pem_file.read_bytes() != pem:
            write_file(self.pem_file, pem, Permissions(mode=0o644))

    @property
    def _key(self) -> PrivateKey:
        """The private key, out of the database when it is first needed: that takes half a second.

        Raises `NSSError`.
        """
        if self._loaded_key is None:
            key = self.database.export_key(self.nickname)
            if key.public_key() != self.certificate.public_key():
                raise NSSError(
                    f"the key that NSS has for '{self.nickname}' in '{self.database.directory}' is"
                    " not its certificate's",
                    "restore the database from a backup",
                )
            self._loaded_key = key
        return self._loaded_key

    def _certify(
        self,
        subject: x509.Name,
        key: PrivateKey | CertificatePublicKeyTypes,
        extensions: list[_Extension],
        lifetime: timedelta,
        now: datetime | None,
    ) -> x509.Certificate:
        now = now or current_time()
        own = self.certificate
        if own.not_valid_after_utc <= now:
            raise NSSError(
                f"the CA '{common_name(own.subject)}' expired on"
                f" {own.not_valid_after_utc:%Y-%m-%d}",
                f"renew it first: sigul-stack pki renew-ca --dir {self.database.directory}",
            )
        public = key.public_key() if isinstance(key, PrivateKey) else key
        begin = max(now - BACKDATED, own.not_valid_before_utc)
        end = min(now + lifetime, own.not_valid_after_utc)
        identifiers = [_extension(x509.SubjectKeyIdentifier.from_public_key(public))]
        # An old CA without an identifier is found by its name alone.
        if (issuer := extension(own, x509.SubjectKeyIdentifier)) is not None:
            identifiers.append(
                _extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer))
            )
        return _sign(
            self._key, own.subject, subject, public, (begin, end), extensions + identifiers
        )


_Extension = tuple[x509.ExtensionType, bool]


def new_authority(
    name: str | None, lifetime: timedelta, *, now: datetime | None = None
) -> tuple[PrivateKey, x509.Certificate]:
    """A CA's key and certificate, in no database yet. Raises `ConfigurationError` for the name.

    Without `name` it has a random one: NSS finds an issuer by its name alone.
    """
    name = name or f"Sigul CA {secrets.token_hex(4)}"
    check_common_name(name)
    key = rsa.generate_private_key(_PUBLIC_EXPONENT, _AUTHORITY_KEY_BITS)
    subject = _name(common=name)
    begin = (now or current_time()) - BACKDATED
    certificate = _sign(
        key,
        subject,
        subject,
        key.public_key(),
        (begin, begin + BACKDATED + lifetime),
        _authority_extensions(key),
    )
    return key, certificate


def _authority_extensions(key: PrivateKey) -> list[_Extension]:
    return [
        _extension(x509.BasicConstraints(ca=True, path_length=0), critical=True),
        _extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True),
        _extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key())),
    ]


def _sign(
    key: PrivateKey,
    issuer: x509.Name,
    subject: x509.Name,
    public: CertificatePublicKeyTypes,
    validity: tuple[datetime, datetime],
    extensions: list[_Extension],
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(key, hashes.SHA256())


def _inherited(certificate: x509.Certificate, names: Iterable[str]) -> list[_Extension]:
    """The extensions that a renewed leaf inherits; an old one made by certutil has few."""
    kinds: tuple[type[x509.ExtensionType], ...] = (
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
    )
    found = {
        type(item.value): _extension(item.value, critical=item.critical)
        for item in certificate.extensions
        if isinstance(item.value, kinds)
    }
    if added := [general_name(text) for text in names]:
        every = dict.fromkeys(
            [*(extension(certificate, x509.SubjectAlternativeName) or ()), *added]
        )
        found[x509.SubjectAlternativeName] = _extension(x509.SubjectAlternativeName(every))
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    found.setdefault(x509.BasicConstraints, _extension(constraints, critical=True))
    return list(found.values())


def _usage_for(kind: KeyType, old: x509.Certificate, item: _Extension) -> _Extension:
    """A key usage as `kind` needs it: RSA alone enciphers keys, for a TLS server."""
    if not isinstance(item[0], x509.KeyUsage):
        return item
    usages = extension(old, x509.ExtendedKeyUsage)
    serves = usages is None or ExtendedKeyUsageOID.SERVER_AUTH in usages
    return _extension(
        _key_usage(digital_signature=True, key_encipherment=serves and kind is KeyType.RSA),
        critical=item[1],
    )


def _extension(value: x509.ExtensionType, *, critical: bool = False) -> _Extension:
    return value, critical


def _name(*, common: str, unit: str | None = None) -> x509.Name:
    parts = {NameOID.ORGANIZATIONAL_UNIT_NAME: unit, NameOID.COMMON_NAME: common}
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts.items() if text])


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
