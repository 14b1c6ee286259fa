"""The memory of a witness: the logs that it knows, its complaints, and the file that keeps both.

    {"version": 1, "logs": [{"server", "key", "note", …}], "complaints": [{"server", "kind", …}]}

Invariant: the file is whole or not there, of mode 0600, and lies in a directory of the process's
own user: nobody else can put another in its place, and root touches no name that others may move.
Where there is no such place, memory is the process's. A file that cannot be read is an error and
never taken for an empty one: whoever can spoil it would else have all logs forgotten.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import SigulError
from ..formats.merkle_tree import NotProven
from ..formats.signed_note import Checkpoint, Note, PublicKey
from ..logevents import tell
from ..records import dataclass, field, fields, replace
from ..system.files import locked, write_whole
from .log_events import EvidenceLog

log = logging.getLogger(__name__)

_VERSION: Final = 1
#: Most logs and complaints that are kept, and the largest note of them, in bytes.
MAX_KEPT: Final = 64
MAX_NOTE_BYTES: Final = 2048
#: Largest file, in bytes: more than all of those together.
MAX_FILE_BYTES: Final = 1 << 20
#: Seconds that others may hold the file's lock: they write one file.
LOCK_SECONDS: Final = 10.0


class Kind(enum.StrEnum):
    """The kinds of complaints. What is accepted of each: see `accepted`."""

    #: Another log than the one that is known, or one that is not trusted.
    OTHER_LOG = "other log"
    #: A log of the known name, signed by another key.
    OTHER_KEY = "other key"
    #: A checkpoint that the known one is no part of: shrunk, or forked.
    CONTRADICTION = "contradiction"
    #: Nothing of a log where one is known.
    MISSING = "missing"
    #: A leaf about something else than was asked for, an old one, or none.
    WRONG_LEAF = "wrong leaf"
    #: Something that proves nothing.
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log, as it was last seen. Times are in seconds since 1970.

    `note` is a checkpoint that was proven to extend the one before it. `largest` is a larger one,
    or None, that is only proven to extend one before `note`: two requests were answered at once.
    `cosigned` is `note` with this witness's own cosignature, where it has a key.
    """

    server: str
    key: PublicKey
    note: Note
    first_seen: int
    last_seen: int
    largest: Note | None = None
    cosigned: Note | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that `note` says."""
        return Checkpoint.of(self.note)

    @property
    def floor(self) -> Checkpoint:
        """The largest checkpoint that was seen: the log never has fewer leaves again."""
        return self.checkpoint if self.largest is None else Checkpoint.of(self.largest)


@dataclass(frozen=True, slots=True)
class Complaint:
    """The fault that was found with a server's log. `when` is in seconds since 1970.

    `known` is the checkpoint that was known, `shown` the one that the server has shown, and `key`
    the one that has signed that, or None where nothing proves who has.
    """

    server: str
    origin: str
    kind: Kind
    problem: str
    when: int
    known: Note | None = None
    shown: Note | None = None
    key: PublicKey | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """All that a witness remembers: logs by their origins, and one complaint a server's name."""

    logs: Mapping[str, KnownLog] = field(default_factory=dict)
    complaints: Mapping[str, Complaint] = field(default_factory=dict)

    def of(self, server: str) -> dict[str, KnownLog]:
        """The logs of a server's name."""
        return {origin: item for origin, item in self.logs.items() if item.server == server}

    def with_log(self, found: KnownLog) -> Memory:
        """The same with a log, in the place of the one of its origin. Raises `SigulError`."""
        logs = {**self.logs, found.key.name: found}
        if len(logs) > MAX_KEPT:
            raise SigulError(
                f"{MAX_KEPT} signing logs are known already",
                "forget those of servers that are gone: sigul-stack witness forget ORIGIN",
            )
        return replace(self, logs=logs)

    def with_complaint(self, found: Complaint) -> Memory:
        """The same with a complaint; the first one of a server's name stays."""
        if found.server in self.complaints or len(self.complaints) >= MAX_KEPT:
            return self
        return replace(self, complaints={**self.complaints, found.server: found})

    def forgotten(self, origin: str) -> Memory:
        """The same without a log."""
        logs = {name: item for name, item in self.logs.items() if name != origin}
        return replace(self, logs=logs)

    def accepted(self, complaint: Complaint, when: int) -> Memory:
        """The same, where a person has accepted what a complaint is about.

        A log that was shown and is signed takes the place of the known one; what is missing is
        forgotten; of a leaf or of damage only the complaint goes.
        """
        found = Memory(
            self.logs,
            {name: item for name, item in self.complaints.items() if name != complaint.server},
        )
        replaces = complaint.kind in (Kind.OTHER_LOG, Kind.OTHER_KEY, Kind.CONTRADICTION)
        taken = replaces and complaint.key is not None and complaint.shown is not None
        if complaint.kind is Kind.MISSING:
            for origin in self.of(complaint.server):
                found = found.forgotten(origin)
        elif taken and complaint.known is not None:
            found = found.forgotten(Checkpoint.of(complaint.known).origin)
        if taken and complaint.key is not None and complaint.shown is not None:
            known = KnownLog(complaint.server, complaint.key, complaint.shown, when, when)
            found = found.with_log(known)
        return found


