"""The envelope: a key's passphrase, locked with a user's own (`encrypted_passphrase`).

It is a binary OpenPGP message (RFC 4880) encrypted symmetrically: a session key packet (SKESK v4)
and encrypted data with an integrity check (SEIPD v1). docs/storage.md, "Keys' passphrases", has
every byte of what is written, which Sigul 1.2 and `gpg --decrypt` open too, and what else is read.
Each envelope is small, so everything is in memory; the limits below bound what a damaged or
malicious one can cost.

Written here, and not left to gpg, because this is the hot path of every small request: gpg's
start-up alone costs more, and OpenPGP libraries that detect SHA-1 collisions are ten times
slower at the S2K, where collisions are of no use to anybody.

Nothing here looks at the two repeated bytes at the start: only the MDC says whether a passphrase
is right, so that a wrong one costs exactly as much as a right one. The one exception is what GnuPG
1.4 and 2.0 wrote for servers of 0.x, CAST5 without an MDC: it is opened, at no less cost than
others, and `renewed` is what takes its place.
"""

from __future__ import annotations

import bz2
import hashlib
import hmac
import itertools
import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from ..errors import KeystoreError, WrongPassphrase
from ..formats.openpgp_packets import MalformedPacket, PacketType, encode_packet, split_packet
from ..secret import Secret

try:  # where cryptography has CAST5 from version 43 on, and CFB from version 47 on
    from cryptography.hazmat.decrepit.ciphers.algorithms import CAST5
except ImportError:
    from cryptography.hazmat.primitives.ciphers.algorithms import CAST5
try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

#: The largest envelope, and the largest secret in one, in bytes. (Secrets of a few layers of
#: bindings have some kilobytes.)
MAX_ENVELOPE = 1 << 20
MAX_SECRET = 1 << 19

