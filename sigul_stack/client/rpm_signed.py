"""A look whether an RPM package is whole and has a signature by one key already.

What a signature header says of itself counts for nothing, for anybody can write a key's id there:
gpg verifies the signature over the main header, with that key and no other; the main header, which
is then known to be genuine, has the digest that the payload must have. A package that cannot be
read, or is not what it should be, is one that is not signed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import SigulError
from ..formats.rpm_head import CorruptRPM, Head
from ..formats.rpm_tags import MainTag, SignatureTag
from ..kojihub import HubRPM
from .output_file import open_successor
from .rpm_packages import Package, RPMOptions, ZeroLengthRPM, nevra_of, read_package_head
from .verify import BadSignature, Verifier, verifier

_PIECE: Final = 1 << 20
#: Digests of a payload, by the numbers that OpenPGP gives them.
_DIGESTS: Final = {8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
#: Where signatures are: those over the main header, and those over header and payload.
_OVER_HEADER: Final = (SignatureTag.RSA_HEADER, SignatureTag.DSA_HEADER)
_OVER_ALL: Final = (SignatureTag.PGP, SignatureTag.GPG)


@contextlib.contextmanager
def signed_rpms(public_key: bytes, options: RPMOptions) -> Iterator[SignedRPMs]:
    """A look for signatures by `public_key` (armoured), for requests with these `options`.

    Raises `SigulError` where the key is none, or gpg is missing.
    """
    with (
        verifier(public_key) as keyring,
        tempfile.TemporaryDirectory(prefix="sigul-resume-") as directory,
    ):
        yield SignedRPMs(keyring, Path(directory), options)


@dataclass(frozen=True, slots=True)
class SignedRPMs:
    """The look; made by `signed_rpms`. From any thread."""

    _keyring: Verifier
    _directory: Path
    _options: RPMOptions

    def is_done(self, package: Package) -> bool:
        """Tell whether a package needs no signing: its target is there, whole and signed.

        Where there is no target yet, and the package itself is signed by the key, a copy of it
        becomes the target; but not where its signature is to be stored in Koji, too. Raises
        `SigulError` where the copy cannot be made, or gpg cannot be run.
        """
        target = package.target
        if target is None:
            return False
        source = None if package.remote is not None else _head_of(package.source)
        if package.remote is None and source is None:
            return False  # a pipe, or no RPM: that shows when it is its turn
        if self._is_signed(target, source, package.remote):
            return True
        if source is None or self._options.store_in_koji or target.exists():
            return False
        if not self._is_signed(package.source, source, None):
            return False
        _copy(package.source, target)
        return True

    def _is_signed(self, path: Path, source: Head | None, remote: HubRPM | None) -> bool:
        """Tell whether the file at `path` is the RPM `source`, or Koji's, signed and whole."""
        try:
            with path.open("rb") as file:
                head = read_package_head(file)
                if source is not None and head.main.raw != source.main.raw:
                    return False
                if remote is not None and not _is_of_koji(file, head, remote):
                    return False
                return self._has_signatures(file, head)
        except (OSError, CorruptRPM, ZeroLengthRPM):
            return False

    def _has_signatures(self, file: BinaryIO, head: Head) -> bool:
        options = self._options
        # That those of the files are there is all that can be seen: their key is not here.
        wants_files = options.file_signing_key is not None and not head.source
        if wants_files and SignatureTag.FILE_SIGNATURES not in head.signature:
            return False
        covers_payload = MainTag.PAYLOAD_DIGEST in head.main
        if covers_payload and not _has_its_payload(file, head):
            return False
        with tempfile.TemporaryDirectory(dir=self._directory) as place:
            signed = Path(place, "signed")
            signed.write_bytes(head.main.raw)
            if not self._any_good(signed, _blobs(head, _OVER_HEADER) + _listed(head)):
                return False
            if covers_payload and not options.v3_signature:
                return True
            file.seek(head.main_offset)
            with signed.open("wb") as copy:
                shutil.copyfileobj(file, copy, _PIECE)
            return self._any_good(signed, _blobs(head, _OVER_ALL))

    def _any_good(self, signed: Path, signatures: Sequence[bytes]) -> bool:
        """Tell whether the key made one of the signatures of the file `signed`."""
        for signature in signatures:
            place = signed.with_name("signature")
            place.write_bytes(signature)
            with contextlib.suppress(BadSignature):
                self._keyring.verify(signed, place)
                return True
        return False


def _head_of(path: Path) -> Head | None:
    """The head of the RPM in a plain file; None where there is none, or no such file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return read_package_head(file)
    except (OSError, CorruptRPM, ZeroLengthRPM):
        return None


def _blobs(head: Head, tags: Sequence[SignatureTag]) -> list[bytes]:
    return [blob for tag in tags if (blob := head.signature.blob(tag)) is not None]


def _listed(head: Head) -> list[bytes]:
    """The signatures over the main header where a newer rpm has them, in base64."""
    found = []
    for text in head.signature.strings(SignatureTag.OPENPGP) or ():
        with contextlib.suppress(binascii.Error, ValueError):
            found.append(base64.b64decode(text, validate=True))
    return found


def _has_its_payload(file: BinaryIO, head: Head) -> bool:
    """Tell whether what lies behind the head is the payload that the main header names."""
    name = _DIGESTS.get(head.main.integer(MainTag.PAYLOAD_DIGEST_ALGORITHM) or 0)
    wanted = head.main.strings(MainTag.PAYLOAD_DIGEST) or []
    if name is None or len(wanted) != 1:
        return False
    file.seek(head.length)
    return _digest(file, name) == wanted[0].lower()


def _is_of_koji(file: BinaryIO, head: Head, remote: HubRPM) -> bool:
    """Tell whether this is the RPM that Koji's hub has, by name and by the hub's own digest."""
    found = nevra_of(head)
    if (found.file_name, found.name) != (remote.nevra.file_name, remote.nevra.name):
        return False
    file.seek(head.main_offset)
    return _digest(file, "md5") == remote.sigmd5.hex()


def _digest(file: BinaryIO, name: str) -> str:
    """The digest of what is left of `file`, in hexadecimal."""
    # The hub has no better digest than MD5, and it is the signature that proves the rest.
    digest = hashlib.new(name, usedforsecurity=name != "md5")
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _copy(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`, whole or not at all. Raises `SigulError`."""
    try:
        with (
            source.open("rb") as file,
            open_successor(source, target, read=os.fstat(file.fileno())) as output,
        ):
            shutil.copyfileobj(file, output, _PIECE)
    except OSError as error:
        raise SigulError(f"'{source}' cannot be copied: {error.strerror or error}") from error
