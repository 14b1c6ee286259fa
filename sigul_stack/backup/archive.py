"""The tar file of a backup: plain ustar, the manifest first, then its files in its order.

Written so that any tar can read it, and read strictly: nothing but plain files with exactly the
names, order and sizes that the manifest gives; no links, devices, directories or extensions. A
reader learns the sizes before any file, and never holds more than one piece in memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import BackupError
from . import manifest as manifests
from .manifest import Manifest, Member, damaged

_BLOCK: Final = tarfile.BLOCKSIZE
_PIECE: Final = 1 << 20
_END: Final = bytes(_BLOCK)
#: Longest filling behind the last file, in bytes: what tar programs add at most.
_MAX_FILLING: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class MemberSource:
    """A file on its way into a backup: what it is of, and its pieces anew at each call."""

    origin: Path
    pieces: Callable[[], Iterator[bytes]]
    member: Member


def describe(file: Path, path: str, mode: int | None = None) -> MemberSource:
    """Describe `file` as the manifest has it, as the member `path`.

    Raises `BackupError` where it is not a plain file, or its name cannot be in a backup.
    """
    if not manifests.is_path(path):
        raise BackupError(
            f"'{file}' cannot be in a backup: its name is too long, too deep or not plain ASCII",
            "move it away",
        )
    if mode is None:
        with _opened(file) as stream:
            mode = os.fstat(stream.fileno()).st_mode
    return describe_pieces(file, partial(_pieces_of, file), path, mode)


def describe_pieces(
    origin: Path, pieces: Callable[[], Iterator[bytes]], path: str, mode: int
) -> MemberSource:
    """Describe what `pieces` gives, which is the same at each call, as the member `path`."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces():
        digest.update(piece)
        size += len(piece)
    member = Member(path, size, digest.hexdigest(), mode & manifests.MODES)
    return MemberSource(origin, pieces, member)


def _pieces_of(file: Path) -> Iterator[bytes]:
    with _opened(file) as stream:
        while piece := stream.read(_PIECE):
            yield piece


def write(stream: BinaryIO, manifest: Manifest, sources: Iterable[MemberSource]) -> None:
    """Write a backup. Raises `BackupError` where a file is not what was described."""
    _write_head(stream, manifests.NAME, len(data := manifest.as_json().encode()), manifest)
    _write_all(stream, data + _filling(len(data)))
    for source in sources:
        member = source.member
        _write_head(stream, member.path, member.size, manifest)
        digest = hashlib.sha256()
        size = 0
        for piece in source.pieces():
            digest.update(piece)
            size += len(piece)
            if size > member.size:
                break
            _write_all(stream, piece)
        if size != member.size or digest.hexdigest() != member.sha256:
            raise BackupError(
                f"'{source.origin}' changed while it was backed up",
                "see who else writes there, and try again",
            )
        _write_all(stream, _filling(size))
    _write_all(stream, _END * 2)


def read_manifest(stream: BinaryIO) -> Manifest:
    """The manifest of the backup in `stream`, which then stands before its files.

    That it is true is not checked. Raises `BackupError`.
    """
    name, size = _read_head(stream)
    if name != manifests.NAME or size > manifests.MAX_BYTES:
        raise _no_backup()
    return manifests.parse(b"".join(_content(stream, size)))


def read_files(stream: BinaryIO, manifest: Manifest) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Each file and its pieces, which have to be taken before the next file.

    Raises `BackupError`, at the latest at the end of a file's pieces, or of all files.
    """
    for member in manifest.members:
        name, size = _read_head(stream)
        if (name, size) != (member.path, member.size):
            raise damaged(f"{name} of {size} bytes is where {member.path} should be")
        yield member, _checked(stream, member)
    filling = _read(stream, 2 * _BLOCK) + stream.read(_MAX_FILLING)
    if filling.strip(b"\0") or stream.read(1):
        raise damaged("there is something behind its last file")


def _checked(stream: BinaryIO, member: Member) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for piece in _content(stream, member.size):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != member.sha256:
        raise damaged(f"{member.path} is not what it was")


def _content(stream: BinaryIO, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = _read(stream, min(left, _PIECE))
        left -= len(piece)
        yield piece
    if _read(stream, len(_filling(size))).strip(b"\0"):
        raise damaged("there is something between its files")


def _filling(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _read_head(stream: BinaryIO) -> tuple[str, int]:
    """Name and size of the next member, which must be a plain file."""
    try:
        head = tarfile.TarInfo.frombuf(_read(stream, _BLOCK), "ascii", "strict")
    except (tarfile.HeaderError, ValueError):
        raise _no_backup() from None
    if head.type != tarfile.REGTYPE:
        raise damaged(f"{head.name!r} in it is not a plain file")
    if not 0 <= head.size <= manifests.MAX_FILE:
        raise damaged(f"{head.name!r} in it has no size that can be")
    return head.name, head.size


def _no_backup() -> BackupError:
    return BackupError(
        "this is no backup, or it is damaged",
        "name a file that `sigul-stack backup create` made"
        " (an encrypted one is decrypted first: gpg --decrypt FILE | sigul-stack backup … -)",
    )


def _write_head(stream: BinaryIO, name: str, size: int, manifest: Manifest) -> None:
    if size > manifests.MAX_FILE:
        raise BackupError(f"{name} has {size} bytes, too many for a backup", "move it away")
    head = tarfile.TarInfo(name)
    head.size, head.mode, head.mtime = size, 0o600, int(manifest.created.timestamp())
    _write_all(stream, head.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))


def _write_all(stream: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def _read(stream: BinaryIO, count: int) -> bytes:
    """Exactly `count` bytes, of a stream that may give them piece by piece."""
    data = b""
    while len(data) < count:
        piece = stream.read(count - len(data))
        if not piece:
            raise damaged("it ends too early")
        data += piece
    return data


@contextmanager
def _opened(file: Path) -> Iterator[BufferedReader]:
    """Open a plain file for reading; never another's by way of a link, never a pipe or device."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BackupError(f"'{file}' is not a plain file", "move it away")
        yield stream
