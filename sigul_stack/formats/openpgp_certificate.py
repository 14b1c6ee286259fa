"""OpenPGP certificates, judged as gpg judges them: which part of a key signs, and whether it may.

    certificate = primary key, signatures, {user ID, signatures}, {subkey, signatures}

What a signature says counts only if the primary key made it and it holds: it is verified here, with
`cryptography`. Others' signatures say nothing. The rules are GnuPG's (2.2 and 2.4), so that a key
signs in process with the part that `gpg --local-user FINGERPRINT` would take:

* The newest valid self-signature of a user ID says how the primary key may be used and how long;
  one directly on the key goes before. For a subkey it is the newest valid binding.
* A key that says nothing of its use may do what its algorithm can.
* A revocation holds whenever it was made; one that cannot be checked here counts as one. A primary
  key that is revoked, expired or not bound to any user ID takes its subkeys with it.
* The newest subkey that may sign, is not yet expired and has its secret signs; else the primary.
* A subkey that signs has to say itself that it is of this key ("back signature"): gpg would sign
  without, and then take no such signature.

The key of a designated revoker is not here: what looks like its revocation stops a key. No input or
output; `openpgp_keys` has the packets, for those who list keys and do not judge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from ..errors import KeystoreError
from .keygrip import SigningKey, keygrip
from .openpgp_hashes import SELF_SIGNATURE_HASHES
from .openpgp_keys import DSA, ECDSA, EDDSA, packets
from .openpgp_packets import CRITICAL, MalformedPacket, PacketType, raw_subpackets, subpackets
from .openpgp_public_keys import ED25519, read_public, verify_numbers

_ELGAMAL, _ECDH = 16, 18

# Types of signatures and of their subpackets (RFC 9580, 5.2.1 and 5.2.3.7).
_CERTIFICATIONS: Final = frozenset({0x10, 0x11, 0x12, 0x13})
_UID_REVOKED, _BINDING, _BACK, _DIRECT = 0x30, 0x18, 0x19, 0x1F
_REVOKED, _SUBKEY_REVOKED = 0x20, 0x28
_MD5: Final = 1
_CREATED, _SIG_EXPIRES, _EXPIRES, _REVOKER, _ISSUER = 2, 3, 9, 12, 16
_FLAGS, _EMBEDDED, _FINGERPRINT = 27, 32, 33
#: Subpackets that may be critical: the others are unknown, and such a signature does not count.
_UNDERSTOOD: Final = frozenset(
    {2, 3, 4, 5, 7, 9, 11, 12, 16, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 32, 33}
)

_MAY_CERTIFY, _MAY_SIGN = 0x01, 0x02
#: What keys may do that say nothing of it, by their algorithm: those not here are not known to gpg.
_USES: Final = MappingProxyType(
    {
        1: 0xFF, 3: _MAY_CERTIFY | _MAY_SIGN, _ELGAMAL: 0x0C, DSA: 0x23, _ECDH: 0x0C, ECDSA: 0x23,
        EDDSA: 0x23, ED25519: 0x23,
    }
)  # fmt: skip

#: Most self-signatures that are verified for a certificate; each costs some 0.1 ms.
MAX_SIGNATURES: Final = 1_000
_USER_ATTRIBUTE: Final = 17
_VERSION: Final = 4
_USER_ID_HEAD: Final = 5  # bytes in front of a user ID, where it is digested


class CannotSign(KeystoreError):
    """A key makes no signatures that others would take, or none at all; the cure says what to do.

    It is said of the key, whoever asks; `problem` names it by its fingerprint.
    """


@dataclass(frozen=True, slots=True)
class Part:
    """A primary key or a subkey of version 4, with its `fingerprint` and `keygrip` of 20 bytes.

    `algorithm` is OpenPGP's number, `created` and `expires` seconds since 1970; `expires` is None
    where it never does.
    """

    fingerprint: bytes
    algorithm: int
    created: int
    keygrip: bytes
    public_key: SigningKey
    primary: bool
    expires: int | None


@dataclass(slots=True)
class _Key:
    """A key packet, and what holds of it; `public` is None for keys that check no signatures."""

    body: bytes
    primary: bool
    version: int
    created: int
    algorithm: int
    fingerprint: bytes
    public: SigningKey | None
    curve: str
    bound: bool = False
    revoked: bool = False
    expires: int = 0
    uses: int = 0
    cross_certified: bool = False
    signatures: list[_Signature] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Signature:
    version: int
    kind: int
    algorithm: int
    hash: int
    suffix: bytes  # what is digested behind what the signature is about
    hashed: tuple[tuple[int, bytes], ...]
    unhashed: tuple[tuple[int, bytes], ...]
    understood: bool
    left: bytes
    numbers: bytes

    def first(self, kind: int) -> bytes | None:
        """The first hashed subpacket of a type, which is the one that gpg reads."""
        return next((content for found, content in self.hashed if found == kind), None)

    def seconds(self, kind: int) -> int:
        return int.from_bytes((self.first(kind) or b"")[:4], "big")

    @property
    def created(self) -> int:
        return self.seconds(_CREATED)

    def expired(self, now: int) -> bool:
        expires = self.seconds(_SIG_EXPIRES)
        return bool(expires) and self.created + expires <= now

    def issuers(self) -> Iterator[bytes]:
        for kind, content in (*self.hashed, *self.unhashed):
            if kind == _ISSUER:
                yield content
            elif kind == _FINGERPRINT and content[:1] == b"\4":
                yield content[-8:]

    def uses(self, algorithm: int) -> int:
        """The uses of the key that this is about, by what it says, as far as `algorithm` can."""
        flags = self.first(_FLAGS)
        possible = _USES.get(algorithm, 0)
        return possible if flags is None else int.from_bytes(flags[:1], "big") & possible


@dataclass(slots=True)
class _UserId:
    kind: int
    body: bytes
    signatures: list[_Signature]


class Certificate:
    """A key with its subkeys, and what it says of them as far as that is proven."""

    def __init__(self, primary: _Key, user_ids: Sequence[_UserId], subkeys: Sequence[_Key]) -> None:
        self._primary = primary
        self._user_ids = user_ids
        self._subkeys = subkeys
        self._proven: dict[tuple[int, int], bool] = {}

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the primary key, in capital hexadecimal digits."""
        return self._primary.fingerprint.hex().upper()

    def parts(self) -> list[Part]:
        """The primary key and all subkeys that have a key for signatures, whether they hold."""
        return [_part(key) for key in (self._primary, *self._subkeys) if key.public is not None]

    def signing_part(self, now: float, has_secret: Callable[[Part], bool]) -> Part:
        """The part that signs at `now`, in seconds since 1970.

        `has_secret` says of a part whether its secret key is there. Raises `CannotSign`.
        """
        primary = self._primary
        now = int(now)  # as gpg has it, whose times are of whole seconds
        self._judge(now)
        if primary.version != _VERSION:
            raise self._cannot(f"it is of version {primary.version}", _NEW_KEY)
        if primary.revoked:
            raise self._cannot("it is revoked", "use another key")
        if not primary.bound:
            raise self._cannot(
                "no self-signature of it holds",
                "see what `gpg --check-signatures` says of it; import the key anew",
            )
        if _over(primary.expires, now):
            raise self._cannot(
                f"it has expired{_since(primary.expires)}", "prolong it (change-key-expiration)"
            )
        chosen: _Key | None = None
        why: list[str] = []
        for key in self._subkeys:
            reason = self._reason_against(key, now, has_secret)
            if reason is None:
                if chosen is None or key.created > chosen.created:
                    chosen = key
            elif reason:
                why.append(f"subkey {key.fingerprint.hex().upper()[-16:]} {reason}")
        if chosen is None:
            reason = self._reason_against(primary, now, has_secret)
            if reason is None:
                chosen = primary
            else:
                why.insert(0, f"its primary key {reason or 'may not sign'}")
                raise self._cannot(
                    "; ".join(why[:4]), "add a subkey that may sign, or prolong the one it had"
                )
        if not chosen.primary and not chosen.cross_certified:
            raise self._cannot(
                f"its subkey {chosen.fingerprint.hex().upper()[-16:]} has not signed that it is of"
                " this key, so that nobody would take its signatures",
                "cross-certify it (`gpg --edit-key FINGERPRINT cross-certify save`)",
            )
        if chosen.created > now:
            raise self._cannot(
                f"it was made {chosen.created - now} s from now", "set this machine's clock"
            )
        return _part(chosen)

    def _reason_against(
        self, key: _Key, now: int, has_secret: Callable[[Part], bool]
    ) -> str | None:
        """A reason why a part does not sign; None where it does, "" where it is not meant to."""
        if not key.uses & _MAY_SIGN:
            return ""
        if not key.bound:
            return "is not bound by a signature that holds"
        if key.revoked:
            return "is revoked"
        if _over(key.expires, now):
            return f"has expired{_since(key.expires)}"
        if key.version != _VERSION:
            return f"is of version {key.version}"
        if key.public is None:
            return f"is of algorithm {key.algorithm}, which is not known here, or of its curve"
        if not key.primary and key.created > now:
            return f"was made {key.created - now} s from now"
        if not has_secret(_part(key)):
            return "has no secret key here"
        return None

    def _cannot(self, problem: str, cure: str) -> CannotSign:
        return CannotSign(f"key {self.fingerprint} cannot sign: {problem}", cure)

    def _judge(self, now: int) -> None:
        """Find what holds of the primary key and the subkeys at `now`."""
        primary = self._primary
        primary.bound = primary.revoked = False
        direct = self._newest(primary, b"", primary.signatures, {_DIRECT}, now)
        primary.revoked = any(
            self._revokes(signature, primary, b"")
            for signature in primary.signatures
            if signature.kind == _REVOKED
        )
        self._see_designated_revokers()
        newest: list[_Signature] = []
        for user_id in self._user_ids:
            own = self._newest(
                primary, _certified(user_id), user_id.signatures,
                _CERTIFICATIONS | {_UID_REVOKED}, None,
            )  # fmt: skip
            if own is not None:
                newest.append(own)
        # Of two of one second gpg takes the first user ID's.
        newest.sort(key=lambda signature: signature.created, reverse=True)
        said = [direct] if direct is not None else []
        primary.bound = bool(said or newest)
        # A user ID that is revoked or over still binds the key, and says no more of it.
        newest = [own for own in newest if own.kind != _UID_REVOKED and not own.expired(now)]
        primary.uses = _said_uses(said, primary.algorithm)
        if not said or said[0].first(_FLAGS) is None:
            primary.uses = _said_uses(newest, primary.algorithm)
        # The first that names a time: a later user ID without one does not take it away.
        lasts = next((time for each in (*said, *newest) if (time := each.seconds(_EXPIRES))), 0)
        primary.expires = primary.created + lasts if lasts else 0
        for key in self._subkeys:
            self._judge_subkey(key, now)

    def _judge_subkey(self, key: _Key, now: int) -> None:
        binding = self._newest(key, key.body, key.signatures, {_BINDING}, now)
        key.bound = binding is not None and key.algorithm in _USES
        key.revoked = any(
            self._revokes(signature, key, key.body)
            for signature in key.signatures
            if signature.kind == _SUBKEY_REVOKED
        )
        # What an unbound one may do is asked for no more than to say why it does not sign.
        key.uses = _USES.get(key.algorithm, 0) if binding is None else binding.uses(key.algorithm)
        lasts = 0 if binding is None else binding.seconds(_EXPIRES)
        key.expires = key.created + lasts if lasts else 0
        key.cross_certified = binding is not None and self._is_cross_certified(key, binding)

    def _newest(
        self,
        key: _Key,
        about: bytes,
        signatures: Sequence[_Signature],
        kinds: frozenset[int] | set[int],
        now: int | None,
    ) -> _Signature | None:
        """The newest of these signatures that holds, the last of a second; an expired one does not.

        With `now` None expired ones count: gpg takes those of user IDs.
        """
        found: _Signature | None = None
        for signature in signatures:
            if (
                signature.kind in kinds
                and (found is None or signature.created >= found.created)
                and self._holds(signature, key, about)
                and (now is None or not signature.expired(now))
            ):
                found = signature
        return found

    def _holds(self, signature: _Signature, key: _Key, about: bytes) -> bool:
        """True if the primary key made the signature over itself and `about`; kept, once known."""
        primary = self._primary
        if primary.fingerprint[-8:] not in signature.issuers():
            return False
        name = id(signature), id(key)
        if name not in self._proven:
            if len(self._proven) >= MAX_SIGNATURES:
                raise self._cannot(
                    f"it has more than {MAX_SIGNATURES} self-signatures",
                    "remove old ones (`gpg --edit-key FINGERPRINT minimize save`)",
                )
            if key is not primary:
                about = _hashed_key(about)
            elif signature.version == 3:
                about = about[_USER_ID_HEAD:]  # what is in front of user IDs came with version 4
            content = _hashed_key(primary.body) + about
            self._proven[name] = signature.created >= primary.created and _is_good(
                primary, signature, content
            )
        return self._proven[name]

    def _revokes(self, signature: _Signature, key: _Key, about: bytes) -> bool:
        """True if a revocation holds, or could: one whose digest is not known here counts.

        MD5 does not, as with gpg: anybody can make such a one.
        """
        unknown = signature.hash not in SELF_SIGNATURE_HASHES and signature.hash != _MD5
        if unknown and self._primary.fingerprint[-8:] in signature.issuers():
            return True
        return self._holds(signature, key, about)

    def _see_designated_revokers(self) -> None:
        """Raise `CannotSign` where another key, that may do so, may have revoked this one."""
        primary = self._primary
        revokers = {
            content[-8:]
            for signature in primary.signatures
            if signature.kind == _DIRECT and self._holds(signature, primary, b"")
            for kind, content in signature.hashed
            if kind == _REVOKER
        }
        for signature in primary.signatures:
            if signature.kind == _REVOKED and not revokers.isdisjoint(signature.issuers()):
                raise self._cannot(
                    "it has a revocation by a key that may revoke it",
                    "use another key; where that revocation is not genuine, delete it with gpg",
                )

    def _is_cross_certified(self, key: _Key, binding: _Signature) -> bool:
        newest: _Signature | None = None
        for kind, content in (*binding.hashed, *binding.unhashed):
            if kind == _EMBEDDED:
                signature = _signature(content)
                if (
                    signature is not None
                    and signature.kind == _BACK
                    and (newest is None or signature.created > newest.created)
                ):
                    newest = signature
        content = _hashed_key(self._primary.body) + _hashed_key(key.body)
        return newest is not None and _is_good(key, newest, content)


