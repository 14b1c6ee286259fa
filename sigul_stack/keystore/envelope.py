"""The envelope: a key's passphrase, locked with a user's own (`encrypted_passphrase`).

It is a binary OpenPGP message (RFC 4880) encrypted symmetrically: a session key packet (SKESK v4)
and encrypted data with an integrity check (SEIPD v1). docs/storage.md, "Keys' passphrases", has
every byte of what is written, which Sigul 1.2 and `gpg --decrypt` open too, and what else is read.
Each envelope is small, so everything is in memory; the limits below bound what a damaged or
malicious one can cost.

The string-to-key hashes with SHA-256. Sigul 1.2 has SHA-1 there, twice over the same bytes for a
key of 32: as much work for who guesses, and twice the time here. Its envelopes are left as they
are (docs/decisions/0067).

Written here, and not left to gpg, because this is the hot path of every small request: gpg's
start-up alone costs more, and OpenPGP libraries that detect SHA-1 collisions are ten times
slower at the S2K, where collisions are of no use to anybody.

Nothing here looks at the two repeated bytes at the start: only the MDC says whether a passphrase
is right, so that a wrong one costs exactly as much as a right one.

GnuPG 1.4 and 2.0, and so Sigul 0.x, wrote envelopes without an MDC (CAST5, encrypted data of type
9). These open too, once: `is_outdated` tells them, and the server writes them anew.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import hmac
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from ..errors import KeystoreError, WrongPassphrase
from ..formats.openpgp_packets import MalformedPacket, PacketType, encode_packet, split_packet
from ..secret import Secret

try:  # where cryptography has it from version 43 on
    from cryptography.hazmat.decrepit.ciphers.algorithms import CAST5
except ImportError:
    from cryptography.hazmat.primitives.ciphers.algorithms import CAST5
try:  # where cryptography has CFB from version 47 on
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

#: The largest envelope, and the largest secret in one, in bytes. (Secrets of a few layers of
#: bindings have some kilobytes.)
MAX_ENVELOPE = 1 << 20
MAX_SECRET = 1 << 19

_AES_KEY_BYTES = {7: 16, 8: 24, 9: 32}
_CAST5, _AES_256 = 3, 9
#: Bytes of a key, of the ciphers that are read.
_KEY_BYTES = {_CAST5: 16, **_AES_KEY_BYTES}
_SHA1, _SHA256 = 2, 8
_HASHES = {_SHA1: "sha1", _SHA256: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
_S2K_SIMPLE, _S2K_SALTED, _S2K_ITERATED = 0, 1, 3
_SALT_BYTES = 8
_S2K_HEAD_BYTES = {_S2K_SIMPLE: 2, _S2K_SALTED: 2 + _SALT_BYTES, _S2K_ITERATED: 3 + _SALT_BYTES}
#: The highest count that the one byte for it can say: 65,011,712 bytes.
_CODED_COUNT = 255

_BLOCK = 16
_PREFIX = _BLOCK + 2
_MDC_HEAD = b"\xd3\x14"
_MDC = len(_MDC_HEAD) + hashlib.sha1(usedforsecurity=False).digest_size

#: How much of the repeated salt and passphrase is hashed at a time, in bytes.
_S2K_CHUNK = 1 << 16

#: Envelopes of the usual size that nothing opens: in the form that is written, and in that of 1.2.
UNOPENABLE: Final = tuple(
    bytes((0x8C, 13, 4, _AES_256, _S2K_ITERATED, number))
    + bytes(_SALT_BYTES)
    + bytes((_CODED_COUNT, 0xD2, 117, 1))
    + bytes(116)
    for number in (_SHA256, _SHA1)
)


# --- String to key -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _StringToKey:
    """RFC 4880, 3.7: how a passphrase becomes a key. `count` is in bytes, 0 = once."""

    hash_name: str
    salt: bytes
    count: int

    def derive(self, passphrase: Secret, key_bytes: int) -> bytes:
        """The first `key_bytes` bytes of the key that `passphrase` gives."""
        once = self.salt + passphrase.reveal()
        chunk = once * (_S2K_CHUNK // max(len(once), 1) + 1)
        repeats, rest = divmod(max(self.count, len(once)), max(len(chunk), 1))
        key = b""
        zeros = 0
        while len(key) < key_bytes:
            # Each further hash is of the same bytes after one more zero.
            context = hashlib.new(self.hash_name, bytes(zeros), usedforsecurity=False)
            for _ in range(repeats):
                context.update(chunk)
            context.update(chunk[:rest])
            key += context.digest()
            zeros += 1
        return key[:key_bytes]


def _count(coded: int) -> int:
    return (16 + (coded & 15)) << ((coded >> 4) + 6)


def aes_cfb(key: bytes, iv: bytes = bytes(_BLOCK)) -> Cipher[CFB]:
    """AES in OpenPGP's mode, wherever this version of cryptography has it."""
    return Cipher(algorithms.AES(key), CFB(iv))


