"""The part of an OpenPGP key that signs, chosen as gpg does for `--local-user FINGERPRINT`.

Of the subkeys that may sign, are bound to the key and hold at the time, the newest one whose secret
is there; else the primary key, where it may sign. What a key says of itself counts only with its
own signature (RFC 9580, 5.2.4 and 10.1), which is verified here; others' signatures say nothing.

    hashed for a signature of a key = 0x99 u16 primary body, then what it is about:
        nothing | 0xB4 u32 user ID | 0xD1 u32 attribute | 0x99 u16 subkey body

Keys and signatures of version 4 alone: those of other versions do not count. A part of the key that
is damaged does not harm the others, as with gpg.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from ..errors import SigulError
from .keygrip import SigningKey, keygrip
from .openpgp_keys import CURVES, DSA, ECDSA, EDDSA, packets
from .openpgp_packets import (
    CRITICAL,
    RSA,
    MalformedPacket,
    PacketType,
    raw_subpackets,
    subpackets,
)

_ED25519: Final = 27

#: Curves as `cryptography` has them, by OpenPGP's names.
_ECDSA_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "nistp256": ec.SECP256R1,
    "nistp384": ec.SECP384R1,
    "nistp521": ec.SECP521R1,
    "secp256k1": ec.SECP256K1,
    "brainpoolP256r1": ec.BrainpoolP256R1,
    "brainpoolP384r1": ec.BrainpoolP384R1,
    "brainpoolP512r1": ec.BrainpoolP512R1,
}
#: Hashes of a key's signatures about itself, by OpenPGP's numbers. Not MD5, which gpg takes for no
#: signature; SHA-1 and RIPEMD-160 it takes for these.
_HASHES: Final = {2: "sha1", 3: "ripemd160", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}

# Types of signatures (RFC 9580, 5.2.1), subpackets (5.2.3.7) and flags of usage (5.2.3.29).
_CERTIFICATIONS: Final = frozenset({0x10, 0x11, 0x12, 0x13})
_BINDING, _BACK, _DIRECT = 0x18, 0x19, 0x1F
_REVOKED, _SUBKEY_REVOKED, _CERTIFICATION_REVOKED = 0x20, 0x28, 0x30
_CREATED, _SIGNATURE_EXPIRES, _EXPIRES, _FLAGS, _EMBEDDED = 2, 3, 9, 27, 32
_MAY_SIGN: Final = 0x02
#: Subpackets that are understood where they are critical: those above, and what only informs.
_UNDERSTOOD: Final = frozenset({2, 3, 4, 7, 9, 11, 16, 20, 21, 22, 23, 25, 27, 28, 29, 30, 32, 33})


class CannotSign(SigulError):
    """No part of a key may sign at the time, or its secret is not there."""


@dataclass(frozen=True, slots=True)
class Part:
    """A primary key or subkey of version 4. `created` and `expires` in seconds since 1970.

    `flags` are of its usage, None where the key does not say; `bound`: the key says that it is its
    own (a subkey which may sign has said so, too).
    """

    body: bytes = field(repr=False)
    algorithm: int
    created: int
    public_key: SigningKey | None
    curve: str = ""
    flags: int | None = None
    expires: int | None = None
    revoked: bool = False
    bound: bool = False

    @property
    def fingerprint(self) -> bytes:
        """Its fingerprint, 20 bytes."""
        return hashlib.sha1(_framed(self.body), usedforsecurity=False).digest()

    @property
    def keygrip(self) -> bytes:
        """The name of its secret in GnuPG's agent. For a part with a `public_key`."""
        assert self.public_key is not None  # noqa: S101 - the caller's business
        return keygrip(self.public_key, self.curve)

    def may_sign(self, now: float) -> bool:
        """True where it may sign data at the time `now`, in seconds since 1970."""
        return (
            self.public_key is not None
            and self.bound
            and not self.revoked
            and (self.flags is None or bool(self.flags & _MAY_SIGN))
            and self.created <= now
            and not self.is_expired(now)
        )

    def is_expired(self, now: float) -> bool:
        """True where it has expired at the time `now`, in seconds since 1970."""
        return self.expires is not None and self.expires <= now


