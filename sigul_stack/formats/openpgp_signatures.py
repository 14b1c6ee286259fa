"""OpenPGP signatures as gpg makes them, from a digest's state and a signature over the digest.

A signature packet of version 4 (RFC 4880 and 9580, 5.2.3), its head in the format of old:

    head     = u8 4, u8 kind, u8 key's algorithm, u8 hash algorithm, u16 length, hashed subpackets
    trailer  = 04 FF, u32 length of the head                               (not in the packet)
    packet   = head, u16 length, subpacket issuer's key ID, first 16 bits of the digest, numbers
    digest   = hash(content, head, trailer)
    numbers  = an MPI for RSA, two for DSA, ECDSA and EdDSA; Ed25519 and Ed448: bytes as they are

A signed message is a one-pass packet, which says what to hash, a literal packet with the content,
and the signature. Nothing here has a key or does input or output: who signs is not known here, and
whether a signature is good has to be seen before it is given to anybody.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from ..errors import SigulError
from .openpgp_packets import RSA, PacketType

#: Kinds of signatures (RFC 9580, 5.2.1): over bytes as they are, over text.
BINARY: Final = 0x00
TEXT: Final = 0x01

#: Numbers of digests (RFC 9580, 9.5), by hashlib's names; and the names that gpg writes.
HASHES: Final = MappingProxyType(
    {
        "sha1": 2,
        "ripemd160": 3,
        "sha224": 11,
        "sha256": 8,
        "sha384": 9,
        "sha512": 10,
    }
)

_DSA, _ECDSA, _EDDSA, _ED25519, _ED448 = 17, 19, 22, 27, 28
_TWO_NUMBERS: Final = frozenset({_DSA, _ECDSA})
_NATIVE: Final = MappingProxyType({_ED25519: 64, _ED448: 114})
_ONE_PASS: Final = 4

# Types of subpackets (RFC 9580, 5.2.3.7), and the bit that makes one critical.
_CREATED, _EXPIRES, _ISSUER, _NOTATION, _KEY_SERVER = 2, 3, 16, 20, 24
_POLICY, _SIGNER, _FINGERPRINT = 26, 28, 33
_CRITICAL: Final = 0x80
_READABLE: Final = b"\x80\0\0\0"
#: Most bytes of the hashed or other subpackets, whose length has 16 bits.
_MAX_SUBPACKETS: Final = 0xFFFF
#: Most bytes of content in a literal packet of one part, whose length has 32 bits.
MAX_CONTENT: Final = 0xFFFF_FFFF - 6

_CRC_START, _CRC_POLYNOMIAL = 0xB704CE, 0x1864CFB
_LINE: Final = 48  # bytes in a line of armour, which are 64 characters


class Hash(Protocol):
    """A state of `hashlib`."""

    @property
    def name(self) -> str:
        """Its digest's name."""
        ...

    def copy(self) -> Hash:
        """Another state that is as far."""
        ...

    def update(self, data: bytes, /) -> None:
        """Go on with `data`."""
        ...

    def digest(self) -> bytes:
        """The digest of all so far."""
        ...


@dataclass(frozen=True, slots=True)
class Notation:
    """What a signer notes (RFC 9580, 5.2.3.24); `readable` where its value is UTF-8 text."""

    name: str
    value: bytes
    readable: bool = True
    critical: bool = False


@dataclass(frozen=True, slots=True)
class SignatureParameters:
    """What a signature says besides its digest.

    `algorithm` is the key's (RFC 9580, 9.1), `hash` hashlib's name of the digest, `created` seconds
    since 1970, `fingerprint` the 20 bytes of the part that signs, `expires` seconds after `created`
    or None. Notations are in the packet in their order; gpg has its arguments' in the opposite one.
    """

    kind: int
    algorithm: int
    hash: str
    created: int
    fingerprint: bytes
    notations: tuple[Notation, ...] = ()
    policy_url: str | None = None
    expires: int | None = None
    policy_critical: bool = False
    key_server: str | None = None
    signer: str | None = None

    def head(self) -> bytes:
        """The part of the packet that is digested. Raises `SigulError` for what cannot be said."""
        hashed = b"".join(self._hashed())
        if len(hashed) > _MAX_SUBPACKETS:
            raise SigulError(
                f"notations and URLs of a signature take {len(hashed)} bytes of the"
                f" {_MAX_SUBPACKETS} that it has for them",
                "shorten them in the GnuPG home's gpg.conf",
            )
        number = HASHES.get(self.hash)
        if number is None or len(self.fingerprint) != 20:
            raise SigulError(
                f"no OpenPGP signature of version 4 has the digest {self.hash} and a fingerprint"
                f" of {len(self.fingerprint)} bytes",
                "use sha512, and a key of version 4",
            )
        return (
            bytes((4, self.kind, self.algorithm, number)) + len(hashed).to_bytes(2, "big") + hashed
        )

    def _hashed(self) -> Iterable[bytes]:
        yield _subpacket(_FINGERPRINT, b"\4" + self.fingerprint)
        yield _subpacket(_CREATED, self.created.to_bytes(4, "big"))
        if self.expires:
            yield _subpacket(_EXPIRES | _CRITICAL, self.expires.to_bytes(4, "big"))
        for notation in self.notations:
            name = notation.name.encode()
            lengths = len(name).to_bytes(2, "big") + len(notation.value).to_bytes(2, "big")
            yield _subpacket(
                _NOTATION | (_CRITICAL if notation.critical else 0),
                (_READABLE if notation.readable else bytes(4)) + lengths + name + notation.value,
            )
        if self.policy_url is not None:
            critical = _CRITICAL if self.policy_critical else 0
            yield _subpacket(_POLICY | critical, self.policy_url.encode())
        if self.key_server is not None:
            yield _subpacket(_KEY_SERVER, self.key_server.encode())
        if self.signer is not None:
            yield _subpacket(_SIGNER, self.signer.encode())