def read_certificate(data: bytes) -> Certificate:
    """The certificate of the first public key in `data`, packets without armour.

    Anything unknown in it is left out: it counts as not there. Raises `MalformedPacket`.
    """
    primary: _Key | None = None
    subkeys: list[_Key] = []
    user_ids: list[_UserId] = []
    place: list[_Signature] = []  # where signatures go now
    for kind, body in packets(data):
        if kind == PacketType.PUBLIC_KEY:
            if primary is not None:
                break
            primary = _key(body, primary=True)
            place = primary.signatures
        elif primary is None:
            raise MalformedPacket("it does not begin with a public key")
        elif kind == PacketType.PUBLIC_SUBKEY:
            subkeys.append(_key(body, primary=False))
            place = subkeys[-1].signatures
        elif kind in (PacketType.USER_ID, _USER_ATTRIBUTE):
            user_ids.append(_UserId(kind, body, []))
            place = user_ids[-1].signatures
        elif kind == PacketType.SIGNATURE and (signature := _signature(body)) is not None:
            place.append(signature)
    if primary is None:
        raise MalformedPacket("it has no public key")
    return Certificate(primary, user_ids, subkeys)


_NEW_KEY: Final = "sign with a key of version 4, as gpg makes them for RSA, ECDSA and Ed25519"


