"""Append to a signing log: one process, which holds the log's lock and its key.

An append is durable when it returns, and a checkpoint on the disk covers it:

    where the tail is full: its bundle and tiles are written, then an empty tail takes its place
    entries are written to the tail                              fdatasync
    the checkpoint over them is signed and written whole         fsync, rename, fsync

So what lies behind the checkpoint is in the tail alone, and there are never more leaves in the
checkpoint than in the files. After a crash, whole entries behind the checkpoint are taken in: their
signatures never left. What is half written is cut off. A leaf is never removed otherwise, and what
a failed write or fsync has left is never built on: the tail is then written anew, from memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final

from ..errors import SigulError, quoted
from ..formats.merkle_tree import (
    TILE_WIDTH,
    Frontier,
    NotProven,
    consistency_proof,
    full_nodes,
    hash_leaf,
    inclusion_proof,
    subtree_hash,
)
from ..formats.signed_note import (
    LOG_KEY,
    Checkpoint,
    Note,
    PrivateKey,
    PublicKey,
    open_checkpoint,
)
from ..logevents import tell
from ..system.files import opened, sync, try_lock, whole_file, write_whole
from .evidence import Evidence
from .index import Index
from .leaf import LOG_START, Leaf, Result
from .log_events import EvidenceLog
from .log_files import (
    CHECKPOINT,
    KEY,
    PRIVATE,
    PUBLIC,
    PUBLIC_KEY,
    TAIL,
    LogInUse,
    SigningLogError,
    Tail,
    Tree,
    encode_records,
    encode_tail,
    read_checkpoint,
    read_private_key,
    unwritable,
)
from .log_reader import LogReader
from .tile_writer import AppendStep, remove_narrower, write_full_bundle

log = logging.getLogger(__name__)

#: Bundles that are indexed with a new one, and how long a search is waited for, in seconds.
_INDEXED_AT_ONCE: Final = 4
_INDEX_SECONDS: Final = 0.1

_UNSIGNED: Final = "nothing is signed until it can: "
_COMPLETE: Final = (
    "complete it from a copy with sigul-stack audit complete, or begin a new log that names this"
    " one's last checkpoint with sigul-stack audit new-origin"
)


@dataclass(frozen=True, slots=True)
class Appended:
    """A leaf that is in the log: its index, and its content with the time that the log has set."""

    index: int
    leaf: Leaf
    entry: bytes


def is_vacant(directory: Path) -> bool:
    """Tell whether a log can be made there: nothing is there, or an empty directory.

    That may be a file system of its own. Raises OSError.
    """
    if directory.is_symlink() or not directory.exists():
        return not directory.is_symlink()
    return all(item.name == "lost+found" for item in directory.iterdir())


def create(directory: Path, name: str, *, previous: Note | None = None) -> None:
    """Make a log with a new key and its first leaf, which tells the log that it follows.

    `name` is that of its server; `previous` another log's last known checkpoint. Raises
    `SigulError`, and changes nothing, where something is already there.
    """
    key = PrivateKey.new(f"{name}/signing-log/{secrets.token_hex(4)}", LOG_KEY)
    leaf = Leaf(
        op=LOG_START,
        result=Result.OK,
        time=_now(),
        previous="" if previous is None else previous.encode(),
    )
    entry = leaf.encode()
    head = Checkpoint(key.name, 1, hash_leaf(entry))
    taken = SigningLogError(
        f"{quoted(str(directory))} is there already", "a signing log is made where nothing is"
    )
    draft = None
    try:
        if not is_vacant(directory):
            raise taken
        # Its name may be another's to give, in a directory that is not this user's, or a mount's.
        in_place = directory.exists()
        prefix, parent = f".{directory.name}.", directory if in_place else directory.parent
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        write_whole(draft / KEY, key.encode().reveal() + b"\n", replace=False, mode=PRIVATE)
        public = f"{key.public.encode()}\n".encode()
        write_whole(draft / PUBLIC_KEY, public, replace=False, mode=PUBLIC)
        write_whole(draft / TAIL, encode_tail(0, [entry]), replace=False, mode=PRIVATE)
        note = head.signed(key).encode().encode()
        write_whole(draft / CHECKPOINT, note, replace=False, mode=PUBLIC)
        # What makes it a log comes last: there is a whole one, or none.
        if in_place:
            for item in (PUBLIC_KEY, TAIL, CHECKPOINT, KEY):
                (draft / item).rename(directory / item)
            with opened(directory) as descriptor:
                # A mount's mode may be another's to change.
                with contextlib.suppress(PermissionError):
                    os.fchmod(descriptor, 0o700)
                os.fsync(descriptor)
        else:
            draft.replace(directory)
            sync(directory.parent)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        raise SigningLogError(
            f"the signing log {quoted(str(directory))} cannot be made: {error.strerror}",
            "see that the directory above it is there and this user may write to it",
        ) from None
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


class SigningLog:
    """An open log, for the one process that appends to it; use it as a context manager."""

    def __init__(self, directory: Path, lock: int, on_step: Callable[[AppendStep], None]) -> None:
        """Use `open`."""
        self.directory = directory
        self._lock = lock
        self._step = on_step
        self._descriptor = -1
        self._key = read_private_key(directory)
        self.public_key: PublicKey = self._key.public
        try:
            self._recover()
        except BaseException:
            self._close_tail()
            raise

    @classmethod
    def open(
        cls, directory: Path, *, on_step: Callable[[AppendStep], None] = lambda step: None
    ) -> SigningLog:
        """Open a log and mend what a crash has left. Raises `SigulError` with cause and cure.

        `on_step` is called after each step of an append, for tests.
        """
        name = quoted(str(directory))
        try:
            # Not to wait for whoever would write a pipe of this name.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            lock = os.open(directory / KEY, flags)
        except FileNotFoundError:
            raise SigningLogError(
                f"there is no signing log in {name}: it has no key",
                "make one, or put it back from a backup",
            ) from None
        except OSError as error:
            raise SigningLogError(
                f"the signing log {name} cannot be opened: {error.strerror}",
                "see that it belongs to the server's user",
            ) from None
        try:
            if not try_lock(lock):
                raise LogInUse(
                    f"the signing log {name} is in use by another process",
                    "only one appends to it: end the other server, or wait until it has ended",
                )
            return cls(directory, lock, on_step)
        except FileNotFoundError as error:
            os.close(lock)
            raise SigningLogError(
                f"the signing log {name} is damaged: {error} is missing", _COMPLETE
            ) from None
        except NotProven as error:
            os.close(lock)
            raise SigningLogError(
                f"the signing log {name} is damaged: {error.problem}", error.cure or _COMPLETE
            ) from None
        except OSError as error:
            os.close(lock)
            raise unwritable(f"the signing log {name}", error, _UNSIGNED) from error
        except BaseException:
            os.close(lock)
            raise

    def __enter__(self) -> SigningLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the log, so that another process may open it."""
        self._close_tail()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _close_tail(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # ------------------------------------------------------------------------------------ opening

    def _recover(self) -> None:
        """Read the right edge, prove that it is the checkpoint's, and take in what lies behind."""
        self.checkpoint: Note = read_checkpoint(self.directory)
        head = open_checkpoint(self.checkpoint, self.public_key)
        tail = Tail.read(self.directory)
        if tail is None:
            raise FileNotFoundError(self.directory / TAIL)
        there = tail.start + len(tail.entries)
        if head.size > there:
            raise NotProven(
                f"there are {there} leaves, and its checkpoint is of {head.size}: leaves were lost"
            )
        if head.size < tail.start:
            raise NotProven(
                f"its checkpoint is of {head.size} leaves, and those before {tail.start} were"
                " covered by a later one: an older checkpoint was put back"
            )
        self.size = head.size
        self._number = tail.number
        self._entries = tail.entries
        self._tree = Tree(self.directory, tail.start, [hash_leaf(entry) for entry in tail.entries])
        if subtree_hash(0, head.size, self._tree.node) != head.root:
            raise NotProven("its entries or tiles are not those that its checkpoint is over")
        edge = [self._tree.node(level, index) for level, index in full_nodes(0, there)]
        self._frontier = Frontier(there, edge)
        self._last_time = self._time_of_last()
        # What lies behind the checkpoint may be in the page cache alone, from a failed fsync.
        self._is_tail_sound = tail.is_whole and there == head.size
        if self._is_tail_sound:
            self._open_tail()
        else:
            tell(
                log,
                EvidenceLog.SIGNING_LOG_COMPLETED if tail.is_whole else EvidenceLog.SIGNING_LOG_CUT,
                path=str(self.directory),
                leaves=there - head.size,
            )
        self._mend()

    def _time_of_last(self) -> str:
        if self._entries:
            return Leaf.parse(self._entries[-1]).time
        if self._number:
            return Leaf.parse(self._tree.bundle(self._number - 1)[-1]).time
        return ""

    def _open_tail(self) -> None:
        self._close_tail()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._descriptor = os.open(self.directory / TAIL, flags)

    # ---------------------------------------------------------------------------------- appending

    def append(self, leaves: Sequence[Leaf]) -> list[Appended]:
        """Append leaves, whose time is set here. Durable, and in the checkpoint, when it returns.

        Raises `NotProven` for a leaf that is too large, before anything is written, and
        `SigningLogError` where the log cannot be written: then the leaves may be in the log or not,
        those of former appends are, and the next append goes on as soon as there is room.
        """
        time = max(_now(), self._last_time)
        timed = [replace(leaf, time=time) for leaf in leaves]
        entries = [leaf.encode() for leaf in timed]
        first = self._frontier.size
        with self._writing():
            self._mend()
            first = self.size
            self._last_time = time
            done = 0
            while done < len(entries):
                if len(self._entries) == TILE_WIDTH:
                    self._begin_bundle()
                done += self._write(entries[done : done + TILE_WIDTH - len(self._entries)])
                self._sign()
        return [
            Appended(index, leaf, entry)
            for index, (leaf, entry) in enumerate(zip(timed, entries, strict=True), first)
        ]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._lock < 0:
            raise SigningLogError(f"the signing log {self.directory} is closed")
        try:
            yield
        except OSError as error:
            name = quoted(str(self.directory))
            raise unwritable(f"the signing log {name}", error, _UNSIGNED) from error

    def _mend(self) -> None:
        """Finish what a failure or a crash has left undone."""
        if not self._is_tail_sound:
            self._write_tail()
        self._check_place()
        if self.size < self._frontier.size:
            self._sign()

    def _check_place(self) -> None:
        """Refuse to go on where another directory or tail has taken the place of what is open."""
        found, own = (self.directory / TAIL).stat(), os.fstat(self._descriptor)
        if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            raise SigningLogError(
                f"the signing log {self.directory} was replaced while it was open",
                "restart the server",
            )

    def _write(self, entries: Sequence[bytes]) -> int:
        """Write entries to the tail, for which it has room, and sync it; how many there are."""
        data = encode_records(self._frontier.size, entries)
        self._is_tail_sound = False
        half = len(data) // 2
        _write_all(self._descriptor, data[:half])
        self._step(AppendStep.ENTRIES_HALF_WRITTEN)
        _write_all(self._descriptor, data[half:])
        self._step(AppendStep.ENTRIES_WRITTEN)
        os.fdatasync(self._descriptor)
        self._is_tail_sound = True
        self._entries.extend(entries)
        for entry in entries:
            found = hash_leaf(entry)
            self._tree.tail.append(found)
            self._frontier.append(found)
        self._step(AppendStep.ENTRIES_SYNCED)
        return len(entries)

    def _sign(self) -> None:
        """Put a checkpoint over all leaves on the disk."""
        head = Checkpoint(self._key.name, self._frontier.size, self._frontier.root())
        note = head.signed(self._key)
        path = self.directory / CHECKPOINT
        with whole_file(path, replace=True, mode=PUBLIC) as file:
            file.write(note.encode().encode())
            self._step(AppendStep.CHECKPOINT_DRAFTED)
        self.checkpoint, self.size = note, head.size
        self._step(AppendStep.CHECKPOINT_WRITTEN)

    def _write_tail(self) -> None:
        """Put the tail on the disk anew, whole, with what is known to belong to it."""
        data = encode_tail(self._number, self._entries)
        write_whole(self.directory / TAIL, data, replace=True, mode=PRIVATE)
        self._open_tail()
        self._is_tail_sound = True

    def _begin_bundle(self) -> None:
        """Write the files of the tail, which is full, and begin an empty one.

        Whatever ends it halfway, it is done again: the tail stays until all files are there.
        """
        written = write_full_bundle(self._tree, self._number, self._entries, self._step)
        # From here on the tail is the new one, whether or not it got its name on the disk.
        self._number += 1
        self._entries = []
        self._tree.edge, self._tree.tail = self._number * TILE_WIDTH, []
        self._is_tail_sound = False
        self._write_tail()
        self._step(AppendStep.TAIL_BEGUN)
        for path in written:
            remove_narrower(path)
        self._step(AppendStep.OLD_TILES_REMOVED)
        self._bring_index_up_to_date()
        self._step(AppendStep.INDEXED)

    def _bring_index_up_to_date(self) -> None:
        """Add what is new, and some of what is missing. No append fails because of the index."""
        try:
            reader = LogReader.open(self.directory)
            Index(self.directory).update(reader, most=_INDEXED_AT_ONCE, seconds=_INDEX_SECONDS)
        except SigulError as error:
            tell(log, EvidenceLog.SIGNING_LOG_INDEX_NOT_UPDATED, why=str(error))

    # ----------------------------------------------------------------------------------- evidence

    def evidence(self, index: int, old_size: int = 0, *, introduced: bool = False) -> Evidence:
        """Evidence that leaf `index` is in the log, and that this extends the one of `old_size`.

        Where the log was never of that size, the second is left out, and `old_size` is 0. With
        `introduced` it has the first leaf as well, for one that knows other logs.
        """
        if not 0 <= index < self.size:
            raise NotProven(f"there is no leaf {index} in a log of {self.size} leaves")
        inclusion = tuple(inclusion_proof(index, self.size, self._tree.node))
        found = self.checkpoint_evidence(old_size, introduced=introduced)
        return replace(found, entry=self._entry(index), index=index, inclusion=inclusion)

    def checkpoint_evidence(self, old_size: int = 0, *, introduced: bool = False) -> Evidence:
        """The checkpoint, and that it extends the log of `old_size`, as in `evidence`."""
        old_size, consistency = self._consistency(old_size)
        key = self.public_key.key
        found = Evidence(b"", 0, (), self.checkpoint, old_size, consistency, key)
        if not introduced or not self.size:
            return found
        first = tuple(inclusion_proof(0, self.size, self._tree.node))
        return replace(found, first=self._entry(0), first_inclusion=first)

    def _consistency(self, old_size: int) -> tuple[int, tuple[bytes, ...]]:
        if not 0 < old_size <= self.size:
            return 0, ()
        return old_size, tuple(consistency_proof(old_size, self.size, self._tree.node))

    def _entry(self, index: int) -> bytes:
        number, place = divmod(index, TILE_WIDTH)
        if number == self._number:
            return self._entries[place]
        return self._tree.bundle(number)[place]


def _now() -> str:
    now = datetime.now(UTC)
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
