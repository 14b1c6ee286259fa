"""X.509 certificates for ECC and RSA keys (docs/operations.md, "Signing and decrypting").

Every certificate is of version 3, signed with SHA-512, and has a random serial number and both key
identifiers, self-signed ones too. Its type decides about the rest. Nothing is issued that cannot
be verified: the issuing certificate must be the issuing key's own, a CA's, and valid now.

Reads and writes no files: certificates are kept by `keystore.pem`.
"""

from __future__ import annotations

import datetime
import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from ..errors import KeystoreError, RequestRefused, Status, printable, shortened
from .issuing_key import private_key
from .signer import Signer

#: The keys that get certificates.
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

DAYS_A_YEAR = 365
#: The longest chain that is followed.
_MOST_ISSUERS = 8
#: The last moment that a certificate can name (RFC 5280, 4.1.2.5).
_LAST_MOMENT = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class CertificateType(enum.StrEnum):
    """The purpose of a certificate."""

    CA = "ca"
    CODE_SIGNING = "codesigning"
    SSL_SERVER = "sslserver"


#: Names of hosts as certificates have them.
_HOST = re.compile(
    r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)

#: What a certificate's key may be used for; what is not named, it may not.
_KEY_USAGE = {
    CertificateType.CA: ("key_cert_sign", "crl_sign"),
    CertificateType.CODE_SIGNING: ("digital_signature",),
    CertificateType.SSL_SERVER: ("digital_signature", "key_encipherment"),
}
_ALL_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
_PURPOSES: dict[CertificateType, Sequence[x509.ObjectIdentifier]] = {
    CertificateType.CA: (),
    CertificateType.CODE_SIGNING: (Purpose.CODE_SIGNING,),
    CertificateType.SSL_SERVER: (Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH),
}


def issue(
    subject_key: bytes,
    issuer_key: Signer,
    issuer_certificate: bytes | None,
    *,
    subject: str,
    kind: CertificateType,
    years: int,
    now: datetime.datetime,
) -> bytes:
    """The certificate, PEM, for the public key `subject_key` (PEM), valid from `now` (UTC).

    `subject` is an RFC 4514 string.
    `issuer_certificate` (PEM) is the one of `issuer_key` that issues; None means a self-signed
    certificate, which only the key itself can have. Raises `RequestRefused` with a message for
    whatever does not fit, and `KeystoreError` for damaged files.
    """
    name = _name(subject)
    public = _public_key(subject_key)
    own_identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    if issuer_certificate is None:
        if public != issuer_key.public_key:
            raise _refused(
                "a certificate without issuer certificate is self-signed: name the issuer key as"
                " subject key as well, or one of its certificates as issuer"
            )
        issuer, issuer_identifier = name, own_identifier
    else:
        issuer, issuer_identifier = _issuer(issuer_certificate, issuer_key, now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(_end(now, years))
        .add_extension(
            x509.BasicConstraints(ca=kind is CertificateType.CA, path_length=None),
            critical=True,
        )
        .add_extension(
            x509.KeyUsage(**{usage: usage in _KEY_USAGE[kind] for usage in _ALL_USAGES}),
            critical=True,
        )
        .add_extension(own_identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(issuer_identifier.digest, None, None), critical=False
        )
    )
    if _PURPOSES[kind]:
        builder = builder.add_extension(x509.ExtendedKeyUsage(_PURPOSES[kind]), critical=False)
    if kind is CertificateType.SSL_SERVER and (hosts := _hosts(name)):
        # Most TLS clients of today look for a server's name here alone.
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    certificate = builder.sign(private_key(issuer_key), hashes.SHA512())
    itself = certificate if issuer_certificate is None else load_certificate(issuer_certificate)
    if not _issued(itself, certificate):
        raise KeystoreError(
            "a certificate that was issued is not good with its issuer's key",
            "restore keys-storage from a backup",
        )
    return certificate.public_bytes(serialization.Encoding.PEM)


def chain_of(certificate: bytes, others: Iterable[bytes], now: datetime.datetime) -> bytes:
    """`certificate` and, behind it, its issuers up to the root among the `others` (all PEM).

    An issuer is a CA whose name and key are those that issued, by the signature. Where several
    certificates are of that name and key, the one that is valid at `now` (UTC) and was there first
    is taken, so that whoever adds another one to that key takes no place in a chain; of those of
    the same second that is the first of the `others`. The root itself is left out: who trusts it
    has it. Raises `KeystoreError` for a damaged `certificate`; a damaged one of the `others` is no
    issuer.
    """
    chain = [load_certificate(certificate)]
    candidates = sorted(_issuers_among(others), key=lambda one: _preference(one, now))
    while len(chain) <= _MOST_ISSUERS:
        issuer = next(
            (one for one in candidates if one not in chain and _issued(one, chain[-1])), None
        )
        if issuer is None or issuer.subject == issuer.issuer:
            break
        chain.append(issuer)
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)


def _issuers_among(certificates: Iterable[bytes]) -> Iterator[x509.Certificate]:
    """The certificates (PEM) that are CAs'."""
    for pem in certificates:
        try:
            certificate = load_certificate(pem)
        except KeystoreError:
            continue
        if _is_ca(certificate):
            yield certificate