def cast5_cfb(key: bytes, iv: bytes) -> Cipher[CFB]:
    """CAST5 in OpenPGP's mode, as `aes_cfb`."""
    return Cipher(CAST5(key), CFB(iv))


# --- Writing -----------------------------------------------------------------------------------


def seal(
    secret: Secret, passphrase: Secret, *, random: Callable[[int], bytes] = os.urandom
) -> bytes:
    """The envelope of `secret` that `passphrase` opens.

    `random` gives that many random bytes. Raises `KeystoreError` for an empty passphrase and for
    a secret of more than `MAX_SECRET` bytes.
    """
    if not passphrase:
        raise KeystoreError("an empty passphrase protects nothing", "choose another one")
    if len(secret.reveal()) > MAX_SECRET:
        raise KeystoreError(
            f"the bound passphrase is larger than {MAX_SECRET} bytes", "use fewer binding layers"
        )
    salt = random(_SALT_BYTES)
    skesk = bytes([4, _AES_256, _S2K_ITERATED, _SHA256]) + salt + bytes([_CODED_COUNT])
    key = _StringToKey(_HASHES[_SHA256], salt, _count(_CODED_COUNT)).derive(
        passphrase, _AES_KEY_BYTES[_AES_256]
    )
    start = random(_BLOCK)
    literal = encode_packet(PacketType.LITERAL, b"b\0" + bytes(4) + secret.reveal())
    clear = start + start[-2:] + literal + _MDC_HEAD
    clear += hashlib.sha1(clear, usedforsecurity=False).digest()
    encryptor = aes_cfb(key).encryptor()
    sealed = encryptor.update(clear) + encryptor.finalize()
    # The old header form is what gpg writes for this packet.
    return (
        bytes([0x80 | PacketType.SESSION_KEY << 2, len(skesk)])
        + skesk
        + encode_packet(PacketType.ENCRYPTED, b"\x01" + sealed)
    )


# --- Reading -----------------------------------------------------------------------------------


def open_envelope(envelope: bytes, passphrase: Secret) -> Secret:
    """The secret in `envelope`.

    Raises `WrongPassphrase` if the passphrase does not open it (or its encrypted part is
    damaged, which cannot be told apart), `KeystoreError` if it is no envelope at all.
    """
    try:
        tag, sealed, cipher, string_to_key, encrypted_key = _parse(envelope)
        key = string_to_key.derive(passphrase, _KEY_BYTES[cipher])
        if tag == PacketType.UNPROTECTED:
            return Secret(_decrypt_unprotected(sealed, key))
        if encrypted_key:
            decryptor = aes_cfb(key).decryptor()
            own = decryptor.update(encrypted_key) + decryptor.finalize()
            # A wrong passphrase shows here already, as a cipher that does not go with the
            # length; only the key that it gives then counts, so that time tells nothing.
            key = own[1:] if _AES_KEY_BYTES.get(own[0]) == len(own) - 1 else key
        return Secret(_content(_decrypt(sealed, key)))
    except MalformedPacket as error:
        raise KeystoreError(
            f"an encrypted passphrase in the database is unusable: {error}",
            "grant the user access to the key again",
        ) from None


def try_unopenable(passphrase: Secret, but: bytes | None = None) -> None:
    """Try a passphrase, in vain, on an envelope of each form but that of the envelope `but`.

    For refusals: with what was tried on `but` they take one time, which tells neither whether there
    is an envelope nor in which form.
    """
    for envelope in UNOPENABLE:
        if but is None or _work(but) != _work(envelope):
            with contextlib.suppress(WrongPassphrase):
                open_envelope(envelope, passphrase)


def _work(envelope: bytes) -> tuple[str, int]:
    """The work that opening takes: the hash, and the number of bytes."""
    string_to_key = _parse(envelope)[3]
    return string_to_key.hash_name, string_to_key.count


def wrong_passphrase() -> WrongPassphrase:
    """The error that a passphrase opens no envelope, which says the same where there is none."""
    return WrongPassphrase("the passphrase does not unlock the key", "check who it belongs to")


def is_outdated(envelope: bytes) -> bool:
    """Whether an envelope has no integrity protection, as those of Sigul 0.x."""
    try:
        return _parse(envelope)[0] == PacketType.UNPROTECTED
    except MalformedPacket:
        return False


def _parse(envelope: bytes) -> tuple[int, bytes, int, _StringToKey, bytes]:
    """Type and body of the encrypted data; cipher, S2K and encrypted session key (empty: none)."""
    if len(envelope) > MAX_ENVELOPE:
        raise MalformedPacket(f"it has more than {MAX_ENVELOPE} bytes")
    tag, skesk, rest = split_packet(envelope)
    if tag != PacketType.SESSION_KEY:
        raise MalformedPacket("it does not start with a symmetrically encrypted session key")
    tag, sealed, rest = split_packet(rest)
    if tag not in (PacketType.ENCRYPTED, PacketType.UNPROTECTED):
        raise MalformedPacket("it has no encrypted data after the session key")
    if rest:
        raise MalformedPacket("there is more after the encrypted data")
    session_key = _parse_session_key(skesk)
    # GnuPG left integrity protection out where a cipher's blocks are of 8 bytes, and only there.
    if (tag == PacketType.UNPROTECTED) != (session_key[0] == _CAST5):
        raise MalformedPacket("its integrity protection does not go with its cipher")
    if tag == PacketType.UNPROTECTED:
        if session_key[2]:
            raise MalformedPacket("it has a session key of its own, and no integrity protection")
        return tag, sealed, *session_key
    if sealed[:1] != b"\x01" or len(sealed) < 1 + _PREFIX + _MDC:
        raise MalformedPacket("its encrypted data is of an unknown version or too short")
    return tag, sealed[1:], *session_key


