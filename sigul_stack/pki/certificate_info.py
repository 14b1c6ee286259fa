"""Facts about certificates: for whom, for what, how long, and which private key is theirs.

Pure: no file, no tool, no clock. The rest of `pki` and its commands ask here instead of taking
certificates apart themselves.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import NSSError

E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """A certificate in an NSS database, with what the database knows about it.

    `trust` is NSS's, such as `CT,,`; `has_private_key` counts keys in the same database.
    """

    nickname: str
    trust: str
    has_private_key: bool
    certificate: x509.Certificate

    @property
    def common_name(self) -> str:
        """The subject's CN; the empty text where it has none."""
        return common_name(self.certificate.subject)

    @property
    def names(self) -> tuple[str, ...]:
        """The subject alternative names: host names and IP addresses."""
        return alternative_names(self.certificate)

    @property
    def issuer(self) -> str:
        """The issuer's CN, or its whole name where it has none."""
        name = self.certificate.issuer
        return common_name(name) or name.rfc4514_string()

    @property
    def serial(self) -> str:
        """The serial number in hexadecimal."""
        return f"{self.certificate.serial_number:x}"

    @property
    def not_before(self) -> datetime:
        """From when it is valid, UTC."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """Until when it is valid, UTC."""
        return self.certificate.not_valid_after_utc

    @property
    def is_authority(self) -> bool:
        """Tell whether it may issue certificates."""
        return is_authority(self.certificate)

    @property
    def distrusted(self) -> bool:
        """Whether its database marks it as not to be trusted for TLS: `p` in the first place."""
        return self.trust.partition(",")[0] == "p"

    @property
    def is_for_tls_client(self) -> bool:
        """Tell whether it may be a TLS client's: it says so, or restricts no use."""
        usages = extension(self.certificate, x509.ExtendedKeyUsage)
        return usages is None or ExtendedKeyUsageOID.CLIENT_AUTH in usages

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hexadecimal."""
        return hashlib.sha256(self.certificate.public_bytes(Encoding.DER)).hexdigest()

    def days_left(self, now: datetime | None = None) -> int:
        """Whole days until it expires; negative once it has."""
        return (self.not_after - (now or current_time())).days

    def expired(self, now: datetime | None = None) -> bool:
        """Tell whether its time is over."""
        return self.not_after < (now or current_time())


def newest(held: Iterable[CertificateInfo], nickname: str) -> CertificateInfo | None:
    """The certificate with this nickname; of several the one that NSS takes.

    That is one that is valid now, and of several such the one that was issued last.
    """
    now = current_time()
    found = (item for item in held if item.nickname == nickname)
    return max(
        found,
        key=lambda item: (item.not_before <= now < item.not_after, item.not_before, item.not_after),
        default=None,
    )


def current_time() -> datetime:
    """The clock, for callers that were not given a time."""
    return datetime.now(UTC)


def extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """The certificate's extension of this kind; None where it has none."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def common_name(name: x509.Name) -> str:
    """The CN in `name`; the empty text where it has none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The certificate's host names and IP addresses, as text."""
    names = extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    )


def covers(name: str, certificate: x509.Certificate) -> bool:
    """Tell whether a peer that dials `name` finds it among the certificate's names.

    As TLS does it: without alternative names the CN counts; `*` stands for one whole first label.
    """
    held = alternative_names(certificate) or (common_name(certificate.subject),)
    wanted = name.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        _, dot, domain = wanted.partition(".")
        return any(item.lower() in (wanted, f"*{dot}{domain}" if dot else wanted) for item in held)
    return str(address) in held


def is_authority(certificate: x509.Certificate) -> bool:
    """Tell whether the certificate is a CA's.

    Old CAs made with certutil say nothing about it; then it is one if it issued itself.
    """
    constraints = extension(certificate, x509.BasicConstraints)
    return issued(certificate, certificate) if constraints is None else constraints.ca


def issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Tell whether `issuer`'s key signed `certificate`, and under its name."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def key_id(certificate: x509.Certificate) -> str:
    """The id of the certificate's private key in NSS (CKA_ID), as `certutil -K` shows it.

    Hexadecimal SHA-1 of the RSA modulus or the EC point; empty for other kinds of key.
    """
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers().n
        value = modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        value = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    else:
        return ""
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()


def from_der(der: bytes, nickname: str = "") -> CertificateInfo:
    """A certificate in DER, of which no database tells trust or key.

    Raises `NSSError`.
    """
    try:
        return CertificateInfo(nickname, "", False, x509.load_der_x509_certificate(der))
    except ValueError as error:
        raise NSSError(f"a certificate cannot be read ({error})", "have it issued again") from error


def to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM)


def from_pem(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """All certificates in `pem`; `what` is for the message. Raises `NSSError`."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise NSSError(
            f"{what} holds no certificate that can be read ({error})",
            "give certificates in PEM; one in DER is converted by: openssl x509 -inform DER -in"
            " FILE",
        ) from error