def digest(parameters: SignatureParameters, state: Hash) -> bytes:
    """What is to be signed: `state`, a hash of the content that stays as it is, with the rest.

    Raises `SigulError` where `state` is of another digest than `parameters` say.
    """
    if state.name != parameters.hash:
        raise SigulError(f"a state of {state.name} is not one of {parameters.hash}")
    head = parameters.head()
    whole = state.copy()
    whole.update(head + b"\4\xff" + len(head).to_bytes(4, "big"))
    return whole.digest()


def packet(parameters: SignatureParameters, digest: bytes, signature: bytes) -> bytes:
    """The signature packet of `digest` (see `digest`) and the key's `signature` of it.

    `signature` is in a Signer's form: of RSA as long as the modulus, of DSA and ECDSA in DER, of
    EdDSA R and S. Raises `SigulError` where it is in no such form.
    """
    issuer = _subpacket(_ISSUER, parameters.fingerprint[-8:])
    body = (
        parameters.head()
        + len(issuer).to_bytes(2, "big")
        + issuer
        + digest[:2]
        + _numbers(parameters.algorithm, signature)
    )
    return _old_head(PacketType.SIGNATURE, len(body)) + body


def message_head(parameters: SignatureParameters, length: int) -> bytes:
    """What is in front of the content, `length` bytes, of a signed message; behind is `packet`.

    Raises `SigulError` for more than `MAX_CONTENT` bytes.
    """
    if length > MAX_CONTENT:
        raise SigulError(
            f"a signed message holds at most {MAX_CONTENT} bytes, and not {length}",
            "use a detached signature (sign-data)",
        )
    one_pass = bytes((3, parameters.kind, HASHES[parameters.hash], parameters.algorithm))
    one_pass += parameters.fingerprint[-8:] + b"\1"
    literal = b"b\0" + parameters.created.to_bytes(4, "big")
    return (
        _old_head(_ONE_PASS, len(one_pass))
        + one_pass
        + _old_head(PacketType.LITERAL, len(literal) + length)
        + literal
    )


def inline_message(
    parameters: SignatureParameters, content: bytes, digest: bytes, signature: bytes
) -> bytes:
    """A signed message with `content` in it: see `packet` for `digest` and `signature`."""
    head = message_head(parameters, len(content))
    return b"".join((head, content, packet(parameters, digest, signature)))


def armored(title: str, data: bytes, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """`data` in armour as gpg writes it: "BEGIN PGP TITLE", headers as "Comment", a checksum."""
    lines = [f"-----BEGIN PGP {title}-----"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [""]
    text = "\n".join(lines).encode() + b"\n"
    body = b"".join(
        base64.b64encode(data[at : at + _LINE]) + b"\n" for at in range(0, len(data), _LINE)
    )
    checksum = b"=" + base64.b64encode(_crc24(data).to_bytes(3, "big")) + b"\n"
    return text + body + checksum + f"-----END PGP {title}-----\n".encode()


def _crc24(data: bytes) -> int:
    """The checksum of armour (RFC 4880, 6.1); it is for the few bytes of a signature."""
    crc = _CRC_START
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= _CRC_POLYNOMIAL
    return crc


def _numbers(algorithm: int, signature: bytes) -> bytes:
    if algorithm in RSA:
        return _mpi(signature)
    if algorithm in _TWO_NUMBERS:
        return b"".join(map(_mpi, _numbers_in_der(signature)))
    if algorithm == _EDDSA and len(signature) == _NATIVE[_ED25519]:
        return _mpi(signature[:32]) + _mpi(signature[32:])
    if len(signature) == _NATIVE.get(algorithm):
        return signature
    raise SigulError(
        f"a signature of {len(signature)} bytes is none of OpenPGP's algorithm {algorithm}"
    )


def _numbers_in_der(signature: bytes) -> tuple[bytes, bytes]:
    # Not at the top: who reads packets, as a client does, needs no cryptography for it.
    from cryptography.hazmat.primitives.asymmetric.utils import (
        decode_dss_signature,
    )

    try:
        first, second = decode_dss_signature(signature)
    except ValueError:
        raise SigulError("a signature of DSA or ECDSA is not in DER") from None
    return _bytes(first), _bytes(second)


def _bytes(number: int) -> bytes:
    return number.to_bytes(-(-number.bit_length() // 8), "big")


def _mpi(number: bytes) -> bytes:
    """A number as OpenPGP has it: its length in bits, and its bytes without zeros in front."""
    number = number.lstrip(b"\0")
    bits = int.from_bytes(number[:1], "big").bit_length() + 8 * (len(number) - 1)
    return max(bits, 0).to_bytes(2, "big") + number


def _subpacket(kind: int, content: bytes) -> bytes:
    size = len(content) + 1
    if size < 192:
        length = bytes((size,))
    elif size < 8384:
        length = (size - 192 + (192 << 8)).to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(4, "big")
    return length + bytes((kind,)) + content


def _old_head(kind: int, size: int) -> bytes:
    """The head of a packet in the format of old, its length in as few bytes as that takes."""
    code, width = (0, 1) if size < 0x100 else (1, 2) if size < 0x10000 else (2, 4)
    return bytes((0x80 | kind << 2 | code,)) + size.to_bytes(width, "big")
