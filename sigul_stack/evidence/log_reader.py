"""Read a signing log, live or copied, and verify it: no lock, no key, nothing is ever written.

A reader stays at the checkpoint that was there when it was opened, whatever is appended meanwhile.
What it reads is as good as its directory: `verify_log` proves all of it, and a proof that it makes
is judged by whoever verifies that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import quoted
from ..formats.merkle_tree import (
    TILE_LEVELS,
    TILE_WIDTH,
    NotProven,
    bundle_path,
    consistency_proof,
    fold,
    hash_leaf,
    inclusion_proof,
    subtree_hash,
    tile_path,
)
from ..formats.signed_note import Checkpoint, LogProof, Note, PublicKey, open_checkpoint
from .log_files import SigningLogError, Tail, Tree, read_checkpoint, read_public_key


class LogReader:
    """A log as it was at one checkpoint, which nobody has verified yet."""

    def __init__(self, directory: Path, checkpoint: Note, tail: Tail | None) -> None:
        """Use `open`."""
        self.directory = directory
        self.checkpoint = checkpoint
        self.head = Checkpoint.of(checkpoint)
        self._tail = [] if tail is None else tail.entries
        edge = self.size if tail is None else tail.start
        if edge + len(self._tail) < self.size:
            raise NotProven(
                f"the signing log {directory} has {edge + len(self._tail)} leaves, and its"
                f" checkpoint is of {self.size}: leaves were lost",
                "complete it from a copy",
            )
        # A bundle that the log has begun meanwhile is nothing to this reader.
        self._tail = self._tail[: max(0, self.size - edge)]
        self.tree = Tree(directory, edge, [hash_leaf(entry) for entry in self._tail])

    @classmethod
    def open(cls, directory: Path) -> LogReader:
        """The log, or copy of one, in `directory`. Raises `SigulError`."""
        try:
            # In this order: a tail that is read later has what the checkpoint tells, or its bundle
            # is full and has its files.
            checkpoint = read_checkpoint(directory)
        except FileNotFoundError:
            raise SigningLogError(
                f"{quoted(str(directory))} is no signing log: it has no checkpoint",
                "name the log's directory, or that of a copy",
            ) from None
        return cls(directory, checkpoint, Tail.read(directory))

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self.head.size

    @property
    def public_key(self) -> PublicKey | None:
        """The key that lies beside the log. Who trusts no more than a key has it elsewhere."""
        return read_public_key(self.directory)

    def entry(self, index: int) -> bytes:
        """The content of a leaf. Raises `NotProven` where there is none."""
        for entry in self.entries(index, index + 1):
            return entry
        raise NotProven(f"there is no leaf {index} in a log of {self.size} leaves")

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """The contents of the leaves from `start` to `stop`, as far as the log has them."""
        stop = min(stop, self.size)
        at = max(start, 0)
        while at < stop:
            number, first = divmod(at, TILE_WIDTH)
            found = self.bundle(number)[first : first + stop - at]
            yield from found
            at += len(found)

    def bundle(self, number: int) -> list[bytes]:
        """The entries of a bundle, of which the log's last may have fewer than 256."""
        first = number * TILE_WIDTH
        if not 0 <= first < self.size:
            raise NotProven(f"there is no bundle {number} in a log of {self.size} leaves")
        if first >= self.tree.edge:
            return self._tail
        return self.tree.bundle(number, min(TILE_WIDTH, self.size - first))

    def node(self, level: int, index: int) -> bytes:
        """The hash of a full node."""
        return self.tree.node(level, index)

    def root(self, size: int | None = None) -> bytes:
        """The hash over the first `size` leaves, as the tiles have it."""
        return subtree_hash(0, self._size(size), self.node)

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The proof that leaf `index` is in the tree of `size` leaves, or of all."""
        size = self._size(size)
        if not 0 <= index < size:
            raise NotProven(f"there is no leaf {index} in a log of {size} leaves")
        return inclusion_proof(index, size, self.node)

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """The proof that the tree of `size` leaves, or of all, begins with that of `old`."""
        size = self._size(size)
        if not 0 <= old <= size:
            raise NotProven(f"a log of {size} leaves does not extend one of {old}")
        return consistency_proof(old, size, self.node)

    def proof(self, index: int) -> LogProof:
        """The proof that leaf `index` is in the log, for whoever has its public key."""
        return LogProof(self.entry(index), index, tuple(self.inclusion(index)), self.checkpoint)

    def _size(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise NotProven(f"the log has {self.size} leaves, not {size}")
        return size


def verify_log(
    reader: LogReader, key: PublicKey, *, progress: Callable[[int], None] | None = None
) -> Checkpoint:
    """The checkpoint of `key`, to which every leaf and every tile of the log fits.

    `progress` gets the number of leaves that are done. Raises `NotProven`.
    """
    head = open_checkpoint(reader.checkpoint, key)
    sha256 = hashlib.sha256
    above: list[list[bytes]] = []
    last: list[bytes] = []
    for number in range(-(-reader.size // TILE_WIDTH)):
        entries = reader.bundle(number)
        hashes = [sha256(b"\0" + entry).digest() for entry in entries]
        _compare(reader, 0, number, hashes)
        if len(hashes) < TILE_WIDTH:
            last = hashes
        else:
            _carry(reader, above, number, fold(hashes))
        if progress is not None:
            progress(number * TILE_WIDTH + len(hashes))
    for level, hashes in enumerate(above, 1):
        _compare(reader, level, head.size >> (level + 1) * TILE_LEVELS, hashes)
    levels = [last, *above]

    def node(level: int, index: int) -> bytes:
        tile_level, rest = divmod(level, TILE_LEVELS)
        first = (index << rest) % TILE_WIDTH
        return fold(levels[tile_level][first : first + (1 << rest)])

    if subtree_hash(0, head.size, node) != head.root:
        raise NotProven(
            f"the {head.size} leaves of the signing log {reader.directory} are not those that its"
            " checkpoint is over"
        )
    return head


def _carry(reader: LogReader, above: list[list[bytes]], number: int, found: bytes) -> None:
    """Add the hash of a full bundle to the tile over it, and so on while that is full."""
    for level in range(1, len(above) + 2):
        if len(above) < level:
            above.append([])
        hashes = above[level - 1]
        hashes.append(found)
        if len(hashes) < TILE_WIDTH:
            return
        number //= TILE_WIDTH
        _compare(reader, level, number, hashes)
        found = fold(hashes)
        hashes.clear()


def _compare(reader: LogReader, level: int, number: int, hashes: list[bytes]) -> None:
    """Raise `NotProven` unless a tile has these hashes, as far as it is in a file."""
    # A bundle that is still the tail is in no tile, nor is anything over it.
    width = min(len(hashes), reader.tree.width(level, number))
    if width <= 0 or reader.tree.tile_bytes(level, number, width) == b"".join(hashes[:width]):
        return
    below = f"of the entries in {bundle_path(number, width)}" if level == 0 else "of those below it"
    raise NotProven(
        f"the tile {tile_path(level, number, width)} of the signing log {reader.directory} is not"
        f" {below}: one of them was changed"
    )
