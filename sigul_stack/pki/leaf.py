"""Leaf certificates before they are in a database: what is asked for, and what was issued.

A role decides what a certificate is for. The bridge is the TLS server on both its ports, and a TLS
client only to look whether it answers (`sigul-stack health bridge`); the signing server dials the
bridge (TLS client) and is the TLS server of the inner session; a client is a TLS client in both.
"""

from __future__ import annotations

import contextlib
import enum
import ipaddress
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from ..errors import ConfigurationError
from .nss_store import PrivateKey

#: Two years of 365 days.
LEAF_LIFETIME: Final = timedelta(days=2 * 365)

#: Of RSA keys.
LEAF_KEY_BITS: Final = 2048

_PUBLIC_EXPONENT: Final = 65537

#: X.520's upper bound of a common name; NSS and OpenSSL hold to it.
_MAX_COMMON_NAME: Final = 64

_MAX_HOST_NAME: Final = 253
# With underscores: container engines have them in host names.
_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class Role(enum.Enum):
    """The component that a certificate is for."""

    BRIDGE = "bridge"
    SERVER = "server"
    CLIENT = "client"

    @property
    def nickname(self) -> str:
        """The nickname that this component's configuration has by default."""
        return f"sigul-{self.value}-cert"

    @property
    def is_dialled(self) -> bool:
        """Tell whether peers check the certificate against a host name."""
        return self is not Role.CLIENT

    @property
    def usages(self) -> tuple[x509.ObjectIdentifier, ...]:
        """The extended key usages that the component needs."""
        return _USAGES[self]

    @property
    def granted_usages(self) -> tuple[x509.ObjectIdentifier, ...]:
        """The extended key usages that a new certificate gets."""
        if self is Role.BRIDGE:
            return (*self.usages, ExtendedKeyUsageOID.CLIENT_AUTH)
        return self.usages

    @property
    def needed_trust(self) -> str:
        """The trust that the CA needs in the component's own database: C, T or both."""
        return _NEEDED_TRUST[self]


_USAGES: Final = {
    Role.BRIDGE: (ExtendedKeyUsageOID.SERVER_AUTH,),
    Role.SERVER: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    Role.CLIENT: (ExtendedKeyUsageOID.CLIENT_AUTH,),
}
_NEEDED_TRUST: Final = {Role.BRIDGE: "T", Role.SERVER: "CT", Role.CLIENT: "C"}


class KeyType(enum.Enum):
    """The kind of a leaf's private key."""

    #: What every peer takes.
    RSA = "rsa"
    #: ECDSA: a signature costs a tenth; peers need suites for it (docs/compatibility.md).
    P256 = "p256"

    @classmethod
    def of(cls, key: object) -> KeyType:
        """The kind to make in the place of a public key: of EC keys this one, else RSA."""
        return cls.P256 if isinstance(key, ec.EllipticCurvePublicKey) else cls.RSA


def make_key(kind: KeyType, bits: int = LEAF_KEY_BITS) -> PrivateKey:
    """Make a private key; `bits` are of RSA."""
    if kind is KeyType.P256:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(_PUBLIC_EXPONENT, bits)


@dataclass(frozen=True, slots=True)
class LeafRequest:
    """A leaf certificate to issue.

    `name` becomes the CN: a host name for bridge and server, the Sigul user's name for a client.
    `names` are further host names and IP addresses by which the component is reached; `name` is
    one of them where it is a host name. Raises `ConfigurationError` where a name cannot be used.
    """

    role: Role
    name: str
    names: tuple[str, ...] = ()
    lifetime: timedelta = LEAF_LIFETIME
    key_bits: int = LEAF_KEY_BITS
    key_type: KeyType = KeyType.RSA

    def __post_init__(self) -> None:
        check_common_name(self.name)
        if self.lifetime <= timedelta(0):
            raise ConfigurationError(
                "a certificate needs a lifetime", "write --years 2, for example"
            )
        if self.key_bits not in (2048, 3072, 4096):
            raise ConfigurationError(
                f"RSA keys of {self.key_bits} bits are not made here", "choose 2048, 3072 or 4096"
            )
        if self.role.is_dialled and not self.alternative_names:
            raise ConfigurationError(
                f"{self.name!r} is no host name, so no peer could check a {self.role.value}"
                " certificate with that name alone",
                "give the host names with --san",
            )

    @property
    def alternative_names(self) -> tuple[x509.GeneralName, ...]:
        """The certificate's SANs, each once."""
        own = (self.name,) if self.role.is_dialled and _is_host(self.name) else ()
        return tuple(general_name(text) for text in dict.fromkeys((*own, *self.names)))


@dataclass(frozen=True, slots=True)
class Leaf:
    """An issued certificate; `key` is None where the private key stays in the database it is in."""

    certificate: x509.Certificate
    key: PrivateKey | None = field(repr=False)


def check_common_name(text: str) -> None:
    """Raise `ConfigurationError` where `text` cannot be a certificate's CN."""
    if not re.fullmatch(f"[\\x20-\\x7e]{{1,{_MAX_COMMON_NAME}}}", text):
        raise ConfigurationError(
            f"{text!r} cannot be a certificate's name (CN): write 1 to {_MAX_COMMON_NAME} printable"
            " ASCII characters",
            "a longer host name can stand in --san",
        )


def general_name(text: str) -> x509.GeneralName:
    """A host name or IP address as it stands in a certificate. Raises `ConfigurationError`."""
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    if not _is_host(text):
        raise ConfigurationError(
            f"{text!r} is neither a host name nor an IP address",
            "write names as peers dial them, without port (international names in their xn-- form)",
        )
    return x509.DNSName(text.rstrip("."))


def _is_host(text: str) -> bool:
    """Tell whether `text` is a host name or an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        return (
            len(text) <= _MAX_HOST_NAME
            and all(_HOST_LABEL.fullmatch(label) for label in labels)
            # Four numbers that are no address are a mistyped one.
            and not labels[-1].isdecimal()
        )
    return True