def _part(key: _Key) -> Part:
    public = key.public
    if public is None:
        raise ValueError("a part that checks no signatures")
    return Part(
        fingerprint=key.fingerprint,
        algorithm=key.algorithm,
        created=key.created,
        keygrip=keygrip(public, key.curve),
        public_key=public,
        primary=key.primary,
        expires=key.expires or None,
    )


def _over(expires: int, now: int) -> bool:
    return 0 < expires < now


def _since(expires: int) -> str:
    from datetime import UTC, datetime

    return f" on {datetime.fromtimestamp(expires, UTC):%Y-%m-%d}" if expires else ""


def _said_uses(signatures: Sequence[_Signature], algorithm: int) -> int:
    """The uses that the first one names that names any, and what primary keys always may."""
    said = next((s.uses(algorithm) for s in signatures if s.first(_FLAGS) is not None), None)
    return (_USES.get(algorithm, 0) if said is None else said) | _MAY_CERTIFY


def _certified(user_id: _UserId) -> bytes:
    mark = b"\xb4" if user_id.kind == PacketType.USER_ID else b"\xd1"
    return mark + len(user_id.body).to_bytes(4, "big") + user_id.body


def _hashed_key(body: bytes) -> bytes:
    return b"\x99" + len(body).to_bytes(2, "big") + body