@dataclass(frozen=True, slots=True)
class Certificate:
    """A key: its primary key, and its subkeys in their order."""

    primary: Part
    subkeys: tuple[Part, ...]

    def signing_part(self, now: float, has_secret: Callable[[Part], bool]) -> Part:
        """The part that signs at the time `now`, in seconds since 1970. Raises `CannotSign`."""
        primary = self.primary
        if primary.bound and not primary.revoked and not primary.is_expired(now):
            # Of two of the same second gpg takes the first.
            newest = sorted(self.subkeys, key=lambda part: part.created, reverse=True)
            for part in (*newest, primary):
                if part.may_sign(now) and has_secret(part):
                    return part
        raise CannotSign("no part of the key may sign now", "check the key (list-keys, doctor)")


@dataclass(frozen=True, slots=True)
class _Signature:
    kind: int
    hash: int
    algorithm: int
    hashed: bytes
    numbers: bytes
    said: dict[int, bytes]
    embedded: bytes | None

    @property
    def created(self) -> int:
        return int.from_bytes(self.said[_CREATED], "big")

    def holds(self, now: float) -> bool:
        """True where it was made, and has not expired."""
        lasts = int.from_bytes(self.said.get(_SIGNATURE_EXPIRES, b""), "big")
        return self.created <= now and not (lasts and self.created + lasts <= now)


def read_certificate(data: bytes, now: float) -> Certificate:
    """The first key in `data`, packets without armour, as it is at `now` (seconds since 1970).

    Raises `MalformedPacket`.
    """
    groups = _groups(data)
    kind, body, _signatures = groups[0]
    if kind != PacketType.PUBLIC_KEY:
        raise MalformedPacket("it does not begin with a public key")
    primary = _part(body)
    subkeys = []
    about_primary: list[_Signature] = []
    revoked = False
    for kind, body, signatures in groups:
        good = [it for it in signatures if _is_by(primary, it, _about(kind, body, primary))]
        if kind == PacketType.PUBLIC_SUBKEY:
            subkeys.append(_bind(primary, _part(body), good, now))
            continue
        revoked = revoked or any(it.kind == _REVOKED for it in good)
        newest = _newest(good, {*_CERTIFICATIONS, _DIRECT, _CERTIFICATION_REVOKED}, now)
        if newest is not None and newest.kind != _CERTIFICATION_REVOKED:
            about_primary.append(newest)
    said = max(about_primary, key=lambda it: it.created, default=None)
    flags = next((it.said[_FLAGS] for it in _by_age(about_primary) if _FLAGS in it.said), None)
    whole = _with(primary, said, flags=flags, revoked=revoked)
    return Certificate(whole, tuple(subkeys))


def _by_age(signatures: list[_Signature]) -> list[_Signature]:
    """Signatures with the newest first, one about the key itself before those about user IDs."""
    return sorted(signatures, key=lambda it: (it.kind == _DIRECT, it.created), reverse=True)


def _with(part: Part, said: _Signature | None, *, flags: bytes | None, revoked: bool) -> Part:
    """`part` as the signature `said` has it, which is the key's own; None: there is none."""
    lasts = 0 if said is None else int.from_bytes(said.said.get(_EXPIRES, b""), "big")
    return Part(
        part.body,
        part.algorithm,
        part.created,
        part.public_key,
        part.curve,
        None if flags is None else int.from_bytes(flags[:1], "big"),
        part.created + lasts if lasts else None,
        revoked,
        said is not None,
    )