class MemoryFile:
    """The place of a witness's memory: a file, or None for this process's own memory."""

    def __init__(self, path: Path | None, *, is_usual: bool = False) -> None:
        """`is_usual`: nobody has asked for this file, so it may well be that it cannot be."""
        self.path = path
        self._is_usual = is_usual
        self._memory = Memory()
        self._threads = threading.Lock()
        self._told = False

    def read(self) -> Memory:
        """The memory at this moment. Raises `SigulError` where the file is damaged."""
        with self._place() as place:
            return self._memory if place is None else _read(place, self.path)

    def change(self, change: Callable[[Memory], Memory]) -> Memory:
        """Remember what `change` makes of what is remembered, and return that.

        For one process and one thread at a time. Raises `SigulError`, also what `change` raises.
        """
        with self._threads, self._place() as place:
            if place is None:
                self._tell()
                self._memory = change(self._memory)
                return self._memory
            busy = SigulError(
                f"'{self.path}' is being changed for more than {LOCK_SECONDS:g} s by another"
                " process",
                "try again; where it stays so, end the process that has its lock (fuser)",
            )
            try:
                with locked(place.with_name(f"{place.name}.lock"), LOCK_SECONDS, busy, make=True):
                    old = _read(place, self.path)
                    new = change(old)
                    if new != old:
                        write_whole(place, encode(new), replace=True, mode=0o600)
                    return new
            except OSError as error:
                raise SigulError(
                    f"what is known of signing logs cannot be kept in '{self.path}':"
                    f" {error.strerror}",
                    "make room there, or name another file with signing-log-state",
                ) from error

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path | None]:
        """The file's name in its directory, which is held open; None where it may not be there."""
        descriptor = self._directory()
        if descriptor is None or self.path is None:
            yield None
            return
        try:
            # By its descriptor: the names on the way to it may be others' to move.
            yield Path(f"/proc/self/fd/{descriptor}") / self.path.name
        finally:
            os.close(descriptor)

    def _directory(self) -> int | None:
        if self.path is None:
            return None
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            descriptor = os.open(self.path.parent, flags)
        except OSError:
            return None
        found = os.fstat(descriptor)
        mine = found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if mine and os.access(f"/proc/self/fd/{descriptor}", os.W_OK | os.X_OK, effective_ids=True):
            return descriptor
        os.close(descriptor)
        return None

    def _tell(self) -> None:
        """Say once that what is known ends with this process."""
        if self.path is not None and not self._told:
            self._told = True
            event = (
                EvidenceLog.WITNESS_WITHOUT_STATE if self._is_usual else EvidenceLog.WITNESS_FORGETS
            )
            tell(log, event, path=str(self.path.parent), user_id=os.geteuid())


# ------------------------------------------------------------------------------------ the content


def encode(memory: Memory) -> bytes:
    """The file's content."""
    document = {
        "version": _VERSION,
        "logs": [_members(item) for _origin, item in sorted(memory.logs.items())],
        "complaints": [_members(item) for _server, item in sorted(memory.complaints.items())],
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _members(item: KnownLog | Complaint) -> dict[str, str | int]:
    members = {row.name: getattr(item, row.name) for row in fields(item)}
    return {
        name: value.encode() if isinstance(value, PublicKey | Note) else value
        for name, value in members.items()
        if value is not None
    }


def _read(place: Path, path: Path | None) -> Memory:
    """The memory in a file; an empty one where there is none. Raises `SigulError`."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(place, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is no plain file")
            data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ValueError("it is too large")
        return decode(data)
    except FileNotFoundError:
        return Memory()
    except OSError as error:
        problem = error.strerror or "it cannot be opened"
    except (ValueError, KeyError, TypeError, AttributeError, NotProven) as error:
        problem = str(error) or type(error).__name__
    raise SigulError(
        f"'{path}', which holds what is known of signing logs, cannot be read: {problem}",
        "put it back from a backup; or ask the site's security people for the log's last checkpoint"
        " before you remove it, for the next log that the server shows is taken then",
    )


def decode(data: bytes) -> Memory:
    """The memory in a file's content. Raises ValueError, KeyError and the like, or `NotProven`."""
    document = json.loads(data)
    if document["version"] != _VERSION:
        raise ValueError(f"it is of version {document['version']!r:.20}, {_VERSION} is known here")
    logs = [KnownLog(**_values(item)) for item in document["logs"]]
    complaints = [Complaint(**_values(item)) for item in document["complaints"]]
    if max(len(logs), len(complaints)) > MAX_KEPT:
        raise ValueError("it holds too much")
    for item in logs:
        if item.checkpoint.origin != item.key.name or item.floor.origin != item.key.name:
            raise ValueError("a checkpoint in it is of another log than its key")
    return Memory(
        {item.key.name: item for item in logs}, {item.server: item for item in complaints}
    )


_NOTES: Final = ("note", "largest", "cosigned", "known", "shown")
_TIMES: Final = ("first_seen", "last_seen", "when")


def _values(members: Mapping[str, object]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in members.items():
        if not isinstance(value, int if name in _TIMES else str):
            raise TypeError(f"{name} is a {type(value).__name__}")
        match value:
            case str() if name in _NOTES:
                values[name] = Note.parse(value)
            case str() if name == "key":
                values[name] = PublicKey.parse(value)
            case str() if name == "kind":
                values[name] = Kind(value)
            case _:
                values[name] = value
    return values


def kept_note(note: Note, keys: Sequence[PublicKey] = ()) -> Note | None:
    """A note as it is kept: with the signatures of `keys` alone; None where it is too large."""
    wanted = [(key.name, key.id) for key in keys]
    found = Note(note.text, tuple(row for row in note.signatures if row[:2] in wanted))
    if not found.signatures:
        found = Note(note.text, note.signatures[:1])
    return found if len(found.encode().encode()) <= MAX_NOTE_BYTES else None