def _key(body: bytes, *, primary: bool) -> _Key:
    if len(body) < 6 or len(body) > 0xFFFF:
        raise MalformedPacket("a key of it is cut short, or too long")
    version, algorithm = body[0], body[5]
    fingerprint = hashlib.sha1(_hashed_key(body), usedforsecurity=False).digest()
    public, curve = None, ""
    if version == _VERSION:
        with suppress(ValueError, UnsupportedAlgorithm, MalformedPacket):
            public, curve = read_public(algorithm, body[6:])
    created = int.from_bytes(body[1:5], "big")
    return _Key(body, primary, version, created, algorithm, fingerprint, public, curve)


def _signature(body: bytes) -> _Signature | None:
    """A signature of version 4 or 3; None for others and damaged ones, which say nothing."""
    if body[:2] == b"\3\5" and len(body) >= 19:
        # Version 3: u8 3, u8 5, u8 kind, u32 created, key ID, u8 algorithm, u8 hash, … (5.2.2)
        return _Signature(
            version=3,
            kind=body[2],
            algorithm=body[15],
            hash=body[16],
            suffix=body[2:7],
            hashed=((_CREATED, body[3:7]),),
            unhashed=((_ISSUER, body[7:15]),),
            understood=True,
            left=body[17:19],
            numbers=body[19:],
        )
    if body[:1] != b"\4" or len(body) < 10:
        return None
    end = 6 + int.from_bytes(body[4:6], "big")
    unhashed = int.from_bytes(body[end : end + 2], "big")
    left = end + 2 + unhashed
    if len(body) < left + 2:
        return None
    try:
        hashed = tuple(subpackets(body[6:end]))
        others = tuple(subpackets(body[end + 2 : left]))
        critical = {kind & ~CRITICAL for kind, _ in raw_subpackets(body[6:end]) if kind & CRITICAL}
    except MalformedPacket:
        return None
    return _Signature(
        version=4,
        kind=body[1],
        algorithm=body[2],
        hash=body[3],
        suffix=body[:end] + b"\4\xff" + end.to_bytes(4, "big"),
        hashed=hashed,
        unhashed=others,
        understood=critical <= _UNDERSTOOD,
        left=body[left : left + 2],
        numbers=body[left + 2 :],
    )


def _is_good(key: _Key, signature: _Signature, content: bytes) -> bool:
    """True if `key` made the signature over `content`."""
    algorithm = SELF_SIGNATURE_HASHES.get(signature.hash)
    if (
        algorithm is None
        or not signature.understood
        or signature.algorithm != key.algorithm
        or key.public is None
    ):
        return False
    state = hashlib.new(algorithm.name, content + signature.suffix, usedforsecurity=False)
    digest = state.digest()
    if digest[:2] != signature.left:
        return False
    try:
        verify_numbers(key.public, algorithm.name, digest, signature.numbers)
    except (InvalidSignature, MalformedPacket, UnsupportedAlgorithm, ValueError, OverflowError):
        return False
    return True
