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
import os
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
    split_bundle,
)
from ..formats.signed_note import MAX_NOTE_BYTES, Checkpoint, Note, PublicKey, open_checkpoint
from ..system.files import locked, write_whole
from .log_files import CHECKPOINT, PUBLIC_KEY
from .log_reader import LogReader
from .tile_builder import TileBuilder

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
        for number in range(start // TILE_WIDTH, -(-size // TILE_WIDTH) if start < size else 0):
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
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        error = SigulError(f"another process receives into '{directory}'", "wait for its end")
        with locked(directory, _LOCK_SECONDS, error):
            return _Receiver(_Members(stream), directory, key).run()
    except OSError as error:
        raise SigulError(
            f"the copy in '{directory}' cannot be written: {error.strerror or error}",
            "nothing was changed: make room there, or let this user write",
        ) from error


class _Receiver:
    def __init__(self, members: _Members, directory: Path, key: PublicKey | None) -> None:
        self._members = members
        self._directory = directory
        self._key = key

    def run(self) -> Received:
        old = self._old_copy()
        pinned = self._key or (None if old is None else old.public_key)
        key = PublicKey.parse(self._members.take(PUBLIC_KEY, _MAX_KEY).decode("utf-8", "replace"))
        if pinned is not None and key != pinned:
            raise NotProven(
                f"the stream is of the log {quoted(key.name, 120)} with the key {key.id.hex()}, the"
                f" copy of {quoted(pinned.name, 120)} with the key {pinned.id.hex()}",
                "receive another log into another directory",
            )
        data = self._members.take(CHECKPOINT, MAX_NOTE_BYTES)
        note = Note.parse(data.decode("utf-8", "replace"))
        checkpoint = open_checkpoint(note, key)
        size = 0 if old is None else open_checkpoint(old.checkpoint, key).size
        if checkpoint.size < size:
            raise NotProven(
                f"the log has shrunk: it has {checkpoint.size} leaves, and this copy {size}",
                "keep the copy, and ask whoever runs the server: docs/audit.md, Restoring",
            )
        self._remove_drafts()
        draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._directory))
        try:
            self._fill(draft, old, size, checkpoint)
            self._publish(draft, key, note)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return Received(size, checkpoint.size, key, on_trust=pinned is None)

    def _old_copy(self) -> LogReader | None:
        if (self._directory / CHECKPOINT).exists():
            return LogReader.open(self._directory)
        names = [name for name in os.listdir(self._directory) if not name.startswith(_DRAFT)]
        # A first one that was ended while its tiles got their names.
        if set(names) - {"tile", PUBLIC_KEY}:
            raise SigulError(
                f"'{self._directory}' has something else in it than a copy of a log",
                "name a new directory",
            )
        return None

    def _remove_drafts(self) -> None:
        """Remove what processes have left that were killed; the lock says that none is alive."""
        for path in self._directory.glob(f"{_DRAFT}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _fill(
        self, draft: Path, old: LogReader | None, size: int, checkpoint: Checkpoint
    ) -> None:
        """Write below `draft` all tiles that are new since `size`. Raises `NotProven`."""
        def write(name: str, content: bytes) -> None:
            place = draft / name
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            place.write_bytes(content)

        builder = TileBuilder(write, size, None if old is None else old.node)
        number = size // TILE_WIDTH
        known = [] if old is None else list(old.entries(number * TILE_WIDTH, size))
        while builder.size < checkpoint.size:
            width = min(TILE_WIDTH, checkpoint.size - number * TILE_WIDTH)
            entries = split_bundle(self._members.take_bundle(number, width))
            if len(entries) != width or entries[: len(known)] != known:
                raise NotProven(
                    f"the stream's leaves from {number * TILE_WIDTH} on are not those that this"
                    " copy has: the log was forked, or the stream is damaged",
                    "keep the copy, and ask whoever runs the server: docs/audit.md",
                )
            builder.add(entries)
            number, known = number + 1, []
        if builder.root() != checkpoint.root:
            raise NotProven(
                "the stream's leaves do not give the root that the log has signed, together with"
                f" the {size} that this copy has",
                "keep the copy, and ask whoever runs the server: docs/audit.md",
            )
        builder.finish()

    def _publish(self, draft: Path, key: PublicKey, note: Note) -> None:
        """Give all that is new its name, and the checkpoint last; killed, it can be run again."""
        # A log of ten million leaves has 80,000 files: they reach the disk together.
        os.sync()
        for root, _directories, names in os.walk(draft):
            place = self._directory / Path(root).relative_to(draft)
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            for name in names:
                (Path(root) / name).replace(place / name)
        os.sync()
        write_whole(
            self._directory / PUBLIC_KEY, f"{key.encode()}\n".encode(), replace=True, mode=0o644
        )
        write_whole(
            self._directory / CHECKPOINT, note.encode().encode(), replace=True, mode=0o644
        )


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
