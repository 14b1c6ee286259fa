"""OpenPGP keys as they are exported: what they are made of, without judging their signatures.

Layout (RFC 9580, 5.5 and 10.1; the same in RFC 4880 for version 4):

    key     = primary key packet, signatures, {user ID packet, signatures}, {subkey, signatures}
    packet  = u8 version, u32 created, u8 algorithm, …      (2 and 3: u16 days of validity before …)
    … of 4  = curve: u8 length and OID; else MPIs, the first of them n or p; an MPI: u16 bits, bytes
    … of 5, 6: u32 length before that

Whether a signature is good is gpg's to say: here is what a key claims, so that a person can be told
in time what others will not take. An armoured key is taken as well.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from .openpgp_packets import RSA, MalformedPacket, PacketType, split_packet, subpackets

#: Most packets of a file that are looked at: many times what a key with all its signatures has.
MAX_PACKETS: Final = 20_000

#: Algorithms of public keys (RFC 9580, 9.1) besides RSA's.
DSA: Final = 17
_ECDH: Final = 18
ECDSA: Final = 19
EDDSA: Final = 22  # as LibrePGP and GnuPG have it, with a curve
_WITH_CURVE: Final = frozenset({_ECDH, ECDSA, EDDSA})
#: Algorithms that make signatures: with those that have no curve of their own, Ed25519 and Ed448.
SIGNING: Final = RSA | {DSA, ECDSA, EDDSA, 27, 28}
_FIXED: Final = MappingProxyType({25: "x25519", 26: "x448", 27: "ed25519", 28: "ed448"})

#: Numbers of the MPIs of a public key, behind the curve where it has one.
_MPIS: Final = MappingProxyType(
    {1: 2, 2: 2, 3: 2, 16: 3, DSA: 4, 20: 3, _ECDH: 1, ECDSA: 1, EDDSA: 1}
)

#: Names of curves, as GnuPG has them, by the bytes of their OID (RFC 9580, 9.2).
CURVES: Final = MappingProxyType(
    {
        bytes.fromhex("2a8648ce3d030107"): "nistp256",
        bytes.fromhex("2b81040022"): "nistp384",
        bytes.fromhex("2b81040023"): "nistp521",
        bytes.fromhex("2b8104000a"): "secp256k1",
        bytes.fromhex("2b2403030208010107"): "brainpoolP256r1",
        bytes.fromhex("2b240303020801010b"): "brainpoolP384r1",
        bytes.fromhex("2b240303020801010d"): "brainpoolP512r1",
        bytes.fromhex("2b06010401da470f01"): "ed25519",
        bytes.fromhex("2b6571"): "ed448",
        bytes.fromhex("2b656f"): "x448",
        bytes.fromhex("2b060104019755010501"): "cv25519",
    }
)
_KEYS: Final = frozenset(
    {PacketType.SECRET_KEY, PacketType.PUBLIC_KEY, PacketType.SECRET_SUBKEY,
     PacketType.PUBLIC_SUBKEY}
)  # fmt: skip
_PRIMARY: Final = frozenset({PacketType.SECRET_KEY, PacketType.PUBLIC_KEY})

# Types of signatures (RFC 9580, 5.2.1) and of their subpackets (5.2.3.7).
_CERTIFICATIONS: Final = frozenset({0x10, 0x11, 0x12, 0x13})
_BINDING, _DIRECT, _REVOKED, _SUBKEY_REVOKED = 0x18, 0x1F, 0x20, 0x28
_CREATED, _EXPIRES, _ISSUER, _FLAGS, _FINGERPRINT = 2, 9, 16, 27, 33
_MAY_SIGN: Final = 0x02

_KEY_BLOCK: Final = rb"(?:PRIVATE|PUBLIC) KEY BLOCK"
_END: Final = b"-----END PGP"


@dataclass(slots=True)
class KeyPacket:
    """A primary key or a subkey, and what the signatures that the key made about it say.

    Times in seconds since 1970; `bits` is 0 for a curve, `curve` empty for others and `?` for one
    that is not known here. `hashes` are the numbers of those signatures' digests; `expires` and
    `flags` (of its usage) are what the newest says, None where none does.
    """

    kind: int
    version: int
    created: int
    algorithm: int
    bits: int
    curve: str
    fingerprint: bytes
    hashes: set[int] = field(default_factory=set)
    revoked: bool = False
    expires: int | None = None
    flags: int | None = None
    _newest: int = -1

    @property
    def key_id(self) -> str:
        """Its key ID, as gpg prints it."""
        last = self.fingerprint[-8:] if self.version == 4 else self.fingerprint[:8]
        return last.hex().upper()

    @property
    def primary(self) -> bool:
        """True for a primary key."""
        return self.kind in _PRIMARY

    @property
    def signs(self) -> bool:
        """True where it may make signatures, by its algorithm and what the key says of it."""
        return self.algorithm in SIGNING and (self.flags is None or bool(self.flags & _MAY_SIGN))

    def note(self, signature: _Signature) -> None:
        """Take up what a signature by the key says of this part."""
        self.hashes.add(signature.hash)
        if signature.created >= self._newest:
            self._newest = signature.created
            self.flags = signature.flags
            self.expires = signature.expires and self.created + signature.expires


@dataclass(slots=True)
class ListedKey:
    """A key: its primary key, and its subkeys in their order; how many user IDs it has."""

    parts: list[KeyPacket]
    user_ids: int = 0

    @property
    def primary(self) -> KeyPacket:
        """The primary key."""
        return self.parts[0]

    @property
    def signs(self) -> bool:
        """True where a part of it may make signatures."""
        return any(part.signs for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Signature:
    kind: int
    hash: int
    created: int
    issuer: bytes
    expires: int | None
    flags: int | None


def dearmored(data: bytes, title: bytes = _KEY_BLOCK) -> bytes:
    """The bytes in the armour of the keys in `data`; `data` where it has none.

    `title`, a regular expression, is what the armour says it holds (RFC 9580, 6.2.1). Whether the
    armour is whole is not looked at. Raises `MalformedPacket` where it holds no bytes.
    """
    armor = re.compile(rb"^-----BEGIN PGP " + title + rb"-----[ \t]*\r?$", re.MULTILINE)
    blocks, at = [], 0
    while (begin := armor.search(data, at)) is not None:
        # gpg takes armour without an end, too.
        at = data.find(_END, begin.end())
        at = len(data) if at < 0 else at
        blocks.append(_block(data[begin.end() : at]))
    return b"".join(blocks) if blocks else data


def _block(lines: bytes) -> bytes:
    # Headers, an empty line, the data, perhaps a checksum that begins with "=".
    _headers, _, body = lines.replace(b"\r", b"").partition(b"\n\n")
    text = b"".join(line for line in body.split(b"\n") if not line.startswith(b"="))
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise MalformedPacket("its armour is damaged") from None


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each packet in `data`. Raises `MalformedPacket`."""
    rest: bytes | memoryview = memoryview(data)
    count = 0
    while rest:
        count += 1
        if count > MAX_PACKETS:
            raise MalformedPacket(f"it has more than {MAX_PACKETS} packets")
        kind, body, rest = split_packet(rest)
        yield kind, body


