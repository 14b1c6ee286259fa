"""`sigul-stack trace`: the lines of logs that are about one request, put together.

A line is about the request where it has its id; and where it has only the id of the connection that
one line ties to it, in the same file and process. Logs are read once, from the first byte to the
last, and what is kept of them has a limit.

The client chooses the id (`protocol.hello`), so two requests may share one: then each connection's
lines are shown apart, and it is said.
"""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import SigulError, quoted
from .log_lines import Damaged, Line, lines_of, standard_input
from .outcome import print_lines, say
from .shared_arguments import Subparsers, add_command, argument

#: The digits of an id, and the fewest that may stand for all.
_DIGITS: Final = 16
_FEWEST: Final = 4
_ID: Final = re.compile(rf"[0-9a-f]{{{_FEWEST},{_DIGITS}}}")
#: The most that is kept of lines about the request, and of lines that may turn out to be, in bytes.
MAX_KEPT_BYTES: Final = 64 << 20
MAX_PENDING_BYTES: Final = 16 << 20
#: Memory that a line takes beside its text, in bytes.
_LINE_BYTES: Final = 400
#: The most ids that are named where the digits are those of several.
_MOST_NAMED: Final = 10
#: The programs by the first letter of their connections' ids.
_COMPONENTS: Final = {"r": "client", "c": "bridge", "l": "bridge", "w": "server"}


