"""Copy a signing log to a directory for a second party, and bring such a copy up to date.

What is written is a plain tlog-tiles directory: full tiles and bundles, the partial ones of the
right edge, `checkpoint` and `key.pub`. All leaves that are new are proven to extend what the copy
has, up to the checkpoint, before anything of them is written; the checkpoint comes last. A file
that is there is never changed, but for the checkpoint, nor removed, but for partial tiles of a full
one, as tlog-tiles allows.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import quoted
from ..formats.merkle_tree import (
    TILE_LEVELS,
    TILE_WIDTH,
    Frontier,
    NotProven,
    bundle_path,
    encode_bundle,
    fold,
    full_nodes,
    hash_leaf,
    tile_path,
)
from ..formats.signed_note import MAX_NOTE_BYTES, PublicKey, open_checkpoint
from ..system.files import write_whole
from .log_files import (
    CHECKPOINT,
    PUBLIC,
    PUBLIC_KEY,
    SigningLogError,
    make_directories,
    read_file,
    read_public_key,
    unwritable,
)
from .log_reader import LogReader


def copy_log(
    reader: LogReader,
    directory: Path,
    *,
    key: PublicKey | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write what `directory` lacks of the log of `reader`, and tell how many leaves were new.

    `key` is the log's; without it that of the copy, or of the log where there is no copy yet.
    `progress` gets the number of leaves that the copy has. Raises `NotProven` where the log does
    not extend the copy, which then stays as it was, and `SigningLogError` where nothing can be
    written.
    """
    try:
        there = _existing(directory)
        kept = read_public_key(directory)
        known = key or kept or reader.public_key
        if known is None:
            raise SigningLogError(
                f"the signing log {reader.directory} has no {PUBLIC_KEY} beside it",
                "name the log's public key",
            )
        if kept is not None and (kept != known or kept.name != reader.head.origin):
            raise NotProven(
                f"the copy in {quoted(str(directory))} is of another log, {quoted(kept.name, 120)}",
                "copy each log to a directory of its own",
            )
        open_checkpoint(reader.checkpoint, known)
        copy = _Copy(reader, directory, there, known)
        added = copy.run(progress)
        copy.prune()
        return added
    except OSError as error:
        name = quoted(str(directory))
        raise unwritable(
            f"the copy of the signing log in {name}", error, "try again, it goes on where it was: "
        ) from error


def _existing(directory: Path) -> LogReader | None:
    """The copy that is there."""
    if not (directory / CHECKPOINT).exists():
        return None
    return LogReader.open(directory)


