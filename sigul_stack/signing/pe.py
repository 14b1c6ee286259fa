"""Authenticode signatures in PE images, by osslsigncode.

osslsigncode reads the key from its encrypted file in the key store, and the passphrase through a
pipe, so that no key in the clear is on disk, in arguments or here. It takes other kinds of files
than PE images too, and truncated images; so an image is checked before it is given to it. It does
not write to a descriptor: its output is for a moment a file with a name, in a directory of its own
that is locked meanwhile. What a killed process left of that, `remove_leftovers` takes away.

Layouts are those of Microsoft's "PE Format".
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import KeystoreError, RequestRefused, Status
from ..keystore.files import opened_directory, storage_errors, try_lock
from ..secret import Secret
from ..system.programs import memory_file, run, secret_pipe
from ..tools import OSSLSIGNCODE
from .descriptors import bytes_left, input_descriptor

#: How much of an image osslsigncode works off in a second on the slowest supported machine.
BYTES_PER_SECOND = 10 << 20

_PREFIX = "sigul-pe-"

_DOS_HEADER = 0x40
_COFF_HEADER = 24  # with the signature before it
_SECTION_HEADER = 40
#: By the optional header's magic number: where its data directories begin.
_DIRECTORIES = {0x10B: 96, 0x20B: 112}
_CERTIFICATE_TABLE = 4  # which of the directories


def sign_image(
    key_file: Path,
    passphrase: Secret,
    certificates: bytes,
    image: BinaryIO,
    *,
    directory: Path | None,
    time_limit: float,
) -> BinaryIO:
    """`image` with a signature by the key in `key_file`, whose certificate is the first of the
    `certificates` (PEM) that go with it.

    A signature that the image has is replaced. `directory` is for the output (None: the system's
    for temporary files); the file that is returned has no name any more. `time_limit` is in
    seconds, and a second for each `BYTES_PER_SECOND` comes on top. Raises `RequestRefused` for
    what is no whole PE image, `ToolMissing`, `KeystoreError`.
    """
    check_image(image)
    with (
        _private_directory(directory) as private,
        memory_file(certificates) as chain,
        secret_pipe(passphrase) as secret,
        input_descriptor(image) as source,
    ):
        output = private / "signed"
        finished = run(
            [
                *("osslsigncode", "sign", "-h", "sha256"),
                *("-certs", f"/proc/self/fd/{chain}", "-key", str(key_file)),
                *("-readpass", f"/proc/self/fd/{secret}"),
                *("-in", f"/proc/self/fd/{source}", "-out", str(output)),
            ],
            package=OSSLSIGNCODE.package,
            time_limit=time_limit + bytes_left(source) / BYTES_PER_SECOND,
            inherit=[chain, secret, source],
        )
        if finished.returncode:
            # Which of the two it complains on depends on its version; the last word is "Failed".
            words = finished.stderr + finished.stdout.decode("utf-8", "replace")
            said = [line.strip() for line in words.splitlines() if line.strip()]
            reason = said[0] if said else f"exit code {finished.returncode}"
            raise _refused(f"osslsigncode cannot sign it: {reason}")
        try:
            return output.open("rb")
        except OSError as error:
            raise KeystoreError(
                f"osslsigncode left no output ({error.strerror}); look for room in {private.parent}"
            ) from error


def remove_leftovers(directory: Path | None) -> None:
    """Remove what processes that were killed in `sign_image` left in `directory`."""
    for path in Path(directory or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if path.lstat().st_uid == os.geteuid():
                with opened_directory(path) as descriptor:
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
                with opened_directory(path) as descriptor:
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


# --- Images --------------------------------------------------------------------------------------


def check_image(image: BinaryIO) -> None:
    """Raise `RequestRefused` unless `image` is a whole PE image with a place for signatures."""
    length = image.seek(0, os.SEEK_END)
    dos = _read(image, 0, _DOS_HEADER)
    if not dos.startswith(b"MZ"):
        raise _refused("it does not begin with MZ")
    (at,) = struct.unpack_from("<I", dos, 0x3C)
    if at < _DOS_HEADER:
        raise _refused("its PE header is inside its DOS header")
    coff = _read(image, at, _COFF_HEADER)
    signature, _machine, sections, optional_size = struct.unpack("<4sHH12xH2x", coff)
    if signature != b"PE\0\0":
        raise _refused("it has no PE header")
    optional = _read(image, at + _COFF_HEADER, optional_size)
    table = at + _COFF_HEADER + optional_size
    headers_size, certificates_at, certificates_size = _optional_header(optional)
    end = length
    if certificates_at or certificates_size:
        end = certificates_at
        if certificates_at + certificates_size != length or certificates_at < headers_size:
            raise _refused("its signatures are not at its end")
    if not table + sections * _SECTION_HEADER <= headers_size <= end:
        raise _refused("the size of its headers cannot be right")
    headers = _read(image, table, sections * _SECTION_HEADER)
    for size, start in struct.iter_unpack("<16xII16x", headers):
        if size and start + size > end:
            raise _refused("a section reaches beyond its end; is it complete?")
    image.seek(0)


def _optional_header(optional: bytes) -> tuple[int, int, int]:
    """Of an optional header: the size of all headers, and place and size of the signatures."""
    magic = int.from_bytes(optional[:2], "little")
    directories = _DIRECTORIES.get(magic)
    if directories is None:
        raise _refused("it is neither PE32 nor PE32+")
    entry = directories + 8 * _CERTIFICATE_TABLE
    if len(optional) < entry + 8:
        raise _refused("its optional header is too short for signatures")
    (count,) = struct.unpack_from("<I", optional, directories - 4)
    if count <= _CERTIFICATE_TABLE:
        raise _refused("its optional header has no place for signatures")
    (headers_size,) = struct.unpack_from("<I", optional, 60)
    place, size = struct.unpack_from("<II", optional, entry)
    return headers_size, place, size


def _read(image: BinaryIO, at: int, size: int) -> bytes:
    image.seek(at)
    data = image.read(size)
    if len(data) != size:
        raise _refused("it ends inside its headers")
    return data


def _refused(reason: str) -> RequestRefused:
    return RequestRefused(Status.UNKNOWN_ERROR, f"this is no PE image that can be signed: {reason}")