_AES_KEY_BYTES = {7: 16, 8: 24, 9: 32}
_AES_256, _CAST5 = 9, 3
#: Bytes of the keys of all ciphers that are read.
_KEY_BYTES = {**_AES_KEY_BYTES, _CAST5: 16}
_HASHES = {2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
_S2K_SIMPLE, _S2K_SALTED, _S2K_ITERATED = 0, 1, 3
_SALT_BYTES = 8
_S2K_HEAD_BYTES = {_S2K_SIMPLE: 2, _S2K_SALTED: 2 + _SALT_BYTES, _S2K_ITERATED: 3 + _SALT_BYTES}
#: The highest count that the one byte for it can say: 65,011,712 bytes.
_CODED_COUNT = 255

_BLOCK, _CAST5_BLOCK = 16, 8
_PREFIX = _BLOCK + 2
_MDC_HEAD = b"\xd3\x14"
_MDC = len(_MDC_HEAD) + hashlib.sha1(usedforsecurity=False).digest_size

#: How much of the repeated salt and passphrase is hashed at a time, in bytes.
_S2K_CHUNK = 1 << 16

#: An envelope of the usual size that nothing opens, to be tried where there is none.
UNOPENABLE = bytes.fromhex("8c0d04090302") + bytes(8) + b"\xff\xd2\x75\x01" + bytes(116)


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
        hashes = [hashlib.new(self.hash_name, usedforsecurity=False)]
        while key_bytes > len(hashes) * hashes[0].digest_size:
            # Each further hash is of the same bytes after one more zero.
            hashes.append(hashlib.new(self.hash_name, bytes(len(hashes)), usedforsecurity=False))

        def work(context: hashlib._Hash) -> None:
            for _ in range(repeats):
                context.update(chunk)
            context.update(chunk[:rest])

        # hashlib lets go of the interpreter while it hashes: two hashes at once on two processors
        # halve what is most of the time of a small request.
        threads = [threading.Thread(target=work, args=(context,)) for context in hashes[1:]]
        for thread in threads:
            thread.start()
        work(hashes[0])
        for thread in threads:
            thread.join()
        return b"".join(context.digest() for context in hashes)[:key_bytes]


def _count(coded: int) -> int:
    return (16 + (coded & 15)) << ((coded >> 4) + 6)


def aes_cfb(key: bytes, iv: bytes = bytes(_BLOCK)) -> Cipher[CFB]:
    """AES in OpenPGP's mode, wherever this version of cryptography has it."""
    return Cipher(algorithms.AES(key), CFB(iv))


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
    skesk = bytes([4, _AES_256, _S2K_ITERATED, 2]) + salt + bytes([_CODED_COUNT])
    key = _StringToKey("sha1", salt, _count(_CODED_COUNT)).derive(
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
        sealed, cipher, string_to_key, encrypted_key = _parse(envelope)
        if cipher == _CAST5:
            return _open_old(sealed, string_to_key, passphrase)
        key = string_to_key.derive(passphrase, _AES_KEY_BYTES[cipher])
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


def _parse(envelope: bytes) -> tuple[bytes, int, _StringToKey, bytes]:
    """Encrypted data, cipher, S2K and encrypted session key (empty: none) of an envelope."""
    if len(envelope) > MAX_ENVELOPE:
        raise MalformedPacket(f"it has more than {MAX_ENVELOPE} bytes")
    tag, skesk, rest = split_packet(envelope)
    if tag != PacketType.SESSION_KEY:
        raise MalformedPacket("it does not start with a symmetrically encrypted session key")
    cipher, string_to_key, encrypted_key = _parse_session_key(skesk)
    old = cipher == _CAST5
    tag, sealed, rest = split_packet(rest)
    if tag != (PacketType.UNPROTECTED if old else PacketType.ENCRYPTED):
        raise MalformedPacket("it has no integrity-protected data after the session key")
    if rest:
        raise MalformedPacket("there is more after the encrypted data")
    if old:
        if encrypted_key or len(sealed) < _CAST5_BLOCK + 2:
            raise MalformedPacket("its encrypted data is too short, or has a key of its own")
        return sealed, cipher, string_to_key, b""
    if sealed[:1] != b"\x01" or len(sealed) < 1 + _PREFIX + _MDC:
        raise MalformedPacket("its encrypted data is of an unknown version or too short")
    return sealed[1:], cipher, string_to_key, encrypted_key


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


def _open_old(sealed: bytes, string_to_key: _StringToKey, passphrase: Secret) -> Secret:
    """The secret in an envelope of GnuPG 1.4 or 2.0: CAST5, no integrity check (RFC 4880, 5.7).

    Two repeated bytes and the form of the content say whether the passphrase is right: one in
    65,536 wrong ones passes the former, and what it decrypts to opens no key.
    """
    # Their S2K counts a thousandth of today's: time must not tell which users have such envelopes.
    _StringToKey("sha1", string_to_key.salt, _count(_CODED_COUNT)).derive(
        passphrase, _AES_KEY_BYTES[_AES_256]
    )
    key = string_to_key.derive(passphrase, _KEY_BYTES[_CAST5])

    def decrypted(iv: bytes, data: bytes) -> bytes:
        decryptor = Cipher(CAST5(key), CFB(iv)).decryptor()
        return decryptor.update(data) + decryptor.finalize()

    prefix = decrypted(bytes(_CAST5_BLOCK), sealed[: _CAST5_BLOCK + 2])
    # The rest begins anew, behind the prefix.
    content = decrypted(sealed[2 : _CAST5_BLOCK + 2], sealed[_CAST5_BLOCK + 2 :])
    wrong = WrongPassphrase("the passphrase does not unlock the key", "check who it belongs to")
    if not hmac.compare_digest(prefix[-4:-2], prefix[-2:]):
        raise wrong
    try:
        return Secret(_content(content))
    except MalformedPacket:
        raise wrong from None


def renewed(envelope: bytes, passphrase: Secret) -> bytes | None:
    """Today's envelope for what is in one of GnuPG 1.4 or 2.0, to take its place; else None.

    The same whoever asks, so that requests that do so at once agree: what is random otherwise comes
    from the secret, which is a key's own passphrase and random itself. Raises as `open_envelope`.
    """
    try:
        if _parse(envelope)[1] != _CAST5:
            return None
    except MalformedPacket:
        return None
    secret = open_envelope(envelope, passphrase)
    pieces = itertools.count()

    def derived(size: int) -> bytes:
        what = b"renewed %d " % next(pieces) + envelope
        return hmac.digest(secret.reveal(), what, "sha512")[:size]

    return seal(secret, passphrase, random=derived)


def _decrypt(sealed: bytes, key: bytes) -> bytes:
    decryptor = aes_cfb(key).decryptor()
    clear = decryptor.update(sealed) + decryptor.finalize()
    covered = clear[: len(clear) - _MDC + len(_MDC_HEAD)]
    digest = hashlib.sha1(covered, usedforsecurity=False).digest()
    if not hmac.compare_digest(clear[-_MDC:], _MDC_HEAD + digest):
        raise WrongPassphrase("the passphrase does not unlock the key", "check who it belongs to")
    return clear[_PREFIX:-_MDC]


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
