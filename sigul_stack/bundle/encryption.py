"""The OpenPGP message around a bundle: by gpg, in an empty home of its own, behind a wall.

The packets are looked at before gpg sees them: encrypted with a passphrase alone, and integrity
protected. gpg checks that protection, and says whether it held.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from ..errors import KeystoreError
from ..formats.openpgp_packets import MalformedPacket, PacketType, split_packet
from ..secret import Secret
from ..system.programs import Finished, memory_file, run, secret_pipe
from ..system.wall import MIB, Wall
from ..tools import GPG
from .contents import BundleError
from .decompression import MAX_TAR

#: Most characters of a bundle as text, and most bytes of its ciphertext.
MAX_TEXT: Final = 2 * MIB
MAX_CIPHERTEXT: Final = 1 * MIB
#: Seconds for gpg.
_SECONDS: Final = 60.0
#: AES-encrypted data with OCB or another mode (RFC 9580, 5.13.2 is ENCRYPTED of version 2; GnuPG's
#: own is of this type).
_AEAD_ENCRYPTED: Final = 20
#: A derivation that is as slow as it can be: 65,011,712 bytes hashed. Given, so that no agent is
#: asked how fast this machine is.
_ROUNDS: Final = 65011712

_BEGIN, _END = b"-----BEGIN PGP MESSAGE-----", b"-----END PGP MESSAGE-----"
#: A header of armour, as `Version: GnuPG v2`.
_HEADER: Final = re.compile(rb"[A-Za-z]+: .*")
_CURE: Final = "make it with: gpg --symmetric --cipher-algo AES256 --armor sigul.tar.xz"


def first_line(passphrase: Secret) -> Secret:
    """The line of a passphrase that counts. Raises `BundleError` where it is empty."""
    line = passphrase.reveal().partition(b"\n")[0].removesuffix(b"\r")
    if not line:
        raise BundleError(
            "the bundle's passphrase is empty", "its first line is what counts: give that"
        )
    return Secret(line)


def encrypt(content: bytes, passphrase: Secret) -> bytes:
    """An armoured message of `content`. Raises `BundleError`, `KeystoreError`, `ToolMissing`."""
    done = _gpg(
        ("--symmetric", "--cipher-algo", "AES256", "--compress-algo", "none", "--armor",
         "--s2k-digest-algo", "SHA256", "--s2k-mode", "3", "--s2k-count", str(_ROUNDS),
         "--no-emit-version"),
        passphrase, content,
    )  # fmt: skip
    if done.returncode:
        raise KeystoreError(f"gpg cannot encrypt the bundle: {done.reason}", "see gpg's words")
    ciphertext(done.stdout)
    return done.stdout


def decrypt(text: bytes, passphrase: Secret) -> bytes:
    """The content of a message. Raises `BundleError`, `KeystoreError`, `ToolMissing`."""
    message = ciphertext(text)
    _check_packets(message)
    with memory_file() as output:
        done = _gpg(("--max-output", str(MAX_TAR), "--decrypt"), passphrase, message, stdout=output)
        words = [line.split()[1:2] for line in done.status.splitlines()]
        said = [word[0] for word in words if word]
        size = os.fstat(output).st_size
        good = said.count("GOODMDC") == said.count("PLAINTEXT") == 1 and "DECRYPTION_OKAY" in said
        if done.returncode or not good or size > MAX_TAR:
            raise _refused(said, size, done)
        return os.pread(output, size, 0)


def _refused(said: Sequence[str], size: int, done: Finished) -> BundleError:
    if "PLAINTEXT" not in said:
        return BundleError(
            "the bundle does not open with this passphrase, or is damaged",
            "give the passphrase that it was encrypted with: its first line counts",
        )
    if size >= MAX_TAR or "max-output" in done.stderr:
        return BundleError(
            f"the bundle's content has more than {MAX_TAR >> 20} MiB",
            "put nothing but .sigul/ into it",
        )
    return BundleError("the bundle is damaged, or not one message", _CURE)


def ciphertext(text: bytes) -> bytes:
    """The bytes of a message that is armoured, base64 or binary. Raises `BundleError`."""
    if len(text) > MAX_TEXT:
        raise BundleError(f"the bundle has more than {MAX_TEXT} characters", _CURE)
    message = text
    if text[:1] < b"\x80":
        try:
            message = base64.b64decode(_body(text), validate=True)
        except binascii.Error:
            raise BundleError("the bundle is neither OpenPGP armour nor base64", _CURE) from None
    if not message:
        raise BundleError("the bundle is empty", _CURE)
    if len(message) > MAX_CIPHERTEXT:
        raise BundleError(f"the bundle has more than {MAX_CIPHERTEXT} bytes", _CURE)
    return message


def _body(text: bytes) -> bytes:
    """The base64 of armour, without its checksum; of other text all but the blanks."""
    lines = [line.strip() for line in text.strip().split(b"\n")]
    if b"-----" in text:
        if lines[0] != _BEGIN or lines[-1] != _END or b"" not in lines:
            raise BundleError("the bundle is not one armoured OpenPGP message", _CURE)
        blank = lines.index(b"")
        if not all(_HEADER.fullmatch(line) for line in lines[1:blank]):
            raise BundleError("the bundle's armour has no empty line behind its head", _CURE)
        lines = lines[blank + 1 : -1]
        if lines and lines[-1].startswith(b"="):
            lines.pop()
    return b"".join(b"".join(lines).split())


def _check_packets(message: bytes) -> None:
    """Take session keys of passphrases and one encrypted packet with integrity protection."""
    kinds = []
    rest: bytes | memoryview = memoryview(message)
    try:
        while rest:
            kind, _, rest = _split(rest)
            kinds.append(kind)
    except MalformedPacket as error:
        raise BundleError(f"the bundle is no OpenPGP message: {error}", _CURE) from None
    *keys, data = kinds
    if data not in (PacketType.ENCRYPTED, _AEAD_ENCRYPTED):
        raise BundleError("the bundle is not encrypted with integrity protection (MDC)", _CURE)
    if not keys or set(keys) != {PacketType.SESSION_KEY} or len(keys) > 16:
        raise BundleError("the bundle is not encrypted with one passphrase alone", _CURE)


def _split(rest: bytes | memoryview) -> tuple[int, bytes, bytes | memoryview]:
    # GnuPG's own type may come in parts, too: it is taken for the other, whose head is the same.
    head = rest[0]
    if head & 0xC0 == 0xC0 and head & 0x3F == _AEAD_ENCRYPTED:
        _, body, rest = split_packet(bytes([0xC0 | PacketType.ENCRYPTED]) + bytes(rest[1:]))
        return _AEAD_ENCRYPTED, body, rest
    return split_packet(rest)


def _gpg(
    arguments: Sequence[str], passphrase: Secret, given: bytes, stdout: int | None = None
) -> Finished:
    with ExitStack() as cleanup:
        home = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sigul-bundle-"))
        secret = cleanup.enter_context(secret_pipe(passphrase))
        return run(
            [
                *("gpg", "--homedir", home, "--no-options", "--batch", "--no-tty"),
                *("--no-autostart", "--no-default-keyring", "--lock-never"),
                *("--no-random-seed-file", "--no-symkey-cache", "--pinentry-mode", "loopback"),
                *("--passphrase-fd", str(secret), *arguments),
            ],
            package=GPG.package,
            time_limit=_SECONDS,
            stdin=given,
            stdout=stdout,
            inherit=[secret],
            status_option="--status-fd",
            # One byte more than is allowed tells that there is more.
            max_file_size=MAX_TAR + 1,
            wall=Wall(write=(Path(home),)),
        )
