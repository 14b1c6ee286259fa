"""`audit list`, `show` and `export`: what logs say, for people and for programs."""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from ...errors import SigulError, as_word, quoted
from ..outcome import print_bytes, print_lines
from ..shared_arguments import Subparsers, argument
from .arguments import (
    CONFIGURATION,
    LOGS,
    OF_FILE,
    ONE_LOG,
    add_action,
    digest,
    index_or_digest,
    moment,
    open_log,
    open_logs,
    whole_number,
)

if TYPE_CHECKING:
    from ...evidence.index import Query
    from ...evidence.leaf import Leaf
    from ...evidence.log_reader import LogReader

#: Lines that are written together.
_LINES_AT_ONCE: Final = 256

_SINCE = argument("--since", metavar="TIME", type=moment, help="from this time on, of UTC")
_UNTIL = argument(
    "--until",
    metavar="TIME",
    type=moment,
    help="until this time, or its end where it is a day",
)
_JSON = argument("--json", action="store_true", help="print JSON, an object a line")


def add_actions(actions: Subparsers) -> None:
    """Add the actions."""
    add_action(
        *(actions, "list", _list, "list what logs hold, in the order of time"),
        LOGS,
        CONFIGURATION,
        argument("--key", metavar="NAME", default="", help="what was done with this key"),
        argument("--user", metavar="NAME", default="", help="what this user asked for"),
        argument(
            "--client", metavar="NAME", default="", help="what came with this name's certificate"
        ),
        argument("--op", metavar="NAME", default="", help="this operation alone"),
        argument(
            "--result", choices=("ok", "refused", "failed"), default="", help="what came of it"
        ),
        _SINCE,
        _UNTIL,
        argument("--file", metavar="NAME", default="", help="a file's name, or an RPM's NEVRA"),
        argument("--digest", metavar="HEX", type=digest, help="by a SHA-256 that it has"),
        OF_FILE,
        argument("--limit", metavar="N", type=whole_number, default=0, help="the newest N alone"),
        _JSON,
    )
    add_action(
        *(actions, "show", _show, "show one leaf, whole"),
        argument(
            "leaf", metavar="INDEX|DIGEST", type=index_or_digest, nargs="?", help="which leaf"
        ),
        OF_FILE,
        ONE_LOG,
        CONFIGURATION,
        _JSON,
    )
    add_action(
        *(actions, "export", _export, "print leaves as JSON, an object a line, in a log's order"),
        LOGS,
        CONFIGURATION,
        _SINCE,
        argument(
            "--follow-from",
            metavar="INDEX",
            type=whole_number,
            help="from this leaf of one log on: the index behind the last one that you have",
        ),
    )


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """A leaf and where it is; rows are in the order of time, then of log and index."""

    time: str
    origin: str
    index: int
    leaf: Leaf = field(compare=False)

    def as_json(self) -> str:
        """The row as a JSON object, in one line of ASCII."""
        members = {
            "log": self.origin,
            "index": self.index,
            "leaf": json.loads(self.leaf.encode()),
        }
        return json.dumps(members, separators=(",", ":"))

    def as_text(self, *, with_origin: bool) -> str:
        """The row for people."""
        leaf = self.leaf
        words = [
            str(self.index),
            leaf.time,
            leaf.result,
            as_word(leaf.op),
            *([as_word(leaf.user)] if leaf.user else []),
            *([f"key {as_word(leaf.key.name)}"] if leaf.key is not None else []),
            *([quoted(leaf.file, 120)] if leaf.file else []),
            *([f"({leaf.reason})"] if leaf.reason else []),
        ]
        return " ".join([*([self.origin] if with_origin else []), *words])


def _rows(reader: LogReader, query: Query) -> Iterator[Row]:
    from ...evidence.index import find

    origin = reader.head.origin
    for index, leaf in find(reader, query):
        yield Row(leaf.time, origin, index, leaf)


def _list(options: argparse.Namespace) -> None:
    from ...evidence.index import Query
    from ...evidence.matching import sha256_of

    if options.digest and options.of:
        raise SigulError("--digest and --of name two digests", "give one of them")
    # First, for the file may be one that the server's user must not read.
    sha256 = sha256_of(options.of) if options.of else options.digest
    readers = open_logs(options)
    query = Query(
        key=options.key,
        user=options.user,
        client=options.client,
        op=options.op,
        result=options.result,
        since=options.since or "",
        until=options.until or "",
        file=options.file,
        digest=sha256 or "",
    )
    rows = _in_order(readers, query, options.limit)
    if options.json:
        _print(row.as_json() for row in rows)
    else:
        print_lines(row.as_text(with_origin=len(readers) > 1) for row in rows)


