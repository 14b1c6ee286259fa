"""The CA of somebody else: a root, an intermediate CA, leaves of all kinds, as files to import.

    other = OtherCA.make(directory)
    other.leaf("bridge", common="bridge.example.org", names=["bridge.example.org"])

makes `root.pem`, `sub.pem` and, for each leaf, `NAME.pem` (itself and the intermediate CA) and
`NAME.key`, which is not encrypted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
DAY = timedelta(days=1)


def rsa_key() -> rsa.RSAPrivateKey:
    """An RSA key of 2048 bits."""
    return rsa.generate_private_key(65537, 2048)


def ec_key() -> ec.EllipticCurvePrivateKey:
    """An EC key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: Key, kind: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    """A key as PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, kind, NoEncryption())


@dataclass
class OtherCA:
    """Root and intermediate CA, with their keys."""

    directory: Path
    root: x509.Certificate
    sub: x509.Certificate
    root_key: Key = field(repr=False)
    sub_key: Key = field(repr=False)

    @classmethod
    def make(cls, directory: Path, name: str = "Other", sub_days: int = 100) -> OtherCA:
        """New ones; the intermediate CA is valid from 10 days ago for `sub_days` from now."""
        directory.mkdir(parents=True, exist_ok=True)
        root_key, sub_key = ec_key(), ec_key()
        root = _certificate(f"{name} Root", root_key, None, root_key, authority=True)
        sub = _certificate(
            f"{name} Sub", sub_key, root, root_key, authority=True, days=(-10, sub_days)
        )
        made = cls(directory, root, sub, root_key, sub_key)
        for stem, certificate in (("root", root), ("sub", sub)):
            (directory / f"{stem}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        return made

    def path(self, name: str) -> Path:
        """One of its files."""
        return self.directory / name

    def leaf(
        self,
        name: str,
        *,
        common: str,
        names: Iterable[str] = (),
        usages: Sequence[x509.ObjectIdentifier] = (SERVER, CLIENT),
        days: tuple[int, int] = (-1, 90),
        key: Key | None = None,
        encipherment: bool = True,
    ) -> tuple[x509.Certificate, Key]:
        """A leaf, valid from and until so many days from now; without `usages` it says none."""
        key = key or rsa_key()
        made = _certificate(
            *(common, key, self.sub, self.sub_key), names=names, usages=usages, days=days,
            encipherment=encipherment,
        )  # fmt: skip
        chain = made.public_bytes(Encoding.PEM) + self.sub.public_bytes(Encoding.PEM)
        self.path(f"{name}.pem").write_bytes(chain)
        self.path(f"{name}.key").write_bytes(pem_of(key))
        return made, key


def _certificate(
    common: str,
    key: Key,
    issuer: x509.Certificate | None,
    signer: Key,
    *,
    authority: bool = False,
    names: Iterable[str] = (),
    usages: Sequence[x509.ObjectIdentifier] = (),
    days: tuple[int, int] = (-10, 100),
    encipherment: bool = True,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    now = datetime.now(UTC)
    flags = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    flags |= {
        "digital_signature": not authority,
        "key_encipherment": not authority and encipherment,
        "key_cert_sign": authority,
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.KeyUsage(**flags), critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if alternative := [x509.DNSName(item) for item in names]:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return builder.sign(signer, hashes.SHA256())