def read_keys(data: bytes) -> list[ListedKey]:
    """The keys in `data`, armoured or not, secret or public. Raises `MalformedPacket`."""
    keys: list[ListedKey] = []
    for kind, body in packets(dearmored(data)):
        if kind in _KEYS:
            part = _key_packet(kind, body)
            if kind in _PRIMARY:
                keys.append(ListedKey([part]))
            elif keys:
                keys[-1].parts.append(part)
        elif kind == PacketType.USER_ID and keys:
            keys[-1].user_ids += 1
        elif kind == PacketType.SIGNATURE and keys and body[:1] == b"\x04":
            _take_up(keys[-1], _signature(body))
    return keys


def _take_up(key: ListedKey, signature: _Signature) -> None:
    """Note a signature that the key itself made; others' say nothing here."""
    if not key.primary.fingerprint.endswith(signature.issuer) or not signature.issuer:
        return
    if signature.kind in _CERTIFICATIONS or signature.kind == _DIRECT:
        key.primary.note(signature)
    elif signature.kind == _REVOKED:
        key.primary.revoked = True
    elif len(key.parts) > 1 and signature.kind == _BINDING:
        key.parts[-1].note(signature)
    elif len(key.parts) > 1 and signature.kind == _SUBKEY_REVOKED:
        key.parts[-1].revoked = True


def _key_packet(kind: int, body: bytes) -> KeyPacket:
    version = _field(body, 0, 1)
    created = _field(body, 1, 4)
    at = 7 if version in (2, 3) else 5
    algorithm = _field(body, at, 1)
    at += 5 if version in (5, 6) else 1
    bits, curve, end = 0, _FIXED.get(algorithm, ""), at
    if algorithm in _WITH_CURVE:
        oid = body[at + 1 : at + 1 + _field(body, at, 1)]
        curve, end = CURVES.get(oid, "?"), at + 1 + len(oid)
    elif not curve:
        bits = _field(body, at, 2)
    public = body if kind in (PacketType.PUBLIC_KEY, PacketType.PUBLIC_SUBKEY) else None
    if public is None and version == 4:
        for _ in range(_MPIS.get(algorithm, 0)):
            end += 2 + (_field(body, end, 2) + 7) // 8
        if algorithm == _ECDH:
            end += 1 + _field(body, end, 1)
        public = body[:end]
    fingerprint = b""
    if version == 4 and public is not None:
        head = b"\x99" + len(public).to_bytes(2, "big")
        fingerprint = hashlib.sha1(head + public, usedforsecurity=False).digest()
    return KeyPacket(kind, version, created, algorithm, bits, curve, fingerprint)


def _signature(body: bytes) -> _Signature:
    hashed = _field(body, 4, 2)
    unhashed_at = 6 + hashed
    unhashed = _field(body, unhashed_at, 2)
    said = dict(subpackets(body[6:unhashed_at]))
    issuer = said.get(_FINGERPRINT, b"")[1:]
    if not issuer:
        more = dict(subpackets(body[unhashed_at + 2 : unhashed_at + 2 + unhashed]))
        issuer = said.get(_ISSUER) or more.get(_FINGERPRINT, b"")[1:] or more.get(_ISSUER, b"")
    flags = said.get(_FLAGS)
    expires = said.get(_EXPIRES)
    return _Signature(
        kind=_field(body, 1, 1),
        hash=_field(body, 3, 1),
        created=int.from_bytes(said.get(_CREATED, b""), "big"),
        issuer=bytes(issuer),
        expires=None if expires is None else int.from_bytes(expires, "big"),
        flags=None if flags is None else int.from_bytes(flags[:1], "big"),
    )


def issuer_of(signature: bytes) -> bytes:
    """Fingerprint or key ID of what made `signature`, a packet of version 4; empty where unsaid.

    Raises `MalformedPacket`.
    """
    _kind, body, _rest = split_packet(signature)
    return _signature(body).issuer


def _field(data: bytes, at: int, size: int) -> int:
    """The number in `size` bytes at `at`. Raises `MalformedPacket` where they are not there."""
    if at + size > len(data):
        raise MalformedPacket("it is cut short")
    return int.from_bytes(data[at : at + size], "big")
