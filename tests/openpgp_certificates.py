"""OpenPGP keys made packet by packet, so that they can be as no program makes them.

All are of version 4. A `Plan` says what a key looks like; `make` gives what gpg imports, without
protection. `GnuPGHome` says what real gpg then does with it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sigul_stack.formats.keygrip import keygrip
from sigul_stack.formats.openpgp_packets import PacketType, encode_packet

#: When all keys here are looked at, in seconds since 1970; a day.
NOW = 1_750_000_000
DAY = 86_400

Private = (
    rsa.RSAPrivateKey | dsa.DSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
)
_CURVES = {
    "ed25519": bytes.fromhex("092b06010401da470f01"),
    "secp256r1": bytes.fromhex("082a8648ce3d030107"),
    "secp384r1": bytes.fromhex("052b81040022"),
    "secp521r1": bytes.fromhex("052b81040023"),
    "secp256k1": bytes.fromhex("052b8104000a"),
    "brainpoolP256r1": bytes.fromhex("092b2403030208010107"),
    "brainpoolP384r1": bytes.fromhex("092b240303020801010b"),
    "brainpoolP512r1": bytes.fromhex("092b240303020801010d"),
}
DIRECT, POSITIVE, UID_REVOKED, BINDING, BACK, REVOKED, SUBKEY_REVOKED = (
    0x1F, 0x13, 0x30, 0x18, 0x19, 0x20, 0x28,
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """A self-signature: days before `NOW`, and what it says; `expires` in days after the key."""

    ago: float
    kind: int
    flags: int | None = None
    expires: float | None = None
    back: bool = True
    sig_expires: float | None = None
    damaged: bool = False
    critical: bool = False
    version: int = 4
    revoker: bytes = b""
    hash: int = 10


@dataclass(frozen=True)
class SubkeyPlan:
    """A subkey, made `ago` days before `NOW`; whether its secret key is there."""

    ago: float
    said: tuple[Said, ...]
    secret: bool = True


@dataclass(frozen=True)
class Plan:
    """A key: signatures on the primary key itself, on each user ID, and subkeys."""

    ago: float
    user_ids: tuple[tuple[Said, ...], ...]
    direct: tuple[Said, ...] = ()
    subkeys: tuple[SubkeyPlan, ...] = ()
    secret: bool = True


def mpi(number: bytes | int) -> bytes:
    """A number, as OpenPGP has it."""
    if isinstance(number, bytes):
        number = int.from_bytes(number, "big")
    bits = number.bit_length()
    return bits.to_bytes(2, "big") + number.to_bytes((bits + 7) // 8, "big")


@dataclass(frozen=True)
class Key:
    """A key that signs; `created` in seconds since 1970."""

    created: int
    private: Private = field(default_factory=ed25519.Ed25519PrivateKey.generate)

    @property
    def algorithm(self) -> int:
        """OpenPGP's number of its algorithm."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return 1
        if isinstance(self.private, dsa.DSAPrivateKey):
            return 17
        return 19 if isinstance(self.private, ec.EllipticCurvePrivateKey) else 22

    @property
    def _numbers(self) -> tuple[bytes, bytes]:
        """The numbers of the public key, and those of the secret one."""
        private = self.private
        if isinstance(private, rsa.RSAPrivateKey):
            rsas = private.private_numbers()
            p, q = sorted((rsas.p, rsas.q))
            secret = map(mpi, (rsas.d, p, q, pow(p, -1, q)))
            public = mpi(rsas.public_numbers.n) + mpi(rsas.public_numbers.e)
            return public, b"".join(secret)
        if isinstance(private, dsa.DSAPrivateKey):
            dsas = private.private_numbers()
            group = dsas.public_numbers.parameter_numbers
            numbers = (group.p, group.q, group.g, dsas.public_numbers.y)
            return b"".join(map(mpi, numbers)), mpi(dsas.x)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            secret_number = mpi(private.private_numbers().private_value)
            return _CURVES[private.curve.name] + mpi(point), secret_number
        point = b"\x40" + private.public_key().public_bytes_raw()
        return _CURVES["ed25519"] + mpi(point), mpi(private.private_bytes_raw())

    @property
    def body(self) -> bytes:
        """The body of its public packet."""
        head = b"\4" + self.created.to_bytes(4, "big") + bytes((self.algorithm,))
        return head + self._numbers[0]

    @property
    def secret_body(self) -> bytes:
        """The body of its secret packet, without protection."""
        number = self._numbers[1]
        return self.body + b"\0" + number + (sum(number) & 0xFFFF).to_bytes(2, "big")

    @property
    def hashed(self) -> bytes:
        """What of it is digested."""
        return b"\x99" + len(self.body).to_bytes(2, "big") + self.body

    @property
    def fingerprint(self) -> bytes:
        """Its fingerprint."""
        return hashlib.sha1(self.hashed, usedforsecurity=False).digest()

    @property
    def keygrip(self) -> str:
        """Its keygrip, in hexadecimal digits as the names of the agent's files have it."""
        curves = {"secp256r1": "nistp256", "secp384r1": "nistp384", "secp521r1": "nistp521"}
        curve = ""
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            curve = curves.get(self.private.curve.name, self.private.curve.name)
        elif isinstance(self.private, ed25519.Ed25519PrivateKey):
            curve = "ed25519"
        return keygrip(self.private.public_key(), curve).hex().upper()

    def sign(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        """The signature over a digest, as a Signer gives it."""
        prehashed = utils.Prehashed(algorithm)
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(digest, padding.PKCS1v15(), prehashed)
        if isinstance(self.private, dsa.DSAPrivateKey):
            return self.private.sign(digest, prehashed)
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            return self.private.sign(digest, ec.ECDSA(prehashed))
        return self.private.sign(digest)


def _subpacket(kind: int, content: bytes) -> bytes:
    return encode_packet(PacketType.SIGNATURE, bytes((kind,)) + content)[1:]


def signature(key: Key, said: Said, content: bytes, about: Key, back: bytes = b"") -> bytes:
    """The body of a signature by `key` over `content`, which is about the key `about`."""
    created = (NOW - int(said.ago * DAY)).to_bytes(4, "big")
    if said.version == 3:
        suffix = bytes((said.kind,)) + created
        digest = hashlib.sha512(content + suffix).digest()
        head = b"\3\5" + suffix + key.fingerprint[-8:] + bytes((key.algorithm, said.hash))
        return head + digest[:2] + _numbers_of(key, said, digest)
    hashed = _subpacket(33, b"\4" + key.fingerprint)
    hashed += _subpacket(2, created)
    if said.flags is not None:
        hashed += _subpacket(27, bytes((said.flags,)))
    if said.expires is not None:
        hashed += _subpacket(9, max(0, int(said.expires * DAY)).to_bytes(4, "big"))
    if said.sig_expires is not None:
        hashed += _subpacket(3, int(said.sig_expires * DAY).to_bytes(4, "big"))
    if said.kind in (REVOKED, SUBKEY_REVOKED, UID_REVOKED):
        hashed += _subpacket(29, b"\0")
    if said.critical:
        hashed += _subpacket(0x80 | 99, b"?")
    if said.revoker:
        hashed += _subpacket(12, b"\x80\x16" + said.revoker)
    if back:
        hashed += _subpacket(32, back)
    head = bytes((4, said.kind, key.algorithm, said.hash)) + len(hashed).to_bytes(2, "big") + hashed
    digest = hashlib.sha512(content + head + b"\4\xff" + len(head).to_bytes(4, "big")).digest()
    issuer = _subpacket(16, key.fingerprint[-8:])
    unhashed = len(issuer).to_bytes(2, "big") + issuer
    return head + unhashed + digest[:2] + _numbers_of(key, said, digest)


def _numbers_of(key: Key, said: Said, digest: bytes) -> bytes:
    made = key.sign(bytes(64) if said.damaged else digest, hashes.SHA512())
    if key.algorithm == 1:
        return mpi(made)
    if key.algorithm == 22:
        return mpi(made[:32]) + mpi(made[32:])
    return b"".join(map(mpi, utils.decode_dss_signature(made)))


def make(plan: Plan, private: Private | None = None) -> tuple[bytes, Key, list[Key]]:
    """The secret key of a plan, in packets, its primary key (`private`) and its subkeys."""
    created = NOW - int(plan.ago * DAY)
    primary = Key(created) if private is None else Key(created, private)
    parts = [encode_packet(PacketType.SECRET_KEY, primary.secret_body)]

    def add(said: Said, content: bytes, about: Key, back: bytes = b"") -> None:
        body = signature(primary, said, primary.hashed + content, about, back)
        parts.append(encode_packet(PacketType.SIGNATURE, body))

    for said in plan.direct:
        add(said, b"", primary)
    for number, signatures in enumerate(plan.user_ids):
        user_id = b"%d@example.org" % number
        parts.append(encode_packet(PacketType.USER_ID, user_id))
        for said in signatures:
            head = b"\xb4" + len(user_id).to_bytes(4, "big") if said.version > 3 else b""
            add(said, head + user_id, primary)
    subkeys = []
    for planned in plan.subkeys:
        subkey = Key(NOW - int(planned.ago * DAY))
        subkeys.append(subkey)
        parts.append(encode_packet(PacketType.SECRET_SUBKEY, subkey.secret_body))
        for said in planned.said:
            back = b""
            if said.kind == BINDING and said.back:
                content = primary.hashed + subkey.hashed
                back = signature(subkey, Said(said.ago, BACK), content, subkey)
            add(said, subkey.hashed, subkey, back)
    return b"".join(parts), primary, subkeys


class GnuPGHome:
    """A home of gpg's in which keys are tried one after the other, at `NOW`."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        self.path = path
        self._count = 0

    def run(self, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run gpg, at `NOW`, with one key ring for each key tried."""
        ring = self.path / f"ring{self._count}.kbx"
        return subprocess.run(
            [
                *("gpg", "--homedir", str(self.path), "--batch", "--no-tty", "--quiet"),
                *("--no-default-keyring", "--keyring", str(ring), "--status-fd", "2"),
                *("--faked-system-time", f"{NOW}!", "--trust-model", "always", *arguments),
            ],
            input=given,
            capture_output=True,
            check=False,
            timeout=60,
        )

    def take(self, secret_key: bytes, without: list[str]) -> bytes | None:
        """Import a key, and lose the secrets with keygrips `without`; its public key, as kept.

        None where gpg does not take it.
        """
        self._count += 1
        for file in (self.path / "private-keys-v1.d").glob("*.key"):
            file.unlink()
        self.run("--import", given=secret_key)
        for grip in without:
            (self.path / "private-keys-v1.d" / f"{grip}.key").unlink(missing_ok=True)
        return self.run("--export-options", "export-local", "--export").stdout or None

    def signer(self, fingerprint: str) -> str | None:
        """The fingerprint of the part that signs, whose signature gpg takes itself; or None."""
        data, made = self.path / "data", self.path / "data.sig"
        data.write_bytes(b"data")
        outcome = self.run(
            "--yes", "--local-user", fingerprint, "-o", str(made), "--detach-sign", str(data)
        )
        created = [line.split() for line in outcome.stderr.decode().splitlines()]
        chosen = [words[-1] for words in created if words[1:2] == ["SIG_CREATED"]]
        if outcome.returncode or not chosen:
            return None
        checked = self.run("--verify", str(made), str(data))
        good = b"[GNUPG:] GOODSIG" in checked.stderr and checked.returncode == 0
        return chosen[0] if good else None

    def close(self) -> None:
        """End the home's agent."""
        subprocess.run(
            ["gpgconf", "--homedir", str(self.path), "--kill", "all"],
            check=False,
            timeout=60,
            env={**os.environ, "GNUPGHOME": str(self.path)},
        )