def _bind(primary: Part, part: Part, good: list[_Signature], now: float) -> Part:
    """`part` as the newest of the `good` signatures about it has it."""
    said = _newest(good, {_BINDING}, now)
    flags = None if said is None else said.said.get(_FLAGS)
    revoked = any(it.kind == _SUBKEY_REVOKED for it in good)
    if said is not None and (flags is None or (flags[:1] and flags[0] & _MAY_SIGN)):
        # Without its own word anybody could take another's key for a subkey.
        back = None if said.embedded is None else _signature(said.embedded)
        about = _framed(primary.body) + _framed(part.body)
        if back is None or back.kind != _BACK or not _is_by(part, back, about):
            flags = bytes([(flags or b"\0")[0] & ~_MAY_SIGN])
    return _with(part, said, flags=flags, revoked=revoked)


def _newest(signatures: list[_Signature], kinds: set[int], now: float) -> _Signature | None:
    there = [it for it in signatures if it.kind in kinds and it.holds(now)]
    return max(there, key=lambda it: it.created, default=None)


def _groups(data: bytes) -> list[tuple[int, bytes, list[_Signature]]]:
    """Each packet of the first key that signatures are about, with those that follow it."""
    groups: list[tuple[int, bytes, list[_Signature]]] = []
    for kind, body in packets(data):
        if kind == PacketType.SIGNATURE and groups:
            if (signature := _signature(body)) is not None:
                groups[-1][2].append(signature)
        elif kind == PacketType.PUBLIC_KEY and groups:
            break
        elif kind in _ABOUT or kind == PacketType.PUBLIC_KEY:
            groups.append((kind, body, []))
    if not groups:
        raise MalformedPacket("there is no key in it")
    return groups


_USER_ATTRIBUTE: Final = 17
_ABOUT: Final = {
    PacketType.USER_ID: b"\xb4",
    _USER_ATTRIBUTE: b"\xd1",
    PacketType.PUBLIC_SUBKEY: b"",
}


def _about(kind: int, body: bytes, primary: Part) -> bytes:
    """The content of a signature of the key about the packet."""
    whole = _framed(primary.body)
    if kind == PacketType.PUBLIC_KEY:
        return whole
    if kind == PacketType.PUBLIC_SUBKEY:
        return whole + _framed(body)
    return whole + _ABOUT[kind] + len(body).to_bytes(4, "big") + body


def _framed(body: bytes) -> bytes:
    return b"\x99" + len(body).to_bytes(2, "big") + body


def _signature(body: bytes) -> _Signature | None:
    """A signature of version 4; None of another one, or one that is damaged or says too much."""
    if body[:1] != b"\x04":
        return None
    try:
        end = 6 + int.from_bytes(body[4:6], "big")
        hashed = body[:end]
        said = dict(_understood(body[6:end]))
        unhashed_end = end + 2 + int.from_bytes(body[end : end + 2], "big")
        unhashed = dict(subpackets(body[end + 2 : unhashed_end]))
    except (MalformedPacket, ValueError):
        return None
    if len(said.get(_CREATED, b"")) != 4 or len(body) < unhashed_end + 2:
        return None
    # A back signature proves itself, wherever it stands.
    embedded = said.get(_EMBEDDED) or unhashed.get(_EMBEDDED)
    return _Signature(body[1], body[3], body[2], hashed, body[unhashed_end + 2 :], said, embedded)


def _understood(area: bytes) -> Iterator[tuple[int, bytes]]:
    """The subpackets; raises ValueError for one that is critical and not understood."""
    for kind, content in raw_subpackets(area):
        if kind & CRITICAL and kind & ~CRITICAL not in _UNDERSTOOD:
            raise ValueError
        yield kind & ~CRITICAL, content


def _is_by(part: Part, signature: _Signature, content: bytes) -> bool:
    """True where `signature` over `content` is by that part."""
    name = _HASHES.get(signature.hash)
    if name is None or part.public_key is None or signature.algorithm != part.algorithm:
        return False
    trailer = b"\x04\xff" + len(signature.hashed).to_bytes(4, "big")
    try:
        digest = hashlib.new(name, content + signature.hashed + trailer).digest()
        verify(part.public_key, name, digest, _plain(part, signature.numbers))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, MalformedPacket):
        return False
    return True


