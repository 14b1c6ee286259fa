"""An honest restore of a signing log, and a new origin where there is none to be had.

`complete` brings a log that was put back from a backup to the state of a copy that was pushed
elsewhere: the copy's checkpoint is signed by this log's key, and what it has more extends what is
here. Each batch is durable before the next, and in the copy's order, so that a run that was killed
is simply run again. Nothing of a copy is taken before all of it has given the signed root, and
what is appended then is what was looked at.

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
from ..formats.merkle_tree import (
    TILE_WIDTH,
    Frontier,
    NotProven,
    full_nodes,
    hash_leaf,
    subtree_hash,
)
from ..formats.signed_note import LOG_KEY, MAX_NOTE_BYTES, Note, open_checkpoint
from ..system.files import sync
from .leaf import LOG_RESTORED, Leaf, Result
from .log_reader import LogReader
from .matching import read_keys, read_text
from .signing_log import SigningLog, create

#: Ending of the name that a log gets which is moved aside.
_ASIDE: Final = ".before-"


@dataclass(frozen=True, slots=True)
class Completed:
    """What `complete` did: the log's size before, leaves that were missing, and its size now."""

    old_size: int
    added: int
    size: int


def complete(
    directory: Path, copy: Path, *, on_progress: Callable[[int], None] = lambda _count: None
) -> Completed:
    """Append to the log in `directory` what the `copy` of it has more, and a leaf that says so.

    `on_progress` is called with numbers of leaves, each of which is read twice. Raises
    `SigulError`, `NotProven` where the copy is not of this log; nothing was appended then.
    """
    source = LogReader.open(copy)
    with SigningLog.open(directory) as log:
        own = LogReader.open(directory)
        target = open_checkpoint(source.checkpoint, log.public_key)
        old_size = log.size
        if target.size < old_size:
            _refuse_old_copy(own, source, target.root, target.size)
        edge = Frontier(old_size, [own.node(*place) for place in full_nodes(0, old_size)])
        known: list[bytes] = []
        for batch in _batches(source, old_size, target.size):
            for entry in batch:
                edge.append(hash_leaf(entry))
            known.append(_digest(batch))
            on_progress(len(batch))
        if edge.root() != target.root:
            raise NotProven(
                f"the copy in '{copy}' does not extend this log of {old_size} leaves: one of both"
                " is damaged, or the log was written to after it was put back",
                "look at both with `sigul-stack audit verify`; else start a new origin:"
                " docs/audit.md, Restoring",
            )
        for batch, digest in zip(
            _batches(source, old_size, target.size), known, strict=True
        ):
            if _digest(batch) != digest:
                raise NotProven(
                    f"the copy in '{copy}' changes while it is read",
                    "end whoever writes to it, and run this again",
                )
            log.append_entries(batch)
            on_progress(len(batch))
        added = target.size - old_size
        leaf = Leaf(
            LOG_RESTORED,
            Result.OK,
            reason=f"{added} leaves were missing and are those of a copy",
            previous=source.checkpoint.encode(),
        )
        log.append([leaf])
        return Completed(old_size, added, log.size)


def _refuse_old_copy(own: LogReader, source: LogReader, root: bytes, size: int) -> None:
    if subtree_hash(0, size, own.node) != root:
        raise NotProven(
            f"the copy of {size} leaves is not the beginning of this log: one of both was forked",
            "keep both, and find out which of them witnesses have seen: docs/audit.md",
        )
    raise SigulError(
        f"nothing is missing: the log has {own.size} leaves, all {source.size} of the copy"
        " among them",
        "name a later copy",
    )


def _batches(source: LogReader, start: int, stop: int) -> Iterator[list[bytes]]:
    """The entries from `start` to `stop`, as many at a time as one bundle has."""
    while start < stop:
        end = min(stop, start - start % TILE_WIDTH + TILE_WIDTH)
        yield list(source.entries(start, end))
        start = end


def _digest(batch: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join(map(hash_leaf, batch))).digest()


@dataclass(frozen=True, slots=True)
class NewOrigin:
    """Where the old log is now, None where there was none, and the first checkpoint of the new."""

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
                resources.enter_context(locked_log(directory))
                previous = previous or _last_checkpoint(directory)
            if previous is None:
                raise SigulError(
                    f"there is no log in '{directory}' whose last checkpoint a new one could name",
                    "give --previous FILE: the checkpoint of a pushed copy, of a log that was moved"
                    f" aside ('{directory.name}{_ASIDE}…'), or one that a client remembers",
                )
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


def _last_checkpoint(directory: Path) -> Note:
    """The checkpoint of a log that may be damaged otherwise. Raises `SigulError`."""
    note = Note.parse(read_text(directory / "checkpoint", MAX_NOTE_BYTES, "checkpoint"))
    open_checkpoint(note, read_keys(directory / "key.pub", LOG_KEY)[0])
    return note