def _in_order(readers: list[LogReader], query: Query, limit: int) -> Iterator[Row]:
    """The hits of all logs in the order of time; the newest `limit`, where that is not 0."""
    if not limit:
        return heapq.merge(*(_rows(reader, query) for reader in readers))
    last = replace(query, newest_first=True, limit=limit)
    found = heapq.merge(*(_rows(reader, last) for reader in readers), reverse=True)
    return reversed(list(islice(found, limit)))


def _print(lines: Iterator[str]) -> None:
    """Print lines of ASCII as they come, many at a time, for there may be millions."""
    while some := list(islice(lines, _LINES_AT_ONCE)):
        print_bytes("".join(f"{line}\n" for line in some).encode())


def _export(options: argparse.Namespace) -> None:
    from ...evidence.index import Query, find

    readers = open_logs(options)
    if options.follow_from is not None and (len(readers) > 1 or options.since):
        raise SigulError(
            "--follow-from is an index of one log", "give one --log, and no --since beside it"
        )
    for reader in readers:
        start = options.follow_from or 0
        if options.since:
            first = Query(since=options.since, limit=1)
            start = next((index for index, _leaf in find(reader, first)), reader.size)
        if start > reader.size:
            raise SigulError(
                f"the log has {reader.size} leaves, and {start} are said to be known of it: it has"
                " shrunk, or this is another log",
                "see docs/audit.md, Restoring",
            )
        _print(row.as_json() for row in _all_from(reader, start))


def _all_from(reader: LogReader, start: int) -> Iterator[Row]:
    """All leaves from an index on, unproven: `audit verify` proves a log."""
    from ...evidence.leaf import Leaf

    for index, entry in enumerate(reader.entries(start, reader.size), start):
        leaf = Leaf.parse(entry)
        yield Row(leaf.time, reader.head.origin, index, leaf)


def _show(options: argparse.Namespace) -> None:
    wanted = wanted_leaf(options)
    reader = open_log(options)
    index, leaf = find_one(reader, wanted)
    row = Row(leaf.time, reader.head.origin, index, leaf)
    if options.json:
        _print(iter([row.as_json()]))
        return
    print_lines([f"log: {row.origin}", f"index: {index}", *_described(json.loads(leaf.encode()))])


def _described(members: dict[str, object], prefix: str = "") -> Iterator[str]:
    """A leaf's members for people, one a line; those of a part with its name before."""
    for name, value in members.items():
        if isinstance(value, dict):
            yield from _described(value, f"{prefix}{name} ")
        elif isinstance(value, list):
            for item in value:
                yield f"{prefix}{name}: {item}"
        elif name == "previous":
            for line in str(value).splitlines():
                yield f"{prefix}{name}: {line}"
        else:
            yield f"{prefix}{name}: {value}"


def wanted_leaf(options: argparse.Namespace) -> int | str:
    """The index or digest that the arguments name. Raises `SigulError`."""
    from ...evidence.matching import sha256_of

    if (options.leaf is None) == (options.of is None):
        raise SigulError("one leaf is needed", "name its INDEX, a DIGEST, or --of FILE")
    found: int | str = sha256_of(options.of) if options.of is not None else options.leaf
    return found


def find_one(reader: LogReader, wanted: int | str) -> tuple[int, Leaf]:
    """The leaf of an index, or the only one that has a digest and was done. Raises `SigulError`."""
    from ...evidence.index import Query, find
    from ...evidence.leaf import Leaf, Result

    if isinstance(wanted, int):
        if wanted >= reader.size:
            raise SigulError(f"the log has {reader.size} leaves, from 0 on, and no leaf {wanted}")
        return wanted, Leaf.parse(reader.entry(wanted))
    # A few are enough to tell that there are several.
    done = list(find(reader, Query(digest=wanted, result=Result.OK, newest_first=True, limit=6)))
    done = done or list(find(reader, Query(digest=wanted, newest_first=True, limit=6)))
    if not done:
        raise SigulError(
            f"no leaf of the log has the SHA-256 {wanted}",
            "name the file that was signed, its signature or the output, as it left the server",
        )
    if len(done) > 1:
        rows = ", ".join(f"{index} of {leaf.time}" for index, leaf in done[:5])
        raise SigulError(
            f"several leaves have this SHA-256, the last ones: {rows}",
            "name one of them by its index",
        )
    return done[0]
