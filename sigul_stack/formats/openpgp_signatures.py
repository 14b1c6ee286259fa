"""OpenPGP signatures of version 4, made of a digest: what is hashed, and the packet.

Layout (RFC 9580, 5.2.3 and 5.2.4; the same in RFC 4880):

    packet  = hashed part, u16 length, unhashed subpackets, first 2 bytes of the digest, MPIs
    hashed  = u8 4, u8 type, u8 public-key algorithm, u8 hash algorithm, u16 length, subpackets
    trailer = u8 4, u8 0xFF, u32 length of the hashed part
    digest  = hash of content, hashed part, trailer

So the content can be hashed as it comes, by anybody, and the signature be made of that state
afterwards; nothing here sees the content. The subpackets are those that gpg writes, in its order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from .openpgp_hashes import HASHES
from .openpgp_keys import DSA, ECDSA, EDDSA
from .openpgp_packets import CRITICAL, RSA, PacketType, encode_length, encode_packet
from .openpgp_public_keys import ED25519

if TYPE_CHECKING:
    from hashlib import _Hash

#: SHA-512: the digest where nobody asks for another.
USUAL_HASH: Final = 10

_TRAILER: Final = b"\x04\xff"
_CREATED, _EXPIRES, _ISSUER, _NOTATION = 2, 3, 16, 20
_KEY_SERVER, _POLICY, _FINGERPRINT = 24, 26, 33
#: The flag of a notation whose value is text (RFC 9580, 5.2.3.24).
_READABLE: Final = b"\x80\0\0\0"


class SignatureKind(IntEnum):
    """Types of signatures over data (RFC 9580, 5.2.1)."""

    BINARY = 0x00
    TEXT = 0x01


@dataclass(frozen=True, slots=True)
class Notation:
    """A name and a value that a signature carries; `critical`: who does not know it refuses it."""

    name: str
    value: str
    critical: bool = False


@dataclass(frozen=True, slots=True)
class Remarks:
    """All that a site may have its signatures say besides who made them, and when.

    `expires` is in seconds after the signature's making; None: never.
    """

    notations: tuple[Notation, ...] = ()
    policy_url: str = ""
    policy_critical: bool = False
    key_server: str = ""
    key_server_critical: bool = False
    expires: int | None = None


NO_REMARKS: Final = Remarks()


@dataclass(frozen=True, slots=True)
class SignatureOptions:
    """A site's options: OpenPGP's number of the hash, what signatures say, and headers of armour.

    `unfollowed` says of each option that changes no signature here, though it would with gpg, why.
    """

    hash: int = USUAL_HASH
    remarks: Remarks = NO_REMARKS
    headers: tuple[tuple[str, str], ...] = ()
    escape_from: bool = True
    unfollowed: tuple[str, ...] = ()

    @property
    def hash_name(self) -> str:
        """The name of the hash, as `hashlib` has it."""
        return HASHES[self.hash].name


USUAL_OPTIONS: Final = SignatureOptions()


@dataclass(frozen=True, slots=True)
class SignatureParameters:
    """Everything in a signature but the digest and the key's work on it.

    `algorithm` is the key's, `hash` one of `HASHES`, `created` in seconds since 1970; `fingerprint`
    that of the key or subkey, of version 4.
    """

    kind: SignatureKind
    algorithm: int
    hash: int
    created: int
    fingerprint: bytes
    remarks: Remarks = NO_REMARKS

    @property
    def hashed(self) -> bytes:
        """The part of the signature that is hashed."""
        remarks = self.remarks
        parts = [
            _subpacket(_FINGERPRINT, b"\x04" + self.fingerprint),
            _subpacket(_CREATED, self.created.to_bytes(4, "big")),
        ]
        if remarks.expires is not None:
            parts.append(_subpacket(_EXPIRES, remarks.expires.to_bytes(4, "big"), critical=True))
        for notation in remarks.notations:
            name, value = notation.name.encode(), notation.value.encode()
            sizes = len(name).to_bytes(2, "big") + len(value).to_bytes(2, "big")
            parts.append(
                _subpacket(_NOTATION, _READABLE + sizes + name + value, critical=notation.critical)
            )
        for kind, url, critical in (
            (_POLICY, remarks.policy_url, remarks.policy_critical),
            (_KEY_SERVER, remarks.key_server, remarks.key_server_critical),
        ):
            if url:
                parts.append(_subpacket(kind, url.encode(), critical=critical))
        area = b"".join(parts)
        head = bytes([4, self.kind, self.algorithm, self.hash])
        return head + len(area).to_bytes(2, "big") + area

    def digest(self, state: _Hash) -> bytes:
        """The digest to be signed, for content whose hash so far is `state`, which stays as it is.

        Raises ValueError for the state of another hash.
        """
        name = HASHES[self.hash].name
        if state.name != name:
            raise ValueError(f"a signature with {name} is not made of {state.name}")
        whole, hashed = state.copy(), self.hashed
        whole.update(hashed + _TRAILER + len(hashed).to_bytes(4, "big"))
        return whole.digest()

    def packet(self, digest: bytes, signature: bytes) -> bytes:
        """The signature packet; `signature` is the key's, in the form of `signing.signer`."""
        unhashed = _subpacket(_ISSUER, self.fingerprint[-8:])
        body = b"".join(
            (
                self.hashed,
                len(unhashed).to_bytes(2, "big"),
                unhashed,
                digest[:2],
                _numbers(self.algorithm, signature),
            )
        )
        # A head in the format of old, as gpg writes it (RFC 9580, 4.2.2).
        code, width = (0, 1) if len(body) < 0x100 else (1, 2) if len(body) < 0x10000 else (2, 4)
        head = 0x80 | PacketType.SIGNATURE << 2 | code
        return bytes([head]) + len(body).to_bytes(width, "big") + body

    def one_pass(self) -> bytes:
        """The packet that tells before the content what its signature will need (RFC 9580, 5.4)."""
        head = bytes([3, self.kind, self.hash, self.algorithm])
        return encode_packet(PacketType.ONE_PASS, head + self.fingerprint[-8:] + b"\x01")


def literal(data: bytes) -> bytes:
    """A packet with binary data that has neither name nor date (RFC 9580, 5.9)."""
    return encode_packet(PacketType.LITERAL, b"b\0" + bytes(4) + data)


def new_hash(number: int) -> _Hash:
    """A fresh hash, by OpenPGP's number of it, to be updated with content."""
    return hashlib.new(HASHES[number].name)


def _subpacket(kind: int, content: bytes, *, critical: bool = False) -> bytes:
    return encode_length(len(content) + 1) + bytes([kind | (CRITICAL if critical else 0)]) + content


def _numbers(algorithm: int, signature: bytes) -> bytes:
    """A signature of the algorithm as the packet has it."""
    if algorithm in RSA:
        return _mpi(int.from_bytes(signature, "big"))
    if algorithm in (DSA, ECDSA):
        return b"".join(map(_mpi, decode_dss_signature(signature)))
    if algorithm == EDDSA:
        half = len(signature) // 2
        return b"".join(
            _mpi(int.from_bytes(part, "big")) for part in (signature[:half], signature[half:])
        )
    if algorithm == ED25519:
        return signature
    raise ValueError(f"no signatures are made with algorithm {algorithm}")


def _mpi(number: int) -> bytes:
    """A number behind its length in bits (RFC 9580, 3.2)."""
    bits = number.bit_length()
    return bits.to_bytes(2, "big") + number.to_bytes((bits + 7) // 8, "big")
