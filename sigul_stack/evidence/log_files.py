"""The files of a signing log, as its writer and all readers see them.

    DIRECTORY/key             the log's private key (signed_note)    key.pub   its public key
    DIRECTORY/checkpoint      the log's last checkpoint, a signed note
    DIRECTORY/tile/…          c2sp.org/tlog-tiles: full tiles and bundles; the partial tiles of
                              levels from 1 on; in a copy also those of level 0 and the last bundle
    DIRECTORY/tail            entries of the last bundle, until a next one begins; not in a copy
    DIRECTORY/index.sqlite3   for searches (index.py); made from the rest, and not in a copy

    tail    8 bytes "sglTail1" ‖ u64 N ‖ records; N is the number of the bundle that they become
    record  u16 length ‖ 8 bytes SHA-256(u64 index ‖ entry)[:8] ‖ entry

A file that is read may be anybody's: what is read has a limit, and only a plain file is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from ..errors import SigulError
from ..formats.merkle_tree import (
    HASH_BYTES,
    MAX_ENTRY_BYTES,
    TILE_LEVELS,
    TILE_WIDTH,
    NotProven,
    bundle_path,
    fold,
    hash_node,
    split_bundle,
    split_hashes,
    tile_of,
    tile_path,
)
from ..formats.signed_note import MAX_NOTE_BYTES, Note, PrivateKey, PublicKey
from ..secret import Secret
from ..system.files import opened, sync

#: Modes of files: of what others may read, where they come by the directory; and of what not.
PUBLIC: Final = 0o644
PRIVATE: Final = 0o600

KEY: Final = "key"
PUBLIC_KEY: Final = "key.pub"
CHECKPOINT: Final = "checkpoint"
TAIL: Final = "tail"
INDEX: Final = "index.sqlite3"

_HEAD: Final = struct.Struct("!8sQ")
_MAGIC: Final = b"sglTail1"
_RECORD: Final = struct.Struct("!H8s")

_MAX_KEY_BYTES: Final = 1024
_MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
_MAX_TAIL_BYTES: Final = _HEAD.size + TILE_WIDTH * (_RECORD.size + MAX_ENTRY_BYTES)
#: Tiles that are kept in memory, each of up to 256 hashes.
_CACHED_TILES: Final = 64
#: How often a tile is looked for, which its writer may replace by a wider one meanwhile.
_TRIES: Final = 5

_T = TypeVar("_T")


#: The cures of a log that cannot be written.
_CURES: Final = MappingProxyType(
    {
        errno.ENOSPC: "make room on its file system",
        errno.EDQUOT: "raise the quota of the server's user, or make room",
        errno.EIO: "see to the disk, whose errors the kernel's log has",
        errno.EROFS: "mount its file system for writing, after the kernel's log was read",
    }
)
_CURE: Final = "see to room, permissions and health of its file system"


class SigningLogError(SigulError):
    """A signing log cannot be opened, read or written."""


class LogInUse(SigningLogError):
    """Another process appends to the signing log."""


def unwritable(what: str, error: OSError, before: str = "") -> SigningLogError:
    """The error of a log or copy that cannot be written; `before` begins its cure."""
    number = error.errno or 0
    return SigningLogError(
        f"{what} cannot be written: {error.strerror}",
        before + _CURES.get(number, _CURE),
        errno.errorcode.get(number, ""),
    )


def read_file(path: Path, limit: int) -> bytes:
    """The content of a plain file of at most `limit` bytes.

    Raises `NotProven` for another, FileNotFoundError, and `SigningLogError` where it is unreadable.
    """
    try:
        # Not to wait for whoever would write a pipe of this name.
        with opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotProven(f"{path} of the signing log is no plain file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise SigningLogError(
            f"{path} of the signing log cannot be read: {error.strerror}"
        ) from None
    if len(data) > limit:
        raise NotProven(f"{path} of the signing log has more than {limit} bytes")
    return data


def read_text(path: Path, limit: int) -> str:
    """The text of a file, as `read_file` has it."""
    try:
        return read_file(path, limit).decode()
    except UnicodeDecodeError:
        raise NotProven(f"{path} of the signing log is no text") from None


def read_checkpoint(directory: Path) -> Note:
    """The checkpoint, unchecked. Raises as `read_file` does, and `NotProven` where it is none."""
    return Note.parse(read_text(directory / CHECKPOINT, MAX_NOTE_BYTES))


def read_public_key(directory: Path) -> PublicKey | None:
    """The public key that lies there, which proves nothing; None where none does."""
    try:
        return PublicKey.parse(read_text(directory / PUBLIC_KEY, _MAX_KEY_BYTES))
    except FileNotFoundError:
        return None


def read_private_key(directory: Path) -> PrivateKey:
    """The log's private key. Raises as `read_file` does, and `NotProven` where it is none."""
    return PrivateKey.parse(Secret(read_file(directory / KEY, _MAX_KEY_BYTES)))


