"""Authenticode signatures in PE images, by osslsigncode.

osslsigncode reads the key from its encrypted file in the key store, and the passphrase through a
pipe, so that no key in the clear is on disk, in arguments or here. It takes other kinds of files
than PE images too, and truncated images; so an image is checked before it is given to it. It does
not write to a descriptor: its output is for a moment a file with a name, in a directory of its own
that is locked meanwhile. What a killed process left of that, `remove_leftovers` takes away.

Whatever it made is checked as firmware does, and goes to nobody else: the image's digest is in the
signature, and the signature is good with the certificate's key.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidSignature as WrongSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import Certificate

from ..errors import KeystoreError, ProtocolError, RequestRefused, Status, shortened
from ..formats.authenticode import Authenticode, InvalidSignature, parse_authenticode
from ..formats.pe_head import ImageLayout, InvalidImage, check_headers
from ..keystore.storage import storage_errors
from ..keystore.tokens import TokenReference
from ..secret import Secret
from ..system.files import opened, try_lock
from ..system.programs import memory_file, run, secret_pipe
from ..system.wall import MIB, Reach, Wall, all_but
from ..tools import OSSLSIGNCODE, RAISE_SIGNING_TIMEOUT
from .descriptors import bytes_left, input_descriptor
from .x509 import load_certificate

#: How much of an image osslsigncode works off in a second on the slowest supported machine.
BYTES_PER_SECOND = 10 << 20

#: How much larger than the image its signature and certificates may make the output, in bytes.
MAX_SIGNATURE_BYTES = 1 << 20

#: Address space of osslsigncode besides the image, in bytes.
_MEMORY = 512 * MIB

_PREFIX = "sigul-pe-"
_NO_IMAGE = "this is no PE image that can be signed: "
_COPY_BYTES = 1 << 20
_U32 = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class ImageKey:
    """A key for osslsigncode: arguments, and its wall but for the limits of size.

    `kind` says in messages what kind of key it is; `environment` is of a token's libraries.
    """

    arguments: tuple[str, ...]
    wall: Wall
    kind: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def in_file(cls, path: Path) -> ImageKey:
        """The key in that file, which the passphrase opens."""
        return cls(("-key", str(path)), Wall(read=(path,)))

    @classmethod
    def on_token(cls, reference: TokenReference, hidden: Sequence[Path]) -> ImageKey:
        """The key on a token that `reference` means, which the PIN opens; `hidden` is kept from it.

        Nobody knows what a token's module needs (files of its own, a daemon's socket, a network),
        and osslsigncode parses a hostile image: so it gets all but what a server must not lose.
        """
        paths = tuple(all_but([Path("/proc"), *(path.resolve() for path in hidden)]))
        return cls(
            (
                *("-pkcs11engine", reference.engine, "-pkcs11module", reference.module),
                *("-key", reference.uri),
            ),
            Wall(read=paths, write=paths, reach=Reach.NETWORK, children=True),
            "the token's key: ",
            {**os.environ, "LC_ALL": "C"},
        )


def sign_image(
    key: ImageKey | Path,
    passphrase: Secret,
    certificates: bytes,
    image: BinaryIO,
    *,
    directory: Path | None,
    time_limit: float,
) -> BinaryIO:
    """`image` with a signature by `key` (a path: the key in that file), which `passphrase` opens.

    The first of the `certificates` (PEM) is the key's, the others go with it.

    A signature that the image has is replaced. `directory` is for the output (None: the system's
    for temporary files); the file that is returned has no name any more. `time_limit` is in
    seconds, and a second for each `BYTES_PER_SECOND` comes on top. Raises `RequestRefused` for
    what is no whole PE image, `ToolMissing`, `KeystoreError`.
    """
    check_image(image)
    if isinstance(key, Path):
        key = ImageKey.in_file(key)
    with (
        _private_directory(directory) as private,
        memory_file(certificates) as chain,
        secret_pipe(passphrase) as secret,
        input_descriptor(image) as source,
    ):
        output, size = private / "signed", bytes_left(source)
        finished = run(
            [
                *("osslsigncode", "sign", "-h", "sha256"),
                *("-certs", f"/proc/self/fd/{chain}", *key.arguments),
                *("-readpass", f"/proc/self/fd/{secret}"),
                *("-in", f"/proc/self/fd/{source}", "-out", str(output)),
            ],
            package=OSSLSIGNCODE.package,
            timeout_cure=RAISE_SIGNING_TIMEOUT,
            time_limit=time_limit + size / BYTES_PER_SECOND,
            inherit=[chain, secret, source],
            # It has the image in memory, more than once.
            wall=replace(
                key.wall,
                write=(*key.wall.write, private),
                memory=_MEMORY + 4 * size,
                file_size=size + MAX_SIGNATURE_BYTES,
            ),
            environment=key.environment,
        )
        if finished.returncode:
            # Which of the two it complains on depends on its version; the last word is "Failed".
            words = finished.stderr + finished.stdout.decode("utf-8", "replace")
            said = [line.strip() for line in words.splitlines() if line.strip()]
            reason = said[0] if said else f"exit code {finished.returncode}"
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                shortened(f"{key.kind or _NO_IMAGE}osslsigncode cannot sign it: {reason}", 240),
            )
        try:
            signed = output.open("r+b")
        except OSError as error:
            raise KeystoreError(
                f"osslsigncode left no output ({error.strerror})",
                f"look for room in {private.parent}",
            ) from error
        try:
            check_signed(signed, certificates)
        except BaseException:
            signed.close()
            raise
        return signed


def remove_leftovers(directory: Path | None) -> None:
    """Remove what processes that were killed in `sign_image` left in `directory`."""
    for path in Path(directory or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if path.lstat().st_uid == os.geteuid():
                with opened(path, os.O_DIRECTORY) as descriptor:
                    if try_lock(descriptor):
                        shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody else removed it, or it is not such a directory


@contextmanager
def _private_directory(parent: Path | None) -> Iterator[Path]:
    """A directory that is locked while it is used, and then removed."""
    with storage_errors(Path(parent or tempfile.gettempdir())):
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            try:
                with opened(path, os.O_DIRECTORY) as descriptor:
                    # remove_leftovers may have come between the making and the locking.
                    if not try_lock(descriptor) or not path.exists():
                        continue
                    yield path
                    return
            except FileNotFoundError:
                if path.exists():
                    raise
            finally:
                shutil.rmtree(path, ignore_errors=True)


def check_image(image: BinaryIO) -> None:
    """Raise `RequestRefused` unless `image` is a whole PE image whose signatures will hold."""
    try:
        _layout(image)
    except InvalidImage as error:
        raise RequestRefused.because(error, before=_NO_IMAGE) from None
    image.seek(0)


def _layout(image: BinaryIO) -> ImageLayout:
    def read_at(offset: int, size: int) -> bytes:
        image.seek(offset)
        return image.read(size)

    return check_headers(image.seek(0, os.SEEK_END), read_at)


def check_signed(image: BinaryIO, certificates: bytes) -> None:
    """Check a signed image as its consumers do, with the first of the `certificates` (PEM).

    The length of its signature is put right where that includes the padding behind it. Raises
    `RequestRefused` where it does not hold. `image` is at its start afterwards.
    """
    try:
        layout = _layout(image)
        image.seek(layout.end)
        signature = parse_authenticode(image.read(MAX_SIGNATURE_BYTES))
        if layout.end % 8 or signature.image_digest != _digest(image, layout):
            raise InvalidImage("its signature is not of the digest that firmware makes of it")
        _verify(load_certificate(certificates), signature)
    except ProtocolError as error:
        raise RequestRefused.because(
            error, before="the signed image would not be accepted and is not sent: "
        ) from None
    _set_length(image, layout, signature.length)
    image.seek(0)


def signed_digest(image: BinaryIO) -> bytes:
    """The digest that the signature of a signed image is over (SHA-256), as `check_signed` saw it.

    `image` is at its start afterwards.
    """
    image.seek(_layout(image).end)
    digest = parse_authenticode(image.read(MAX_SIGNATURE_BYTES)).image_digest
    image.seek(0)
    return digest


def _verify(certificate: Certificate, authenticode: Authenticode) -> None:
    signature, signed, digest = authenticode.signature, authenticode.signed, hashes.SHA256()
    try:
        match certificate.public_key():
            case ec.EllipticCurvePublicKey() as key:
                key.verify(signature, signed, ec.ECDSA(digest))
            case rsa.RSAPublicKey() as key:
                key.verify(signature, signed, padding.PKCS1v15(), digest)
            case _:
                raise WrongSignature
    except WrongSignature:
        raise InvalidSignature("its signature is not by the certificate's key") from None


def _digest(image: BinaryIO, layout: ImageLayout) -> bytes:
    """The digest of an image: all bytes but checksum, place of the signatures, and signatures."""
    digest = hashlib.sha256()
    start = 0
    for end, left_out in ((layout.checksum, 4), (layout.directory, 8), (layout.end, 0)):
        image.seek(start)
        while start < end:
            piece = image.read(min(_COPY_BYTES, end - start))
            digest.update(piece)
            start += len(piece)
        start = end + left_out
    return digest.digest()


def _set_length(image: BinaryIO, layout: ImageLayout, length: int) -> None:
    """Write the `length` of the signature, and the checksum that goes with it."""

    def exchange(at: int, value: int) -> int:
        image.seek(at)
        (before,) = _U32.unpack(image.read(_U32.size))
        image.seek(at)
        image.write(_U32.pack(value))
        return int(before)

    before = exchange(layout.end, length)
    size = image.seek(0, os.SEEK_END)
    # The checksum is the sum of all 16-bit words, with carries added again, and the file's size.
    words = exchange(layout.checksum, 0) - size - _words(before) + _words(length)
    exchange(layout.checksum, ((words - 1) % 0xFFFF + 1) + size)


def _words(value: int) -> int:
    return (value & 0xFFFF) + (value >> 16)
