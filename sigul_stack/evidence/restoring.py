"""An honest restore of a signing log, and a new origin where there is none to be had.

`complete` brings a log that was put back from a backup, or is damaged, to the state of a copy that
was pushed elsewhere. The copy's checkpoint is signed by this log's key and extends the one that
lies here, and nothing of the copy is taken before all of it has given the signed root. Then tiles
are written that are missing, after them the tail, and the copy's checkpoint last: a run that was
killed is simply run again, and until then the log does not open, or as it was.

`new_origin` moves the log aside, whatever state it is in, and begins another one, whose first leaf
names the last checkpoint that is known. Witnesses complain of it until people have accepted it.

The server must be stopped: both need the log's lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from ..errors import SigulError
from ..formats.merkle_tree import EMPTY_ROOT, TILE_WIDTH, Frontier, NotProven, hash_leaf
from ..formats.signed_note import (
    Checkpoint,
    Note,
    PublicKey,
    open_checkpoint,
)
from ..system.files import opened, sync, try_lock, write_whole
from .leaf import LOG_RESTORED, Leaf, Result
from .log_files import (
    CHECKPOINT,
    INDEX,
    KEY,
    PUBLIC_KEY,
    TAIL,
    SigningLogError,
    encode_tail,
    read_checkpoint,
    read_file,
    read_private_key,
    read_public_key,
)
from .log_reader import LogReader
from .signing_log import SigningLog, create, is_vacant
from .tile_builder import TileBuilder

#: Ending of the name that a log gets which is moved aside.
_ASIDE: Final = ".before-"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep every server from opening the log. Raises `SigningLogError` where one has it open."""
    try:
        with opened(directory / KEY, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            if not try_lock(descriptor):
                raise SigningLogError(
                    f"the signing log '{directory}' is in use", "stop the server, and try again"
                )
            yield
    except FileNotFoundError:
        raise SigningLogError(
            f"there is no signing log in '{directory}': it has no key",
            "put it back from a backup first, or start a new origin",
        ) from None


@dataclass(frozen=True, slots=True)
class Completed:
    """A log that was completed: leaves in its checkpoint before, and in it now."""

    old_size: int
    size: int


def complete(
    directory: Path, copy: Path, *, on_progress: Callable[[int], None] = lambda _count: None
) -> Completed:
    """Bring the log in `directory` to the state of a `copy`, and append a leaf that says so.

    `on_progress` is called with numbers of leaves, each of which is read twice. Raises
    `SigulError`, `NotProven` where the copy is not of this log; nothing was changed then.
    """
    source = LogReader.open(copy)
    try:
        with _locked(directory):
            key = read_private_key(directory).public
            head = open_checkpoint(source.checkpoint, key)
            old = _old_head(directory, key)
            if old.size > head.size:
                _refuse_old_copy(directory, old, head)
            digests = _prove(source, head, old, on_progress)
            _take(directory, source, digests, on_progress)
            public = f"{key.encode()}\n".encode()
            write_whole(directory / PUBLIC_KEY, public, replace=True, mode=0o644)
            # Last, for it vouches for all that was written before.
            note = source.checkpoint.encode().encode()
            write_whole(directory / CHECKPOINT, note, replace=True, mode=0o644)
    except OSError as error:
        raise SigningLogError(
            f"the signing log '{directory}' cannot be completed: {error.strerror or error}",
            "make room there, or let this user write, and run this again",
        ) from error
    with SigningLog.open(directory) as log:
        missing = head.size - old.size
        log.append(
            [
                Leaf(
                    LOG_RESTORED,
                    Result.OK,
                    reason=f"{missing} leaves that were missing are those of a copy",
                    previous=source.checkpoint.encode(),
                )
            ]
        )
        return Completed(old.size, log.size)


def _old_head(directory: Path, key: PublicKey) -> Checkpoint:
    """The log's own checkpoint; where it is missing or damaged, that of an empty one."""
    try:
        return open_checkpoint(read_checkpoint(directory), key)
    except (FileNotFoundError, NotProven):
        return Checkpoint(key.name, 0, EMPTY_ROOT)


def _refuse_old_copy(directory: Path, old: Checkpoint, head: Checkpoint) -> None:
    """Raise for a copy that has less than the log's checkpoint."""
    own = LogReader.open(directory)
    if own.root(head.size) != head.root:
        raise NotProven(
            f"the copy of {head.size} leaves is not the beginning of this log: one of both was"
            " forked",
            "keep both, and find out which of them witnesses have seen: docs/audit.md",
        )
    raise SigulError(
        f"nothing is missing: the log has {old.size} leaves, the {head.size} of the copy among"
        " them",
        "name a later copy, if there is one",
    )


def _prove(
    source: LogReader, head: Checkpoint, old: Checkpoint, on_progress: Callable[[int], None]
) -> list[bytes]:
    """A digest of each bundle of the copy, which is of `head` and extends `old`.

    Raises `NotProven`.
    """
    edge, digests, old_root = Frontier(), [], EMPTY_ROOT
    for batch in _bundles(source):
        for entry in batch:
            edge.append(hash_leaf(entry))
            if edge.size == old.size:
                old_root = edge.root()
        digests.append(_digest(batch))
        on_progress(len(batch))
    if edge.root() != head.root:
        raise NotProven(
            "the leaves of the copy do not give the root that the log has signed: it is damaged",
            "name another copy",
        )
    if old_root != old.root:
        raise NotProven(
            f"the copy does not extend this log's checkpoint of {old.size} leaves: the log was"
            " written to after it was put back, or one of both was forked",
            "put the log back once more and keep the server stopped; else start a new origin:"
            " docs/audit.md",
        )
    return digests


def _take(
    directory: Path, source: LogReader, digests: list[bytes], on_progress: Callable[[int], None]
) -> None:
    """Write what the log lacks of the copy, whose bundles have these digests."""

    def write(name: str, content: bytes) -> None:
        place = directory / name
        with contextlib.suppress(FileNotFoundError, NotProven):
            if read_file(place, len(content)) == content:
                return
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(place, content, replace=True, mode=0o644)

    builder, rest = TileBuilder(write), list[bytes]()
    for batch, digest in zip(_bundles(source), digests, strict=True):
        if _digest(batch) != digest:
            raise NotProven(
                "the copy changes while it is read", "end whoever writes to it, and run this again"
            )
        if len(batch) == TILE_WIDTH:
            builder.add(batch)
        else:
            rest = batch
        on_progress(len(batch))
    number = builder.size // TILE_WIDTH
    builder.finish()
    for directory_below, _names, _files in os.walk(directory / "tile"):
        sync(Path(directory_below))
    (directory / INDEX).unlink(missing_ok=True)
    write_whole(directory / TAIL, encode_tail(number, rest), replace=True)


def _bundles(source: LogReader) -> Iterator[list[bytes]]:
    for number in range(-(-source.size // TILE_WIDTH)):
        yield list(source.bundle(number))


def _digest(batch: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join(map(hash_leaf, batch))).digest()


@dataclass(frozen=True, slots=True)
class NewOrigin:
    """The place of the old log, None where there was none, and the new one's first checkpoint."""

    aside: Path | None
    checkpoint: Note


def new_origin(
    directory: Path, name: str, *, now: datetime, previous: Note | None = None
) -> NewOrigin:
    """Begin a log of the server `name` in `directory`, and move aside the one that is there.

    Its first leaf names `previous`, or where that is None the last checkpoint of the old log.
    Raises `SigulError`, also where neither is known. `now` is part of the name that the old one
    gets.
    """
    draft = directory.with_name(f"{directory.name}.new")
    aside = directory.with_name(f"{directory.name}{_ASIDE}{now:%Y%m%dT%H%M%SZ}")
    is_there = os.path.lexists(directory)
    try:
        with contextlib.ExitStack() as resources:
            if is_there:
                if (directory / KEY).exists():
                    resources.enter_context(_locked(directory))
                if not is_vacant(directory):
                    previous = previous or _last_checkpoint(directory)
            if previous is None:
                raise SigulError(
                    f"there is no log in '{directory}' whose last checkpoint a new one could name",
                    "give --previous FILE: the checkpoint of a pushed copy, of a log that was moved"
                    f" aside ('{directory.name}{_ASIDE}…'), or one that a client remembers",
                )
            if os.path.ismount(directory):
                _require_vacant(directory)
                create(directory, name, previous=previous)
                is_there = False
            else:
                if draft.exists():  # of a run that was killed: nobody has seen this log
                    shutil.rmtree(draft)
                create(draft, name, previous=previous)
                if is_there:
                    directory.rename(aside)
                draft.rename(directory)
                sync(directory.parent)
    except OSError as error:
        raise SigulError(
            f"'{directory}' cannot be replaced: {error.strerror or error}",
            "let this user write to the directory that it is in",
        ) from error
    return NewOrigin(aside if is_there else None, LogReader.open(directory).checkpoint)


def _require_vacant(mount: Path) -> None:
    """Raise where a log is in a file system of its own, which has no other name to be moved to."""
    if not is_vacant(mount):
        raise SigulError(
            f"'{mount}' is a file system of its own, and cannot be moved aside",
            "with the server stopped, move all that is in it to another place, and give --previous"
            f" {CHECKPOINT} from there",
        )


def _last_checkpoint(directory: Path) -> Note:
    """The checkpoint of a log that may be damaged otherwise. Raises `SigulError`."""
    try:
        note, key = read_checkpoint(directory), read_public_key(directory)
    except FileNotFoundError:
        key = None
    if key is None:
        raise SigulError(
            f"the log in '{directory}' has lost its checkpoint or its public key",
            "give --previous FILE: the checkpoint of a pushed copy, or one that a client remembers",
        )
    open_checkpoint(note, key)
    return note