class _Copy:
    """One run: what the copy had, and the right edge of what it gets."""

    def __init__(
        self, reader: LogReader, directory: Path, there: LogReader | None, key: PublicKey
    ) -> None:
        self.reader = reader
        self.directory = directory
        self.key = key
        self.old = 0 if there is None else there.size
        #: The hashes of the last tile of each level that is not full.
        self.edge: list[list[bytes]] = []
        self.frontier = Frontier()
        if there is not None:
            self._take_up(there)

    def _take_up(self, there: LogReader) -> None:
        """Begin with what the copy has, which its own checkpoint must be over."""
        head = open_checkpoint(there.checkpoint, self.key)
        nodes = [there.node(level, index) for level, index in full_nodes(0, self.old)]
        self.frontier = Frontier(self.old, nodes)
        if self.frontier.root() != head.root:
            raise NotProven(
                f"the copy of the signing log in {quoted(str(self.directory))} is damaged: its"
                " tiles are not those that its checkpoint is over",
                "keep it for inquiries, and copy the log to another directory",
            )
        if self.old > self.reader.size:
            raise NotProven(
                f"the copy in {quoted(str(self.directory))} has {self.old} leaves, and the signing"
                f" log {self.reader.directory} has only {self.reader.size}: the log was put back to"
                " an older state, or another one is shown",
                "keep both, and complete the log from the copy",
            )
        for level in range(self.old.bit_length() // TILE_LEVELS + 1):
            full, width = divmod(self.old >> level * TILE_LEVELS, TILE_WIDTH)
            self.edge.append(there.tree.tile(level, full)[:width] if width else [])

    def run(self, progress: Callable[[int], None] | None) -> int:
        """Prove, then write."""
        proven = self._prove()
        make_directories(self.directory)
        if self.old < self.reader.size:
            for (number, entries, hashes), expected in zip(self._bundles(), proven, strict=True):
                if _hash_over(hashes) != expected:
                    raise NotProven(f"{bundle_path(number)} was changed while it was copied")
                self._write_bundle(number, entries, hashes)
                if progress is not None:
                    progress(number * TILE_WIDTH + len(entries))
            self._write_edge()
        if read_public_key(self.directory) is None:
            self._put(PUBLIC_KEY, f"{self.key.encode()}\n".encode())
        note = self.reader.checkpoint.encode().encode()
        path = self.directory / CHECKPOINT
        if not path.exists() or read_file(path, MAX_NOTE_BYTES) != note:
            write_whole(path, note, replace=True, mode=PUBLIC)
        return self.reader.size - self.old

    def _bundles(self) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
        """Number, entries and hashes of each bundle that the copy has not or not full."""
        for number in range(self.old // TILE_WIDTH, -(-self.reader.size // TILE_WIDTH)):
            entries = self.reader.bundle(number)
            yield number, entries, [hash_leaf(entry) for entry in entries]

    def _prove(self) -> list[bytes]:
        """Prove that all that is new extends the copy up to the checkpoint; a hash a bundle."""
        found = []
        for number, _, hashes in self._bundles():
            known = self.edge[0] if self.edge and number == self.old // TILE_WIDTH else []
            if hashes[: len(known)] != known:
                raise self._fork()
            for leaf in hashes[len(known) :]:
                self.frontier.append(leaf)
            found.append(_hash_over(hashes))
        if self.frontier.root() != self.reader.head.root:
            raise self._fork()
        return found

    def _fork(self) -> NotProven:
        return NotProven(
            f"the signing log {self.reader.directory} does not extend the copy in"
            f" {quoted(str(self.directory))}, or its entries are not those of its checkpoint",
            "verify both, and keep both: one of them was changed",
        )

    def _write_bundle(self, number: int, entries: list[bytes], hashes: list[bytes]) -> None:
        width = len(entries)
        self._put(bundle_path(number, width), encode_bundle(entries))
        self._put(tile_path(0, number, width), b"".join(hashes))
        if width < TILE_WIDTH:
            return
        found = fold(hashes)
        for level in range(1, len(self.edge) + 2):
            while len(self.edge) <= level:
                self.edge.append([])
            tile = self.edge[level]
            tile.append(found)
            if len(tile) < TILE_WIDTH:
                return
            number //= TILE_WIDTH
            self._put(tile_path(level, number), b"".join(tile))
            found = fold(tile)
            tile.clear()

    def _write_edge(self) -> None:
        """Write the partial tiles from level 1 on."""
        for level, tile in enumerate(self.edge[1:], 1):
            if tile:
                number = self.reader.size >> (level + 1) * TILE_LEVELS
                self._put(tile_path(level, number, len(tile)), b"".join(tile))

    def prune(self) -> None:
        """Remove the partial tiles that were the right edge, of tiles that are full by now."""
        for level in range(len(self.edge)):
            bits = (level + 1) * TILE_LEVELS
            number = self.old >> bits
            if (number + 1) << bits <= self.reader.size:
                names = [tile_path(level, number)] + [bundle_path(number)] * (level == 0)
                for name in names:
                    with contextlib.suppress(OSError):
                        shutil.rmtree(self.directory / f"{name}.p")

    def _put(self, name: str, content: bytes) -> None:
        """Write a file that is never changed: one that a broken-off copy left has the same."""
        path = self.directory / name
        make_directories(path.parent)
        try:
            write_whole(path, content, replace=False, mode=PUBLIC)
        except FileExistsError:
            if read_file(path, len(content)) != content:
                raise NotProven(
                    f"{path} of the copy has another content than the signing log",
                    "verify both, and keep both: one of them was changed",
                ) from None


def _hash_over(hashes: list[bytes]) -> bytes:
    """A hash over any number of leaves' hashes."""
    frontier = Frontier()
    for found in hashes:
        frontier.append(found)
    return frontier.root()
