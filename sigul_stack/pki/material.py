"""Certificates and keys that a site brings along, in PKCS#12 or PEM files, read and checked.

Gives `Bundle`s that hold only what belongs together; nothing here touches an NSS database.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

from ..config.reading import read_small
from ..errors import ConfigurationError, NSSError
from ..secret import Secret
from .certificate_info import from_pem, is_authority
from .leaf import Leaf
from .nss_store import NO_TRUST, TRUSTED_AUTHORITY, usable_key

#: Far more than a key with a long chain of certificates takes.
_MAX_FILE_SIZE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A certificate with its key, and the CA certificates that came with it."""

    leaf: Leaf
    chain: tuple[x509.Certificate, ...]


def read_pkcs12(path: Path, password: Secret | None) -> Bundle:
    """The certificate and key in a PKCS#12 file. Raises `ConfigurationError`, `NSSError`."""
    content = _read(path)
    with warnings.catch_warnings():
        # NSS's own exports are BER, which is read, with a warning.
        warnings.simplefilter("ignore", UserWarning)
        try:
            held = pkcs12.load_pkcs12(content, password.reveal() if password is not None else None)
        except (ValueError, UnsupportedAlgorithm) as error:
            if content.lstrip().startswith(b"-----BEGIN"):
                raise NSSError(
                    f"'{path}' is PEM, and no PKCS#12 file",
                    "give it to sigul-stack pki import with --cert and --key",
                ) from error
            raise NSSError(
                f"'{path}' cannot be opened ({error}): it is no PKCS#12 file, or its password is"
                " another",
                "give the right one (to sigul-stack pki import: with --pkcs12-password-file)",
            ) from error
    if held.cert is None or held.key is None:
        raise NSSError(
            f"'{path}' does not hold a certificate together with its private key",
            "export both into it (openssl pkcs12 -export -in cert.pem -inkey key.pem)",
        )
    key = usable_key(held.key, f"the key in '{path}'")
    certificate = held.cert.certificate
    if key.public_key() != certificate.public_key():
        raise NSSError(
            f"certificate and key in '{path}' do not belong together", "export them anew"
        )
    return _bundle(Leaf(certificate, key), (item.certificate for item in held.additional_certs))


def read_pem(certificate_file: Path, key_file: Path, password: Secret | None) -> Bundle:
    """The certificate (and chain) in one PEM file, the key in another or the same.

    Raises `ConfigurationError`, `NSSError`.
    """
    certificates = read_certificates(certificate_file)
    # OpenSSL encrypts no key with an empty password.
    password = password or None
    try:
        loaded = load_pem_private_key(
            _read(key_file), password.reveal() if password is not None else None
        )
    except TypeError as error:
        if password is None:
            raise NSSError(
                f"the private key '{key_file}' is encrypted",
                "give its password (to sigul-stack pki import: with --key-password-file)",
            ) from error
        raise NSSError(
            f"the private key '{key_file}' is not encrypted",
            "give no password (to sigul-stack pki import: leave --key-password-file out)",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NSSError(
            f"the private key '{key_file}' cannot be opened ({error}): it is no private key in PEM,"
            " or its password is another",
            "give the right one (to sigul-stack pki import: with --key-password-file); a key in DER"
            " is converted by: openssl pkey -inform DER -in FILE",
        ) from error
    key = usable_key(loaded, f"the key in '{key_file}'")
    # The leaf comes first as a rule, but a chain in another order is as good.
    for certificate in certificates:
        if certificate.public_key() == key.public_key():
            others = (item for item in certificates if item != certificate)
            return _bundle(Leaf(certificate, key), others)
    raise NSSError(
        f"the private key '{key_file}' belongs to none of the certificates in '{certificate_file}'",
        "give the pair that was made together",
    )


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """All certificates in a PEM file, one at least. Raises `ConfigurationError`, `NSSError`."""
    return from_pem(_read(path), f"'{path}'")


def authority_trust(
    given: tuple[x509.Certificate, ...], chain: tuple[x509.Certificate, ...]
) -> list[tuple[x509.Certificate, str]]:
    """Each CA certificate with the trust it gets.

    The ones given as CA are trusted. Where none was, of the ones that came along the roots are,
    or all where there is no root among them: NSS takes a trusted intermediate CA as it takes a
    root. The rest of a chain is there to be found.
    """
    roots = tuple(item for item in chain if item.issuer == item.subject)
    trusted = given or roots or chain
    every = dict.fromkeys((*trusted, *chain))
    return [(item, TRUSTED_AUTHORITY if item in trusted else NO_TRUST) for item in every]


def _bundle(leaf: Leaf, chain: Iterable[x509.Certificate]) -> Bundle:
    return Bundle(leaf, tuple(item for item in chain if is_authority(item)))


def _read(path: Path) -> bytes:
    try:
        content = read_small(path, _MAX_FILE_SIZE)
    except OSError as error:
        raise ConfigurationError(
            f"'{path}' cannot be read: {error.strerror}", "name a file that this user may read"
        ) from error
    if len(content) > _MAX_FILE_SIZE:
        raise ConfigurationError(
            f"'{path}' is larger than {_MAX_FILE_SIZE} bytes", "it is no certificate file"
        )
    return content