def make_directories(path: Path) -> None:
    """Make a directory and those above it, each durably; its user's alone."""
    if not path.is_dir():
        make_directories(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync(path.parent)


# ------------------------------------------------------------------------------------------- tail


def encode_tail(number: int, entries: Sequence[bytes]) -> bytes:
    """The tail with the first entries of bundle `number`."""
    first = number * TILE_WIDTH
    return _HEAD.pack(_MAGIC, number) + encode_records(first, entries)


def encode_records(first: int, entries: Sequence[bytes]) -> bytes:
    """Records of the tail; `first` is the index of the first entry."""
    return b"".join(
        _RECORD.pack(len(entry), _check(index, entry)) + entry
        for index, entry in enumerate(entries, first)
    )


def _check(index: int, entry: bytes) -> bytes:
    return hashlib.sha256(index.to_bytes(8, "big") + entry).digest()[:8]


class Tail:
    """The content of a tail: the number of its bundle, and its whole entries in their order.

    `is_whole` tells that nothing is behind them: an entry that is half written, or damaged.
    """

    def __init__(self, data: bytes) -> None:
        """Raises `NotProven` where the data are no tail at all."""
        if len(data) < _HEAD.size or not data.startswith(_MAGIC):
            raise NotProven("the tail of the signing log is damaged")
        self.number: int = _HEAD.unpack_from(data)[1]
        self.entries: list[bytes] = []
        at = _HEAD.size
        while len(self.entries) < TILE_WIDTH and at + _RECORD.size <= len(data):
            length, check = _RECORD.unpack_from(data, at)
            entry = data[at + _RECORD.size : at + _RECORD.size + length]
            if len(entry) != length or check != _check(self.start + len(self.entries), entry):
                break
            self.entries.append(entry)
            at += _RECORD.size + length
        self.is_whole = at == len(data)

    @property
    def start(self) -> int:
        """The index of its first entry."""
        return self.number * TILE_WIDTH

    @classmethod
    def read(cls, directory: Path) -> Tail | None:
        """The tail of a log; None where there is none, as in a copy."""
        try:
            return cls(read_file(directory / TAIL, _MAX_TAIL_BYTES))
        except FileNotFoundError:
            return None


# ------------------------------------------------------------------------------------------ nodes


class Tree:
    """The nodes of a log's tree, of which no more is read than what is asked for.

    Leaves before `edge` have their hashes in tiles, those from there on in `tail`; the caller
    keeps both right. Nothing that is read is checked but for its form.
    """

    def __init__(self, directory: Path, edge: int, tail: list[bytes]) -> None:
        self.directory = directory
        self.edge = edge
        self.tail = tail
        self._cache: OrderedDict[tuple[int, int, int], list[bytes]] = OrderedDict()

    def node(self, level: int, index: int) -> bytes:
        """The hash of a full node. Raises `NotProven` where there is none."""
        first, end = index << level, (index + 1) << level
        if end > self.edge + len(self.tail):
            raise NotProven(f"the signing log has no node {index} of level {level}")
        if first >= self.edge:
            return fold(self.tail[first - self.edge : end - self.edge])
        if end > self.edge:
            return hash_node(self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1))
        tile_level, number, start, stop = tile_of(level, index)
        return fold(self.tile(tile_level, number)[start:stop])

    def tile(self, level: int, number: int) -> list[bytes]:
        """The hashes of a tile, as many as there are before the edge."""
        width = self.width(level, number)
        key = (level, number, width)
        found = self._cache.get(key)
        if found is None:
            found = split_hashes(self.tile_bytes(level, number, width))
            self._cache[key] = found
            if len(self._cache) > _CACHED_TILES:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return found

    def width(self, level: int, number: int) -> int:
        """The number of hashes that a tile has; none or less where it is not there."""
        there: int = self.edge >> level * TILE_LEVELS
        return min(TILE_WIDTH, there - number * TILE_WIDTH)

    def tile_bytes(self, level: int, number: int, width: int) -> bytes:
        """The bytes of a tile's first `width` hashes."""
        wanted = width * HASH_BYTES

        def read(path: Path, there: int) -> bytes:
            data = read_file(path, TILE_WIDTH * HASH_BYTES)
            if len(data) != there * HASH_BYTES:
                raise NotProven(f"{path} of the signing log does not have {there} hashes")
            return data[:wanted]

        return self._widest(lambda width: tile_path(level, number, width), width, read)

    def bundle(self, number: int, width: int = TILE_WIDTH) -> list[bytes]:
        """The first `width` entries of a bundle that is before the edge."""

        def read(path: Path, there: int) -> list[bytes]:
            entries = split_bundle(read_file(path, _MAX_BUNDLE_BYTES))
            if len(entries) != there:
                raise NotProven(f"{path} of the signing log does not have {there} entries")
            return entries[:width]

        return self._widest(lambda width: bundle_path(number, width), width, read)

    def _widest(
        self, name: Callable[[int], str], width: int, read: Callable[[Path, int], _T]
    ) -> _T:
        """Read what has this width, or more: a writer removes the former one when it has grown."""
        for _ in range(_TRIES):
            for path, there in self._candidates(name, width):
                with contextlib.suppress(FileNotFoundError):
                    return read(path, there)
        raise NotProven(f"{self.directory / name(width)} of the signing log is missing")

    def _candidates(self, name: Callable[[int], str], width: int) -> Iterator[tuple[Path, int]]:
        yield self.directory / name(width), width
        if width < TILE_WIDTH:
            partial = (self.directory / name(width)).parent
            with contextlib.suppress(OSError):
                found = [int(item.name) for item in partial.iterdir() if item.name.isdecimal()]
                for other in sorted(found):
                    if width < other < TILE_WIDTH:
                        yield partial / str(other), other
            yield self.directory / name(TILE_WIDTH), TILE_WIDTH