def verify(key: SigningKey, hash_name: str, digest: bytes, signature: bytes) -> None:
    """Verify a signature over a digest, in the form of `signing.signer`.

    Raises InvalidSignature, and UnsupportedAlgorithm where the cryptographic library lacks it.
    """
    match key:
        case ed25519.Ed25519PublicKey():
            key.verify(signature, digest)
            return
        case rsa.RSAPublicKey():
            if hash_name == "ripemd160":
                raise UnsupportedAlgorithm(hash_name)
            key.verify(signature, digest, padding.PKCS1v15(), Prehashed(_ALGORITHMS[hash_name]))
            return
        case dsa.DSAPublicKey():
            key.verify(signature, digest, Prehashed(_sized(digest)))
        case ec.EllipticCurvePublicKey():
            key.verify(signature, digest, ec.ECDSA(Prehashed(_sized(digest))))


_ALGORITHMS: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - of a key's signatures about itself
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def _sized(digest: bytes) -> hashes.HashAlgorithm:
    """A hash of the digest's size: which one it is does not matter to DSA and ECDSA."""
    return next(it for it in _ALGORITHMS.values() if it.digest_size == len(digest))


def _plain(part: Part, numbers: bytes) -> bytes:
    """A packet's numbers as the signature that a key of that kind makes."""
    if part.algorithm == _ED25519:
        return numbers[:64]
    values = []
    while numbers:
        size = (int.from_bytes(numbers[:2], "big") + 7) // 8
        if len(numbers) < 2 + size:
            raise MalformedPacket("a number is cut short")
        values.append(int.from_bytes(numbers[2 : 2 + size], "big"))
        numbers = numbers[2 + size :]
    if isinstance(part.public_key, rsa.RSAPublicKey):
        (value,) = values
        return value.to_bytes((part.public_key.key_size + 7) // 8, "big")
    r, s = values
    if isinstance(part.public_key, ed25519.Ed25519PublicKey):
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return encode_dss_signature(r, s)


def _part(body: bytes) -> Part:
    """A key packet; without a `public_key` where it is of no kind that signs here."""
    created = int.from_bytes(body[1:5], "big")
    algorithm = body[5] if body[:1] == b"\x04" and len(body) > 6 else 0
    try:
        key, curve = _public_key(algorithm, body[6:])
    except (ValueError, IndexError, UnsupportedAlgorithm):
        key, curve = None, ""
    return Part(body, algorithm, created, key, curve)


def _public_key(algorithm: int, numbers: bytes) -> tuple[SigningKey | None, str]:
    """The key in a packet, and the name of its curve. Raises ValueError, IndexError."""
    if algorithm in RSA:
        n, e = _numbers(numbers, 2)
        return rsa.RSAPublicNumbers(e, n).public_key(), ""
    if algorithm == DSA:
        p, q, g, y = _numbers(numbers, 4)
        return dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g)).public_key(), ""
    if algorithm == _ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(numbers[:32]), "ed25519"
    if algorithm not in (ECDSA, EDDSA):
        return None, ""
    curve = CURVES.get(numbers[1 : 1 + numbers[0]], "")
    (point,) = _numbers(numbers[1 + numbers[0] :], 1)
    raw = point.to_bytes((point.bit_length() + 7) // 8, "big")
    if algorithm == EDDSA:
        if curve != "ed25519" or raw[:1] != b"\x40":
            return None, ""
        return ed25519.Ed25519PublicKey.from_public_bytes(raw[1:]), curve
    named = _ECDSA_CURVES.get(curve)
    if named is None:
        return None, ""
    return ec.EllipticCurvePublicKey.from_encoded_point(named(), raw), curve


def _numbers(data: bytes, count: int) -> list[int]:
    values = []
    for _ in range(count):
        size = (int.from_bytes(data[:2], "big") + 7) // 8
        if len(data) < 2 + size or size == 0:
            raise ValueError
        values.append(int.from_bytes(data[2 : 2 + size], "big"))
        data = data[2 + size :]
    return values