def _parse_session_key(body: bytes) -> tuple[int, _StringToKey, bytes]:
    if len(body) < 4 or body[0] != 4:
        raise MalformedPacket("its session key packet is of an unknown version or too short")
    cipher, mode, hash_number = body[1], body[2], body[3]
    if cipher not in _KEY_BYTES or hash_number not in _HASHES or mode not in _S2K_HEAD_BYTES:
        raise MalformedPacket(
            f"cipher {cipher}, hash {hash_number} or string-to-key {mode} is not supported"
        )
    head = 2 + _S2K_HEAD_BYTES[mode]
    if len(body) < head:
        raise MalformedPacket("its session key packet is too short")
    string_to_key = _StringToKey(
        hash_name=_HASHES[hash_number],
        salt=b"" if mode == _S2K_SIMPLE else body[4 : 4 + _SALT_BYTES],
        count=_count(body[4 + _SALT_BYTES]) if mode == _S2K_ITERATED else 0,
    )
    encrypted_key = body[head:]
    if encrypted_key and len(encrypted_key) - 1 not in _AES_KEY_BYTES.values():
        raise MalformedPacket("its session key has an impossible length")
    return cipher, string_to_key, encrypted_key


def _decrypt(sealed: bytes, key: bytes) -> bytes:
    decryptor = aes_cfb(key).decryptor()
    clear = decryptor.update(sealed) + decryptor.finalize()
    covered = clear[: len(clear) - _MDC + len(_MDC_HEAD)]
    digest = hashlib.sha1(covered, usedforsecurity=False).digest()
    if not hmac.compare_digest(clear[-_MDC:], _MDC_HEAD + digest):
        raise wrong_passphrase()
    return clear[_PREFIX:-_MDC]


def _decrypt_unprotected(sealed: bytes, key: bytes) -> bytes:
    """The content of encrypted data of type 9 (RFC 4880, 5.7 and 13.9).

    That a passphrase is right shows in the repeated bytes, in the form of what follows them, and in
    a content of printable ASCII, as all that Sigul puts into an envelope is.
    """
    block = CAST5.block_size // 8
    start, rest = sealed[: block + 2], sealed[block + 2 :]
    decryptor = cast5_cfb(key, bytes(block)).decryptor()
    clear = decryptor.update(start) + decryptor.finalize()
    content = b""
    # Behind these bytes the mode begins anew, with the last block that was encrypted.
    if len(clear) == block + 2 and hmac.compare_digest(clear[block - 2 : block], clear[block:]):
        decryptor = cast5_cfb(key, start[2:]).decryptor()
        with contextlib.suppress(MalformedPacket):
            content = _content(decryptor.update(rest) + decryptor.finalize())
    if not content or not (content.isascii() and content.decode("ascii").isprintable()):
        raise wrong_passphrase()
    return content


def _content(packets: bytes) -> bytes:
    """The data of the one literal packet, compressed or not. Its integrity is already proven."""
    tag, body, rest = split_packet(packets)
    if tag == PacketType.COMPRESSED and not rest:
        tag, body, rest = split_packet(_decompress(body))
    if tag != PacketType.LITERAL or rest:
        raise MalformedPacket("its content is not one piece of literal data")
    if len(body) < 2 or body[:1] not in (b"b", b"t", b"u") or len(body) < 6 + body[1]:
        raise MalformedPacket("its literal data is of an unknown form or too short")
    return body[6 + body[1] :]


_DECOMPRESSORS: dict[int, Callable[[], zlib._Decompress | bz2.BZ2Decompressor]] = {
    1: lambda: zlib.decompressobj(-zlib.MAX_WBITS),
    2: zlib.decompressobj,
    3: bz2.BZ2Decompressor,
}


def _decompress(body: bytes) -> bytes:
    if not body or body[0] not in _DECOMPRESSORS:
        raise MalformedPacket("its compression is not supported")
    decompressor = _DECOMPRESSORS[body[0]]()
    try:
        data = decompressor.decompress(body[1:], MAX_ENVELOPE)
    except (zlib.error, OSError) as error:
        raise MalformedPacket("its compressed data is damaged") from error
    if not decompressor.eof or decompressor.unused_data:
        raise MalformedPacket(f"its compressed data is cut, too long or over {MAX_ENVELOPE} bytes")
    return data
