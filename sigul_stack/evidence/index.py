"""Search a signing log without reading all of it.

    index.sqlite3    state(version, origin, bundles, last)   one row
                     postings(term, bundle)                  bundles that have a leaf with a term

A term is the first 8 bytes, as a signed number, of SHA-256(KIND ‖ 00 ‖ value). The index holds the
full bundles before `bundles`; `last` is the hash over the last of them, so that an index of another
log is seen. It is derived, whoever may write to the directory may bring it up to date, and nobody
believes it: what it names is read from the log and proven to be there. What it lacks is read leaf
by leaf, and so is all of a log without one. Times never go back, so they need no index.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ..formats.merkle_tree import TILE_LEVELS, TILE_WIDTH, NotProven, hash_leaf, verify_inclusion
from ..logevents import tell
from ..system.files import opened
from .leaf import Leaf
from .log_events import EvidenceLog
from .log_files import INDEX, PRIVATE, SigningLogError
from .log_reader import LogReader

log = logging.getLogger(__name__)

_VERSION: Final = 1
#: How long a lock of the index is waited for, in seconds: a search or another's update ends soon.
_LOCK_SECONDS: Final = 5.0
#: Bundles of one transaction, about a million leaves: SQLite sorts their terms in files of its own.
_BUNDLES_AT_ONCE: Final = 4096
#: Bundles that are asked for at once: the index is not locked while they are read.
_NAMED_AT_ONCE: Final = 1000

_SCHEMA: Final = """
CREATE TABLE state(version INTEGER, origin TEXT, bundles INTEGER, last BLOB);
CREATE TABLE postings(term INTEGER, bundle INTEGER, PRIMARY KEY(term, bundle)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Query:
    """The leaves that are looked for: those that have all that is not empty here.

    `key` is a key's name or one of its fingerprints, `client` the name in a certificate or that
    certificate's fingerprint, `digest` the SHA-256 (hexadecimal) of an input, an output, a
    signature, or of what was signed. `since` and `until` are times as leaves have them, or their
    beginnings (`2026-11-30`), and both included. `limit` is the most hits, 0 for all.
    """

    key: str = ""
    user: str = ""
    client: str = ""
    op: str = ""
    file: str = ""
    digest: str = ""
    request: str = ""
    result: str = ""
    since: str = ""
    until: str = ""
    newest_first: bool = False
    limit: int = 0

    def matches(self, leaf: Leaf) -> bool:
        """Tell whether a leaf is one of these."""
        return (
            all(value in _values(leaf)[kind] for kind, value in self._wanted())
            and self.result in ("", leaf.result)
            and self.since <= leaf.time
            and (not self.until or leaf.time[: len(self.until)] <= self.until)
        )

    def terms(self) -> list[int]:
        """The terms that the index is asked for."""
        return [_term(kind, value) for kind, value in self._wanted()]

    def _wanted(self) -> list[tuple[str, str]]:
        rows = [(row.name, getattr(self, row.name)) for row in fields(self)]
        return [
            (name, value.lower() if name == "digest" else value)
            for name, value in rows
            if name in _KINDS and value
        ]


_KINDS: Final = ("key", "user", "client", "op", "file", "digest", "request")


def _values(leaf: Leaf) -> dict[str, tuple[str, ...]]:
    """The values of a leaf by which it is found, for each of `_KINDS`."""
    key, client = leaf.key, leaf.client
    contents = [content.sha256 for content in (leaf.input, leaf.output) if content is not None]
    return {
        "key": () if key is None else (key.name, key.fingerprint, key.signer),
        "user": (leaf.user,),
        "client": () if client is None else (client.name, client.certificate),
        "op": (leaf.op,),
        "file": (leaf.file,),
        "digest": (leaf.signed, *contents, *leaf.signatures),
        "request": (leaf.request,),
    }


def _term(kind: str, value: str) -> int:
    data = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True)


