"""Authenticode signatures with keys on tokens, by osslsigncode.

It is given the PIN through a pipe. It takes other kinds of files than PE images too, and truncated
images; so an image is checked before. It does not write to a descriptor: its output is for a moment
a file with a name, in a directory of its own that is locked meanwhile. What a killed process left
of that, `remove_leftovers` takes away.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import KeystoreError, RequestRefused, Status, shortened
from ..keystore.storage import storage_errors
from ..keystore.tokens import TokenReference
from ..secret import Secret
from ..system.files import opened, try_lock
from ..system.programs import memory_file, run, secret_pipe
from ..system.wall import MIB, Reach, Wall, all_but
from ..tools import OSSLSIGNCODE, RAISE_SIGNING_TIMEOUT
from .descriptors import bytes_left, input_descriptor
from .pe import MAX_SIGNATURE_BYTES, check_image, check_signed, layout_of

#: How much of an image osslsigncode works off in a second on the slowest supported machine.
BYTES_PER_SECOND = 10 << 20

#: Address space of osslsigncode besides the image, in bytes.
_MEMORY = 512 * MIB

_PREFIX = "sigul-pe-"
_U32 = struct.Struct("<I")


def sign_on_token(
    key: TokenReference,
    pin: Secret,
    certificates: bytes,
    image: BinaryIO,
    *,
    hidden: Sequence[Path],
    directory: Path | None,
    time_limit: float,
) -> BinaryIO:
    """`image` with a signature by `key`, which `pin` opens.

    The first of the `certificates` (PEM) is the key's, the others go with it.

    A signature that the image has is replaced. `directory` is for the output (None: the system's
    for temporary files); the file that is returned has no name any more. `time_limit` is in
    seconds, and a second for each `BYTES_PER_SECOND` comes on top. Nobody knows what a token's
    module needs (files of its own, a daemon's socket, a network), and osslsigncode parses a hostile
    image: so it gets all but the `hidden` paths, which a server must not lose. Raises
    `RequestRefused` for what is no whole PE image, `ToolMissing`, `KeystoreError`.
    """
    check_image(image)
    paths = tuple(all_but([Path("/proc"), *(path.resolve() for path in hidden)]))
    with (
        _private_directory(directory) as private,
        memory_file(certificates) as chain,
        secret_pipe(pin) as secret,
        input_descriptor(image) as source,
    ):
        output, size = private / "signed", bytes_left(source)
        finished = run(
            [
                *("osslsigncode", "sign", "-h", "sha256"),
                *("-certs", f"/proc/self/fd/{chain}"),
                *("-pkcs11engine", key.engine, "-pkcs11module", key.module, "-key", key.uri),
                *("-readpass", f"/proc/self/fd/{secret}"),
                *("-in", f"/proc/self/fd/{source}", "-out", str(output)),
            ],
            package=OSSLSIGNCODE.package,
            timeout_cure=RAISE_SIGNING_TIMEOUT,
            time_limit=time_limit + size / BYTES_PER_SECOND,
            inherit=[chain, secret, source],
            wall=Wall(
                read=paths,
                write=(*paths, private),
                reach=Reach.NETWORK,
                children=True,
                # It has the image in memory, more than once.
                memory=_MEMORY + 4 * size,
                file_size=size + MAX_SIGNATURE_BYTES,
            ),
            # The token's libraries find their configuration through it.
            environment={**os.environ, "LC_ALL": "C"},
        )
        if finished.returncode:
            # Which of the two it complains on depends on its version; the last word is "Failed".
            words = finished.stderr + finished.stdout.decode("utf-8", "replace")
            said = [line.strip() for line in words.splitlines() if line.strip()]
            reason = said[0] if said else f"exit code {finished.returncode}"
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                shortened(f"the token's key: osslsigncode cannot sign it: {reason}", 240),
            )
        try:
            signed = output.open("r+b")
        except OSError as error:
            raise KeystoreError(
                f"osslsigncode left no output ({error.strerror})",
                f"look for room in {private.parent}",
            ) from error
        try:
            _set_length(signed, check_signed(signed, certificates).length)
        except BaseException:
            signed.close()
            raise
        return signed


def remove_leftovers(directory: Path | None) -> None:
    """Remove what processes that were killed in `sign_on_token` left in `directory`."""
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


def _set_length(image: BinaryIO, length: int) -> None:
    """Write the `length` of the signature, and the checksum that goes with it.

    Some versions have the padding behind the signature in that, which not all consumers take.
    """
    layout = layout_of(image)

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
    image.seek(0)


def _words(value: int) -> int:
    return (value & 0xFFFF) + (value >> 16)