def _preference(certificate: x509.Certificate, now: datetime.datetime) -> tuple[object, ...]:
    """The place of a certificate among those of one name and key; the least comes first."""
    valid = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
    return not valid, certificate.not_valid_before_utc


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def remarks_on_issued(certificate: bytes, issuer: bytes) -> Iterator[str]:
    """Warnings about a new certificate and the one that issued it (both PEM)."""
    ends, before = (load_certificate(one).not_valid_after_utc for one in (certificate, issuer))
    # Who issues a chain at once, for one time, need not be told of seconds.
    if ends - before > datetime.timedelta(days=1):
        yield (
            f"the certificate is valid until {ends:%F} and its issuer's until {before:%F}: whoever"
            " verifies it after that refuses it; renew the issuer's first, or name a shorter"
            " validity"
        )


def remarks_on_code_signing(chain: bytes, now: datetime.datetime) -> Iterator[str]:
    """Warnings about signing programs with the first of the certificates in `chain` (PEM)."""
    certificates = x509.load_pem_x509_certificates(chain)
    try:
        extensions = certificates[0].extensions
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        for_code = Purpose.CODE_SIGNING in purposes
    except x509.ExtensionNotFound:
        for_code = not _is_ca(certificates[0])
    except (x509.DuplicateExtension, ValueError):
        for_code = False
    if not for_code:
        yield (
            "the certificate is not for signing code: sbverify and osslsigncode refuse the"
            " signature where they verify more than the key; use one of type codesigning"
        )
    for one in certificates:
        name = shortened(printable(one.subject.rfc4514_string()), 60)
        if one.not_valid_after_utc < now:
            yield (
                f"certificate {name} expired on {one.not_valid_after_utc:%F}: osslsigncode and"
                " others refuse the signature; issue a new one (sign-certificate)"
            )
        elif one.not_valid_before_utc > now:
            yield (
                f"certificate {name} is not valid before {one.not_valid_before_utc:%F}, and this"
                f" server's clock says {now:%F}; set the clock right"
            )


def described(certificate: bytes) -> str:
    """A line about a certificate (PEM): whether it is a CA's, subject, issuer and its last day."""
    one = load_certificate(certificate)
    what = "CA, " if _is_ca(one) else ""
    return (
        f"{what}subject {printable(one.subject.rfc4514_string())},"
        f" issuer {printable(one.issuer.rfc4514_string())},"
        f" until {one.not_valid_after_utc:%Y-%m-%d}"
    )


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def load_certificate(certificate: bytes) -> x509.Certificate:
    """The certificate in a PEM file of the key store. Raises `KeystoreError` if it is damaged."""
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise KeystoreError(
            "a certificate in the key store is damaged", "restore keys-storage from a backup"
        ) from None


def _issuer(
    certificate: bytes, key: Signer, now: datetime.datetime
) -> tuple[x509.Name, x509.SubjectKeyIdentifier]:
    """The name and key identifier of an issuing certificate that can issue."""
    issuer = load_certificate(certificate)
    if issuer.public_key() != key.public_key:
        raise KeystoreError(
            "a certificate in the key store is not of the key whose name it has",
            "restore keys-storage from a backup",
        )
    if not _is_ca(issuer):
        raise _refused("the issuer certificate is not a CA's; name one of type ca")
    if issuer.not_valid_after_utc < now:
        raise _refused(
            f"the issuer certificate expired on {issuer.not_valid_after_utc:%Y-%m-%d}; name"
            " another one"
        )
    if issuer.not_valid_before_utc > now:
        raise _refused(
            f"the issuer certificate is not valid before {issuer.not_valid_before_utc:%F %T} UTC,"
            f" and this server's clock says {now:%F %T} UTC; set the clock right"
        )
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key)
    return issuer.subject, identifier


def _name(text: str) -> x509.Name:
    try:
        name = x509.Name.from_rfc4514_string(text)
    except ValueError as error:
        reason = str(error)
        raise _refused(
            f"the subject '{shortened(text, 60)}' is not an RFC 4514 name"
            f"{f' ({shortened(reason, 60)})' if reason else ''};"
            " write one like CN=Name,O=Organization,C=XX"
        ) from None
    if not name.rdns:
        raise _refused("the subject is empty; write one like CN=Name,O=Organization,C=XX")
    if not all(isinstance(part.value, str) and part.value.isprintable() for part in name):
        # As of `CN=#0c0161`: text in that form would be taken for its bytes.
        raise _refused(
            f"the subject '{shortened(text, 60)}' has control characters or bytes in it; write"
            " printable text, like CN=Name,O=Organization,C=XX"
        )
    return name


def _hosts(name: x509.Name) -> list[x509.GeneralName]:
    """The host names and addresses among a name's common names."""
    hosts: list[x509.GeneralName] = []
    for part in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME):
        text = str(part.value)
        try:
            hosts.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            if _HOST.fullmatch(text):
                hosts.append(x509.DNSName(text))
    return hosts


def _public_key(pem: bytes) -> PublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError:
        key = None
    if not isinstance(key, PublicKey):
        raise KeystoreError("a public key in the key store is damaged", "restore it from a backup")
    return key


def _end(start: datetime.datetime, years: int) -> datetime.datetime:
    if years < 1:
        raise _refused("a validity of 0y is none; write at least 1y")
    try:
        end = start + datetime.timedelta(days=DAYS_A_YEAR * years)
    except OverflowError:
        end = None
    if end is None or end > _LAST_MOMENT:
        raise _refused(f"a validity of {years}y ends after the year 9999; write a shorter one")
    return end


def _refused(reason: str) -> RequestRefused:
    return RequestRefused(Status.UNKNOWN_ERROR, reason)