def add_parser(subparsers: Subparsers) -> None:
    """Add the `trace` command."""
    add_command(
        subparsers,
        "trace",
        _trace,
        argument(
            "id",
            metavar="ID",
            help=f"the request's ID, as logs and errors tell it, or its first {_FEWEST} digits or"
            " more",
        ),
        argument(
            "file",
            metavar="FILE",
            nargs="+",
            help="a log of a client, a bridge or a server, in text or JSON, which may be compressed"
            " (gzip); -: standard input",
        ),
        help="put together the lines of logs that are about one request",
        description="Reads logs of clients, bridges and servers, and prints the lines about one"
        " request in the order of time, each behind the name of its file. Says where two requests"
        " have one ID. Exit code 1 where no line is about it.",
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """A line to be shown, its place in the order of time, and its file."""

    when: float
    file: str
    line: Line


#: One connection's lines in one file, before and after it is tied: the process, and its id.
_Key = tuple[str, int | None, str]


@dataclass(slots=True)
class _Trace:
    """The lines about requests whose ids begin with `digits`, as logs are read.

    There is room, in bytes, for lines about them, and for lines that may turn out to be.
    """

    digits: str
    room: int
    pending_room: int
    kept: list[_Kept] = field(default_factory=list)
    read: int = 0
    left_out: int = 0
    #: Lines that have only a connection's id, as long as it is tied to none, the oldest first.
    _pending: OrderedDict[_Key, list[_Kept]] = field(default_factory=OrderedDict)
    #: Connections that are tied to the request.
    _tied: set[_Key] = field(default_factory=set)

    def read_file(self, file: str, lines: Iterator[Line]) -> None:
        """Take what is about the request from a log."""
        when = float("-inf")
        # What `sigul` says of an error stands before the line with the id, and has none itself.
        said: list[Line] = []
        for line in lines:
            self.read += 1
            # A line without a time belongs where it stands.
            when = when if line.when is None else line.when
            kept = _Kept(when, file, line)
            key = (file, line.pid, line.connection)
            if line.request.startswith(self.digits) and line.request:
                for before in said if not line.connection and line.when is None else ():
                    self._keep(_Kept(when, file, before))
                if line.ties:
                    self._tie(key)
                self._keep(kept)
            elif line.ties:
                self._forget(key)
            elif line.connection and not line.request:
                self._take(key, kept)
            said = [*said, line][-2:] if _is_said(line, said) else []

    def _take(self, key: _Key, kept: _Kept) -> None:
        """Take a line that has only its connection's id."""
        if kept.line.begins:
            self._forget(key)
        if key in self._tied:
            self._keep(kept)
            return
        self._pending.setdefault(key, []).append(kept)
        self.pending_room -= _size(kept)
        while self.pending_room < 0:
            self._forget(next(iter(self._pending)))

    def _tie(self, key: _Key) -> None:
        for item in self._forget(key):
            self._keep(item)
        # A client's connections have the same ids in its next run, which no PID tells apart.
        if key[1] is not None:
            self._tied.add(key)

    def _forget(self, key: _Key) -> list[_Kept]:
        """Forget a connection; what its lines were."""
        self._tied.discard(key)
        lines = self._pending.pop(key, [])
        self.pending_room += sum(map(_size, lines))
        return lines

    def _keep(self, kept: _Kept) -> None:
        if self.room < _size(kept):
            self.left_out += 1
            return
        self.room -= _size(kept)
        self.kept.append(kept)


def _size(kept: _Kept) -> int:
    return len(kept.line.shown) + _LINE_BYTES


def _is_said(line: Line, said: Sequence[Line]) -> bool:
    """Whether a line may be what is said of an error, or what explains that behind it."""
    plain = line.when is None and not (line.request or line.connection)
    return plain and (bool(said) or line.shown.lower().startswith("error"))


def _trace(options: argparse.Namespace) -> None:
    digits = options.id.lower()
    if not _ID.fullmatch(digits):
        raise SigulError(
            f"{quoted(options.id, 100)} is no request's ID",
            f"it has {_DIGITS} hexadecimal digits, of which the first {_FEWEST} or more will do",
        )
    trace = _Trace(digits, MAX_KEPT_BYTES, MAX_PENDING_BYTES)
    for name in options.file:
        _read(trace, name)
    ids = sorted({item.line.request for item in trace.kept if item.line.request})
    if not ids:
        raise SigulError(
            f"none of {trace.read} lines in {len(options.file)} files is about request {digits}",
            "give the logs of its time, rotated ones too; daemons tell it at each level, a client"
            " from -v on, and older versions have no such ID",
        )
    if len(ids) > 1:
        more = " and others" if len(ids) > _MOST_NAMED else ""
        raise SigulError(
            f"{len(ids)} requests have IDs that begin with {digits}:"
            f" {', '.join(ids[:_MOST_NAMED])}{more}",
            "give more digits",
        )
    # Stable: where times are the same, lines of a file stay in their order.
    trace.kept.sort(key=lambda item: item.when)
    print_lines(_shown(ids[0], trace.kept))
    if trace.left_out:
        say(
            f"Warning: {trace.left_out} more lines are not shown: give the logs of a shorter time",
            error=True,
        )


def _read(trace: _Trace, name: str) -> None:
    """Read the log `name`. Raises `SigulError` where it cannot be read."""
    try:
        if name == "-":
            trace.read_file("standard input", lines_of(standard_input()))
        else:
            with Path(name).open("rb") as file:
                trace.read_file(name, lines_of(file))
    except Damaged as error:
        say(f"Warning: {quoted(name)} was not read to its end: {error}", error=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SigulError(
            f"the log {quoted(name)} cannot be read: {reason}", "name a log that you may read"
        ) from None


def _shown(request: str, kept: Sequence[_Kept]) -> Iterator[str]:
    """The lines as they are printed."""
    groups = _groups(kept)
    count = _count(kept)
    if count < 2:
        yield from map(_line, kept)
        return
    yield f"{request} is the ID of {count} requests: clients choose it. By connection:"
    for name, lines in groups.items():
        yield ""
        yield f"{name}:"
        yield from map(_line, lines)


def _line(item: _Kept) -> str:
    return f"{item.file}: {item.line.shown}"


def _component(line: Line) -> str:
    return line.component or _COMPONENTS.get(line.connection[:1], "")


def _count(kept: Sequence[_Kept]) -> int:
    """The least number of requests there are: the most connections of one program."""
    found: dict[str, set[object]] = {}
    for item in kept:
        line = item.line
        if line.ties:
            # The same line may be in two of the files.
            one = (line.pid, line.connection, line.when)
            found.setdefault(_component(line), set()).add(one)
    return max(map(len, found.values()), default=0)


def _groups(kept: Sequence[_Kept]) -> dict[str, list[_Kept]]:
    """The lines by connection.

    A line of text has no more than the request's id from the tie on, so it counts as one of the
    connection that its process tied last.
    """
    groups: dict[str, list[_Kept]] = {}
    last: dict[tuple[str, int | None], str] = {}
    for item in kept:
        line = item.line
        process = "" if line.pid is None else f", PID {line.pid}"
        name = f"{item.file}{process}, connection {line.connection}"
        if line.ties:
            last[item.file, line.pid] = name
        elif not line.connection:
            name = last.get((item.file, line.pid), f"{item.file}, connection not known")
        groups.setdefault(name, []).append(item)
    return groups
