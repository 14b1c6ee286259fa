"""A log's entries as a tar stream, to a copy of it on another machine, and taken there.

    key.pub                  the public key, one line
    checkpoint               the signed note
    tile/entries/N           each bundle from some number on, in order (c2sp.org/tlog-tiles)
    tile/entries/N.p/W       the last one, where it is not full

It is plain ustar. Hashes of nodes do not travel: who receives computes them from the entries, so
that a copy has no tile which is not of its entries. Nothing of a stream is in the copy before all
of it has given the root that the log signed, and what is read is bounded by what that signed
checkpoint says. A name in the stream is compared with the one that is due, never used as a path.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import SigulError, quoted
from ..formats.merkle_tree import (
    MAX_ENTRY_BYTES,
    TILE_WIDTH,
    NotProven,
    bundle_path,
    encode_bundle,
    number_in,
)
from ..formats.signed_note import MAX_NOTE_BYTES, Note, PublicKey, open_checkpoint
from ..system.files import locked
from .log_files import CHECKPOINT, PUBLIC_KEY, make_directories, read_public_key
from .log_reader import LogReader
from .tile_copy import copy_log

_BLOCK: Final = tarfile.BLOCKSIZE
_MAX_BUNDLE: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
_MAX_KEY: Final = 1024
#: Seconds to wait for another process that receives into the same copy.
_LOCK_SECONDS: Final = 10.0
_DRAFT: Final = ".receiving-"
_BUNDLES: Final = "tile/entries/"


# ------------------------------------------------------------------------------------------- send


def send(reader: LogReader, key: PublicKey, stream: BinaryIO, start: int = 0) -> None:
    """Write the log to `stream`, from the bundle that leaf `start` is in on.

    Raises `SigulError`, also where the log has no leaf `start` yet, and OSError of the stream.
    """
    size = reader.size
    if start > size:
        raise SigulError(
            f"the copy has {start} leaves, and the log {size}: it has lost some, or this is"
            " another log",
            "see docs/audit.md, Restoring",
        )
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, PUBLIC_KEY, f"{key.encode()}\n".encode())
        _add(tar, CHECKPOINT, reader.checkpoint.encode().encode())
        for number in range(start // TILE_WIDTH, -(-size // TILE_WIDTH)):
            first = number * TILE_WIDTH
            entries = list(reader.entries(first, min(first + TILE_WIDTH, size)))
            _add(tar, bundle_path(number, len(entries)), encode_bundle(entries))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


# ---------------------------------------------------------------------------------------- receive


@dataclass(frozen=True, slots=True)
class Received:
    """A copy's sizes before and after, in leaves; and whether its key was taken on trust."""

    old_size: int
    size: int
    key: PublicKey
    on_trust: bool


def receive(stream: BinaryIO, directory: Path, key: PublicKey | None = None) -> Received:
    """Bring the copy in `directory`, which is made if need be, to the state in `stream`.

    `key` is the log's; where it is None, the copy's own counts, and for a first copy that of the
    stream. Raises `SigulError`; the copy is then as it was.
    """
    try:
        make_directories(directory)
        error = SigulError(f"another process receives into '{directory}'", "wait for its end")
        with locked(directory, _LOCK_SECONDS, error):
            for path in directory.glob(f"{_DRAFT}*"):  # of processes that were killed
                shutil.rmtree(path, ignore_errors=True)
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=directory))
            try:
                return _receive(_Members(stream), draft, directory, key)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise SigulError(
            f"the copy in '{directory}' cannot be written: {error.strerror or error}",
            "make room there, or let this user write; it goes on where it was",
        ) from error


def _receive(members: _Members, draft: Path, directory: Path, key: PublicKey | None) -> Received:
    size = copy_size(directory)
    pinned = key or read_public_key(directory)
    found = PublicKey.parse(members.take(PUBLIC_KEY, _MAX_KEY).decode("utf-8", "replace"))
    if pinned is not None and found != pinned:
        raise NotProven(
            f"the stream is of the log {quoted(found.name, 120)} with the key {found.id.hex()}, and"
            f" {quoted(pinned.name, 120)} with the key {pinned.id.hex()} is due",
            "receive another log into another directory",
        )
    note = Note.parse(members.take(CHECKPOINT, MAX_NOTE_BYTES).decode("utf-8", "replace"))
    head = open_checkpoint(note, found)
    if head.size < size:
        raise NotProven(
            f"the log has shrunk: it has {head.size} leaves, and this copy {size}",
            "keep the copy, and ask whoever runs the server: docs/audit.md, Restoring",
        )
    _put(draft, CHECKPOINT, note.encode().encode())
    for number in range(size // TILE_WIDTH, -(-head.size // TILE_WIDTH)):
        width = min(TILE_WIDTH, head.size - number * TILE_WIDTH)
        _put(draft, bundle_path(number, width), members.take_bundle(number, width))
    copy_log(LogReader.open(draft), directory, key=found)
    return Received(size, head.size, found, on_trust=pinned is None)


def copy_size(directory: Path) -> int:
    """The number of leaves of a copy; 0 where there is none yet. Raises `SigulError`."""
    if (directory / CHECKPOINT).exists():
        return LogReader.open(directory).size
    return 0


def _put(draft: Path, name: str, content: bytes) -> None:
    place = draft / name
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.write_bytes(content)


# -------------------------------------------------------------------------------------------- tar


class _Members:
    """The members of a ustar stream, one after the other: plain files, each by the name it has.

    No more of a member is in memory than its reader has said that it may have.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: tuple[str, int] | None = None
        self._past = -1

    def take(self, name: str, most: int) -> bytes:
        """The content of the next member, which has this name. Raises `NotProven`."""
        found, size = self._next()
        if found != name or size > most:
            raise NotProven(
                f"the stream has {quoted(found, 60)} with {size} bytes where {name} with at most"
                f" {most} is due",
                "make it with `sigul-stack audit push --tar`",
            )
        self._waiting = None
        return self._content(size)

    def take_bundle(self, number: int, width: int) -> bytes:
        """The bundle of a number; full ones before it, which the copy has, are read past."""
        while True:
            name, size = self._next()
            earlier = _full_bundle(name)
            if not self._past < earlier < number or size > _MAX_BUNDLE:
                self._past = number
                return self.take(bundle_path(number, width), _MAX_BUNDLE)
            self._past, self._waiting = earlier, None
            self._content(size)

    def _next(self) -> tuple[str, int]:
        """Name and size of the next member."""
        if self._waiting is None:
            head = self._read(_BLOCK)
            try:
                member = tarfile.TarInfo.frombuf(head, "ascii", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
                raise NotProven("the stream is cut off, or no tar stream") from None
            # Links, devices, long names: nothing of these is in what `send` writes.
            if head[156:157] != tarfile.REGTYPE or member.size < 0:
                raise NotProven(f"the stream has {quoted(member.name, 60)}, which is no plain file")
            self._waiting = member.name, member.size
        return self._waiting

    def _content(self, size: int) -> bytes:
        data = self._read(size)
        self._read(-size % _BLOCK)
        return data

    def _read(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            part = self._stream.read(count)
            if not part:
                raise NotProven("the stream is cut off", "make it again")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _full_bundle(name: str) -> int:
    """The number of the full bundle that has this path; -1 where it is another name."""
    try:
        return number_in(name.removeprefix(_BUNDLES)) if name.startswith(_BUNDLES) else -1
    except NotProven:
        return -1