def find(reader: LogReader, query: Query) -> Iterator[tuple[int, Leaf]]:
    """The leaves that `query` asks for, each with its index, in the log's order or against it.

    Each is proven to be in the log of the reader's checkpoint, whose signature is the caller's to
    check. Raises `NotProven` where one is not, or is of a schema that is not known here.
    """
    start = _first_at(reader, lambda time: time >= query.since) if query.since else 0
    stop = reader.size
    if until := query.until:
        stop = _first_at(reader, lambda time: time[: len(until)] > until)
    found = 0
    for number in _candidates(reader, query, start // TILE_WIDTH, -(-stop // TILE_WIDTH)):
        first = number * TILE_WIDTH
        rows = list(enumerate(reader.bundle(number), first))
        for index, entry in reversed(rows) if query.newest_first else rows:
            if not start <= index < stop:
                continue
            leaf = Leaf.parse(entry)
            if not query.matches(leaf):
                continue
            proof = reader.inclusion(index)
            verify_inclusion(hash_leaf(entry), index, reader.size, proof, reader.head.root)
            yield index, leaf
            found += 1
            if found == query.limit:
                return


def _first_at(reader: LogReader, reached: Callable[[str], bool]) -> int:
    """The index of the first leaf whose time has `reached` something; the log's size if none."""
    low, high = 0, reader.size
    while low < high:
        middle = (low + high) // 2
        if reached(Leaf.parse(reader.entry(middle)).time):
            high = middle
        else:
            low = middle + 1
    return low


def _candidates(reader: LogReader, query: Query, start: int, stop: int) -> Iterator[int]:
    """The numbers of bundles that may have hits: those the index names, and those it lacks."""
    terms = query.terms()
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(_reading(reader)) if terms else None
        known = start
        if connection is not None:
            known = min(max(_state(connection, reader), start), stop)
        rest = range(known, stop)
        if query.newest_first:
            yield from reversed(rest)
        if connection is not None:
            yield from _named(connection, terms, start, known, newest_first=query.newest_first)
        if not query.newest_first:
            yield from rest


def _named(
    connection: sqlite3.Connection, terms: list[int], start: int, stop: int, *, newest_first: bool
) -> Iterator[int]:
    joins = "".join(
        f" JOIN postings AS p{number} ON p{number}.bundle = p0.bundle AND p{number}.term = ?"
        for number in range(1, len(terms))
    )
    order = "DESC" if newest_first else "ASC"
    statement = (
        f"SELECT p0.bundle FROM postings AS p0{joins}"  # noqa: S608 - of numbers and words of ours
        f" WHERE p0.term = ? AND p0.bundle >= ? AND p0.bundle < ? ORDER BY p0.bundle {order}"
        f" LIMIT {_NAMED_AT_ONCE}"
    )
    while start < stop:
        rows = connection.execute(statement, (*terms[1:], terms[0], start, stop)).fetchall()
        for (number,) in rows:
            yield number
        if len(rows) < _NAMED_AT_ONCE:
            return
        if newest_first:
            stop = rows[-1][0]
        else:
            start = rows[-1][0] + 1


@contextmanager
def _reading(reader: LogReader) -> Iterator[sqlite3.Connection | None]:
    """The index of a log, to be read alone; None where there is none that is right."""
    path = reader.directory / INDEX
    if not path.is_file():
        yield None
        return
    connection = None
    try:
        name = f"file:{quote(str(path.absolute()))}?mode=ro"
        connection = sqlite3.connect(name, uri=True, timeout=_LOCK_SECONDS)
        connection.execute("PRAGMA trusted_schema = OFF")
        is_right = _state(connection, reader) > 0
    except sqlite3.Error as error:
        tell(log, EvidenceLog.INDEX_UNUSABLE, path=str(path), why=str(error))
        is_right = False
    try:
        yield connection if is_right else None
    except sqlite3.Error as error:
        raise SigningLogError(
            f"the index {path} of the signing log is damaged: {error}",
            "remove it: the log is read without it, and the server makes it anew",
        ) from None
    finally:
        if connection is not None:
            connection.close()


def _state(connection: sqlite3.Connection, reader: LogReader) -> int:
    """The number of bundles that an index has, 0 where it is none of this log."""
    row = connection.execute("SELECT version, origin, bundles, last FROM state").fetchone()
    if row is None or row[:2] != (_VERSION, reader.head.origin):
        return 0
    bundles, last = row[2:]
    if not isinstance(bundles, int) or bundles <= 0:
        return 0
    try:
        if bundles << TILE_LEVELS > reader.tree.edge:
            # It is right where the log has grown since the reader was opened, and else another's.
            reader = LogReader.open(reader.directory)
        there = bundles << TILE_LEVELS <= reader.tree.edge
        return bundles if there and reader.node(TILE_LEVELS, bundles - 1) == last else 0
    except NotProven:
        return 0


class Index:
    """The index of a log for whoever may write it: its server, or a person who has it made anew.

    An error of SQLite is told in the log and is no fault of the signing log's: the index then lacks
    something, and the next update adds that.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / INDEX

    def update(
        self, reader: LogReader, *, most: int | None = None, seconds: float = _LOCK_SECONDS
    ) -> int:
        """Add the full bundles that are missing, at most so many; how many are still missing.

        Waits up to `seconds` for others that use the index.
        """
        full = reader.tree.edge // TILE_WIDTH
        have, left = 0, full if most is None else most
        try:
            with self._writing(seconds) as connection:
                have = self._begin(connection, reader)
                while left > 0 and have < full:
                    stop = min(full, have + left, have + _BUNDLES_AT_ONCE)
                    self._gather(connection, reader, have, stop)
                    self._add(connection, reader, have, stop)
                    left -= stop - have
                    have = stop
        except (sqlite3.Error, OSError) as error:
            tell(log, EvidenceLog.INDEX_NOT_UPDATED, path=str(self.path), why=str(error))
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, sqlite3.OperationalError
            ):
                # It is damaged: the next update begins with nothing.
                with contextlib.suppress(OSError):
                    self.path.unlink()
        return max(0, full - have)

    @contextmanager
    def _writing(self, seconds: float) -> Iterator[sqlite3.Connection]:
        with opened(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE):
            pass
        connection = sqlite3.connect(self.path, timeout=seconds, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def _begin(self, connection: sqlite3.Connection, reader: LogReader) -> int:
        """The number of bundles that the index has; one of another log is emptied."""
        connection.execute("CREATE TEMP TABLE gathered(term INTEGER, bundle INTEGER)")
        with _transaction(connection, "IMMEDIATE"):
            names = {name for (name,) in connection.execute("SELECT name FROM main.sqlite_schema")}
            if names and names != {"state", "postings"}:
                raise sqlite3.DatabaseError("it has other tables")
            if not names:
                for statement in _SCHEMA.strip().split(";"):
                    connection.execute(statement)
            elif have := _state(connection, reader):
                return have
            connection.execute("DELETE FROM postings")
            connection.execute("DELETE FROM state")
            connection.execute(
                "INSERT INTO state VALUES (?, ?, 0, ?)", (_VERSION, reader.head.origin, b"")
            )
        return 0

    def _gather(
        self, connection: sqlite3.Connection, reader: LogReader, start: int, stop: int
    ) -> None:
        """Put the terms of some bundles into a table of this connection, which locks nothing."""
        with _transaction(connection):
            connection.execute("DELETE FROM gathered")
            for number in range(start, stop):
                terms = {
                    _term(kind, value)
                    for entry in reader.bundle(number)
                    for kind, values in _values(Leaf.parse(entry)).items()
                    for value in values
                    if value
                }
                rows = ((term, number) for term in terms)
                connection.executemany("INSERT INTO gathered VALUES (?, ?)", rows)

    def _add(
        self, connection: sqlite3.Connection, reader: LogReader, start: int, stop: int
    ) -> None:
        """Add what was gathered, in the order of the index: each of its pages is written once."""
        last = reader.node(TILE_LEVELS, stop - 1)
        with _transaction(connection, "IMMEDIATE"):
            (have,) = connection.execute("SELECT bundles FROM state").fetchone()
            if have != start:
                return  # another has done it meanwhile, or begun anew
            connection.execute(
                "INSERT OR IGNORE INTO postings SELECT * FROM gathered ORDER BY term, bundle"
            )
            connection.execute("UPDATE state SET bundles = ?, last = ?", (stop, last))


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "DEFERRED") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
