"""The signing log in a backup: one checkpoint, the log's key, and the entries under the checkpoint.

    signing-log/checkpoint, key, key.pub    as they lie on the server
    signing-log/entries/000000, …1, …       {u16 length, entry} of 65,536 leaves each, but the last

Tiles are not in it, for they follow from the entries: so ten million leaves are 153 files and not
80,000, and are checked as they come, without space on any disk. The checkpoint is read first, and
nothing behind it is taken: the server may append meanwhile. Whoever takes a backup's log has its
whole order, sizes and root checked before the log gets a name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ..errors import SigulError
from ..evidence.log_files import CHECKPOINT, KEY, PUBLIC_KEY, TAIL, encode_tail, read_file
from ..evidence.log_reader import LogReader
from ..evidence.tile_builder import TileBuilder
from ..formats.merkle_tree import TILE_WIDTH, Frontier, NotProven, encode_bundle, hash_leaf
from ..formats.signed_note import Checkpoint, Note, PrivateKey, PublicKey, open_checkpoint
from ..secret import Secret
from ..system.files import write_whole
from . import archive
from .archive import MemberSource
from .manifest import LOG_PART, LogRecord, Manifest, Member, damaged

#: Leaves of one member: of the longest ones it is below the largest file of a backup.
_LEAVES: Final = TILE_WIDTH**2
#: The files before the entries, in their order, and the largest that one is taken to be, in bytes.
_HEADS: Final = (CHECKPOINT, KEY, PUBLIC_KEY)
_MAX_HEAD: Final = 1 << 16


# ------------------------------------------------------------------------------------------ making


@dataclass(frozen=True, slots=True)
class LogSources:
    """A log in a backup: its record in the manifest, and its members."""

    record: LogRecord
    sources: tuple[MemberSource, ...]


def log_sources(directory: Path, before: LogSources | None = None) -> LogSources:
    """Find the members for the log in `directory`. Raises `SigulError` where it is damaged.

    What `before` has, a moment ago, is not read again, but for what is not full yet.
    """
    known = {}
    if before is not None:
        full = before.record.size // _LEAVES
        known = dict(enumerate(before.sources[len(_HEADS) : len(_HEADS) + full]))
    reader = LogReader.open(directory)
    heads = {CHECKPOINT: reader.checkpoint.encode().encode()}
    for name in (KEY, PUBLIC_KEY):
        heads[name] = read_file(directory / name, _MAX_HEAD)
    sources = [
        archive.describe_pieces(
            directory / name, partial(iter, (heads[name],)), f"{LOG_PART}/{name}", 0o600
        )
        for name in _HEADS
    ]
    for number, start in enumerate(range(0, reader.size, _LEAVES)):
        if number in known:
            sources.append(known[number])
            continue
        pieces = partial(_bundles, directory, start, min(start + _LEAVES, reader.size))
        sources.append(archive.describe_pieces(directory, pieces, _entries_path(number), 0o600))
    return LogSources(_record(reader.head), tuple(sources))


def _entries_path(number: int) -> str:
    return f"{LOG_PART}/entries/{number:06}"


def _bundles(directory: Path, start: int, stop: int) -> Iterator[bytes]:
    # Opened again, for a tail that was there may be a bundle by now.
    reader = LogReader.open(directory)
    for first in range(start, stop, TILE_WIDTH):
        yield encode_bundle(list(reader.entries(first, min(first + TILE_WIDTH, stop))))


def _record(head: Checkpoint) -> LogRecord:
    # ASCII, as all that a manifest tells.
    return LogRecord(head.origin.encode("ascii", "backslashreplace").decode()[:255], head.size)


# ------------------------------------------------------------------------------------------ taking


class LogTaker:
    """Takes a backup's log, member by member, and proves it; with a directory, writes it there.

    `directory` is new. It is a whole log once `end` has returned.
    """

    def __init__(self, manifest: Manifest, directory: Path | None = None) -> None:
        self._record = manifest.signing_log
        self._directory = directory
        self._heads: dict[str, bytes] = {}
        self._note: Note | None = None
        self._head: Checkpoint | None = None
        self._frontier = Frontier()
        self._entries: list[bytes] = []
        self._members = 0
        self._builder: TileBuilder | None = None
        if directory is not None:
            directory.mkdir(mode=0o700)
            self._builder = TileBuilder(partial(_write_tile, directory))

    def take(self, member: Member, pieces: Iterable[bytes]) -> None:
        """Take the next member of the log. Raises `BackupError` where it is not the one due."""
        name = member.path.removeprefix(f"{LOG_PART}/")
        due = _HEADS[len(self._heads)] if len(self._heads) < len(_HEADS) else ""
        try:
            if due and name == due and member.size <= _MAX_HEAD:
                self._heads[name] = b"".join(pieces)
                if len(self._heads) == len(_HEADS):
                    self._open()
            elif not due and member.path == _entries_path(self._members):
                self._members += 1
                self._take_entries(pieces)
            else:
                raise NotProven(f"{member.path} is not where it belongs")
        except NotProven as error:
            raise damaged(f"its signing log: {error.problem}") from None

    def _open(self) -> None:
        """Have the checkpoint, and the keys that belong to it. Raises `NotProven`."""
        key = PublicKey.parse(_text(self._heads[PUBLIC_KEY]))
        self._note = Note.parse(_text(self._heads[CHECKPOINT]))
        self._head = open_checkpoint(self._note, key)
        if PrivateKey.parse(Secret(self._heads[KEY])).public != key:
            raise NotProven("its private key is not that of its public key")
        if self._record != _record(self._head):
            raise NotProven("it is another one than the manifest says")

    def _take_entries(self, pieces: Iterable[bytes]) -> None:
        """Take the entries of one member, of which at most one is in memory beside a bundle."""
        limit = min(self._members * _LEAVES, 0 if self._head is None else self._head.size)
        waiting = b""
        for piece in pieces:
            waiting += piece
            at = 0
            while at + 2 <= len(waiting):
                end = at + 2 + int.from_bytes(waiting[at : at + 2], "big")
                if end > len(waiting):
                    break
                if self._frontier.size == limit:
                    raise NotProven("it has more leaves than its checkpoint covers")
                self._append(waiting[at + 2 : end])
                at = end
            waiting = waiting[at:]
        if waiting or self._frontier.size != limit:
            raise NotProven("its entries are cut off")

    def _append(self, entry: bytes) -> None:
        self._frontier.append(hash_leaf(entry))
        self._entries.append(entry)
        if len(self._entries) == TILE_WIDTH:
            if self._builder is not None:
                self._builder.add(self._entries)
            self._entries = []

    def end(self) -> None:
        """Prove that all of it was taken, and finish what was written. Raises `BackupError`."""
        if self._record is None and not self._heads:
            return
        head, note = self._head, self._note
        if head is None or note is None or self._frontier.size != head.size:
            raise damaged("its signing log lacks leaves, or its keys")
        if self._frontier.root() != head.root:
            raise damaged("the leaves of its signing log are not those that its checkpoint is over")
        if self._builder is None or self._directory is None:
            return
        self._builder.finish()
        tail = encode_tail(head.size // TILE_WIDTH, self._entries)
        write_whole(self._directory / TAIL, tail, replace=False)
        for name in (KEY, PUBLIC_KEY):
            mode = 0o600 if name == KEY else 0o644
            write_whole(self._directory / name, self._heads[name], replace=False, mode=mode)
        write_whole(self._directory / CHECKPOINT, note.encode().encode(), replace=False, mode=0o644)
        # A log of ten million leaves has 80,000 files: they reach the disk together.
        os.sync()


def _write_tile(directory: Path, name: str, content: bytes) -> None:
    place = directory / name
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.write_bytes(content)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# ---------------------------------------------------------------------------------------- restoring


def extends(directory: Path, backup: Path) -> bool:
    """Tell whether the log in `directory` is that of a backup, unpacked in `backup`, or goes on.

    It is checked by its tiles' edge and its key; False where it is damaged.
    """
    try:
        there, taken = LogReader.open(directory), LogReader.open(backup)
        key = taken.public_key
        if key is None or there.public_key != key:
            return False
        head = open_checkpoint(there.checkpoint, key)
        return (
            head.size >= taken.size
            and there.root() == head.root
            and there.root(taken.size) == taken.head.root
        )
    except (SigulError, FileNotFoundError):
        return False
