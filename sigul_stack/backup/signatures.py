"""Signatures of backups: Ed25519, by the server that made them.

Two things are signed, each with a word of its own before it so that neither passes for the other:

* the manifest, inside the backup. It has the SHA-256 of every file, the site and the time, so
  whoever restores knows what is restored, decrypted or through a pipe as well;
* the file as it lies there, in `FILE.sig` beside it: an encrypted one can be checked by whoever
  cannot open it.

What is signed is what was understood, in one form: JSON with its names in order and no blanks.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import BackupError
from ..system.files import write_whole
from .manifest import Manifest

#: What stands behind a backup's name in that of its signature, and behind a key's in its public's.
SIGNATURE_ENDING: Final = ".sig"
PUBLIC_ENDING: Final = ".pub"
_FORMAT: Final = "sigul-stack-backup-signature"
_VERSION: Final = 1
_MANIFEST: Final = b"sigul-stack backup manifest 1\0"
_FILE: Final = b"sigul-stack backup file 1\0"
#: Largest file with keys or a signature, in bytes.
_MAX_BYTES: Final = 1 << 16
#: Bytes that are hashed at once.
_PIECE: Final = 1 << 20
_PEM: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.S)
_OTHER_KEY: Final = "it was changed, or another site's server made it: restore one that yours made"


@dataclass(frozen=True, slots=True)
class FileSignature:
    """The facts about a backup's file that are signed. `size` is in bytes, `sha256` in hex."""

    created: str
    site: str
    size: int
    sha256: str


class BackupSigner:
    """The private key in the PEM file `path`.

    Raises `BackupError` where it holds none, or everybody on the machine may read it.
    """

    def __init__(self, path: Path) -> None:
        content = _read(path)
        if path.stat().st_mode & stat.S_IROTH:
            raise BackupError(
                f"everybody on this machine may read the key in '{path}', and sign with it",
                f"chmod 0600 '{path}', owned by the server's user; then make another key",
            )
        try:
            key = serialization.load_pem_private_key(content, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise BackupError(
                f"'{path}' holds no private key that signs backups",
                "make one with `sigul-stack backup make-key FILE`",
            )
        self._key = key

    def sign_manifest(self, manifest: Manifest) -> Manifest:
        """The manifest with its signature."""
        signature = self._key.sign(_MANIFEST + _signed(manifest))
        return replace(manifest, signature=base64.b64encode(signature).decode())

    def sign_file(self, stream: BinaryIO, manifest: Manifest) -> bytes:
        """The content of `FILE.sig` for the file in `stream`, which is read to its end."""
        about = asdict(
            FileSignature(manifest.created.isoformat(), manifest.site, *_size_and_digest(stream))
        )
        signature = base64.b64encode(self._key.sign(_FILE + _canonical(about))).decode()
        document = {"format": _FORMAT, "version": _VERSION, **about, "signature": signature}
        return json.dumps(document, indent=1).encode() + b"\n"


class BackupVerifier:
    """The public keys in the PEM file `path`, any of which may have signed.

    Raises `BackupError` where it holds none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        keys = []
        for text in _PEM.findall(_read(path)):
            try:
                keys.append(serialization.load_pem_public_key(text))
            except (ValueError, UnsupportedAlgorithm):
                keys.append(None)  # type: ignore[arg-type]
        self._keys = [key for key in keys if isinstance(key, Ed25519PublicKey)]
        if not keys or len(self._keys) != len(keys):
            raise BackupError(
                f"'{path}' does not hold the public keys of backups and nothing else",
                "name the file that `sigul-stack backup make-key` wrote beside the private key",
            )

    def verify_manifest(self, manifest: Manifest) -> str:
        """Check a backup by its manifest; the ID of the key that signed. Raises `BackupError`."""
        if not manifest.signature:
            raise BackupError(
                "the backup is not signed",
                "use one that is; --unsigned restores this one, if you are sure who made it",
            )
        return self._verify(manifest.signature, _MANIFEST + _signed(manifest), "the backup")

    def verify_file(self, stream: BinaryIO, signature: Path) -> tuple[str, FileSignature]:
        """Check the file in `stream`, which is read to its end, by its `.sig` file.

        The ID of the key that signed, and what it signed. Raises `BackupError`.
        """
        try:
            document = json.loads(_read(signature))
            if (document["format"], document["version"]) != (_FORMAT, _VERSION):
                raise ValueError("another form")
            about = FileSignature(
                datetime.fromisoformat(document["created"]).isoformat(),
                _plain(document["site"]),
                int(document["size"]),
                _plain(document["sha256"]),
            )
            signed = _plain(document["signature"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BackupError(
                f"'{signature}' is no signature of a backup", "use another backup"
            ) from None
        name = self._verify(signed, _FILE + _canonical(asdict(about)), f"'{signature}'")
        if _size_and_digest(stream) != (about.size, about.sha256):
            raise BackupError("the file is not the one that was signed", "use another backup")
        return name, about

    def _verify(self, signature: str, signed: bytes, what: str) -> str:
        try:
            raw = base64.b64decode(signature, validate=True)
        except ValueError:
            raw = b""
        for key in self._keys:
            try:
                key.verify(raw, signed)
            except InvalidSignature:
                continue
            return key_id(key)
        raise BackupError(f"{what} is not signed by a key in '{self._path}'", _OTHER_KEY)


def key_id(key: Ed25519PublicKey) -> str:
    """The ID of a key: the first 16 hexadecimal digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def make_key(path: Path) -> str:
    """Make the private key `path` (mode 0600) and its public key `path.pub`; the key's ID.

    Public keys that are in `path.pub` already stay behind the new one: what the former key signed
    can still be checked. Raises `BackupError` where `path` is there, or one cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    beside = path.with_name(path.name + PUBLIC_ENDING)
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        # The private key last: where it is, so is the other.
        former = _read(beside) if beside.exists() else b""
        write_whole(beside, public + former, replace=True, mode=0o644)
        write_whole(path, private, replace=False)
    except OSError as error:
        raise BackupError(
            f"the key '{path}' cannot be made ({error.strerror})",
            "name a new file in a directory where you may write",
        ) from error
    return key_id(key.public_key())


def _signed(manifest: Manifest) -> bytes:
    return _canonical(replace(manifest, signature="").content())


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(
        document,
        default=lambda value: value.isoformat(),
        sort_keys=True,
        separators=(",", ":"),
    ).encode("ascii")


def _size_and_digest(stream: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while piece := stream.read(_PIECE):
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def _plain(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\x20-\x7e]{0,255}", value):
        raise ValueError("no text")
    return value


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise BackupError(
            f"'{path}' cannot be read ({error.strerror})", "name a file that this user may read"
        ) from error
