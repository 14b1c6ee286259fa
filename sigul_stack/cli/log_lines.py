"""Reading logs of client, bridge and server: lines of text and of JSON, one by one.

    daemons     TIME LEVEL [PID] {ID} text            something may stand before (syslog, a journal)
    the client  LEVEL: {ID} text
    JSON        {"time": …, "level": …, "pid": …, "request": …, "connection": …, "text": …, …}

A log may hold anything: it comes from elsewhere, and peers' words are in it. So whatever a line is,
it is a line, of at most so many bytes; nothing of it is believed but its form.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, cast

from ..errors import SigulError
from ..protocol.hello import is_request_id

#: Longest line that is looked at, in bytes; the rest of a longer one is passed over.
MAX_LINE_BYTES: Final = 256 * 1024
#: Stands behind what was cut.
_CUT: Final = b" ..."
_GZIP: Final = b"\x1f\x8b"

_STAMP: Final = r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)"
_LEVEL: Final = r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)"
_ABOUT: Final = r"(?:\{(?P<about>[0-9A-Za-z.-]{1,64})\} )?"
_CLIENT: Final = re.compile(rf"{_LEVEL}: {_ABOUT}(?P<text>.*)", re.DOTALL)
_DAEMON: Final = re.compile(
    rf"{_STAMP} {_LEVEL} \[(?P<pid>\d{{1,10}})\] {_ABOUT}(?P<text>.*)", re.DOTALL
)
#: The line that ties a connection to its request (`transport.log_events`).
_TIE: Final = re.compile(r"Request ([0-9a-f]{16}) is on connection ([0-9A-Za-z.-]{1,64})")
_TIE_EVENT: Final = "request-id"
#: The first lines about a connection: what has its id before is about another one.
_BEGINNINGS: Final = (
    "[BRIDGE_REQUEST] Client connected",
    "[BRIDGE_REQUEST] Server TCP connection accepted",
)
#: What `sigul` says behind an error.
_SAID: Final = re.compile(r"Request ID: ([0-9a-f]{16})")


class Damaged(SigulError):
    """A compressed log is not what it was made as."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log.

    `shown` is how a person is to see it, not yet escaped. `when` is in seconds since 1970, None
    where it has no time that there is. `request` and `connection` are its ids, empty where it has
    none; `ties` says that it is the line which ties them. `begins`: the first about a connection.
    """

    shown: str
    when: float | None = None
    pid: int | None = None
    request: str = ""
    connection: str = ""
    component: str = ""
    ties: bool = False
    begins: bool = False


def lines_of(file: BinaryIO) -> Iterator[Line]:
    """The lines of a log, which may be compressed by gzip. Raises `Damaged`, OSError."""
    head = file.peek(len(_GZIP)) if hasattr(file, "peek") else b""
    # Concatenated and cut files, as logrotate leaves them, are read as far as they go.
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if head[:2] == _GZIP else file
    try:
        for data in _pieces(stream):
            yield parse(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Damaged(
            f"it is compressed, and damaged: {error}",
            "what is before the damage is here; is it a whole file?",
        ) from None


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while data := file.readline(MAX_LINE_BYTES):
        rest, cut = data, b""
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
            cut = _CUT if rest else cut
        yield data.removesuffix(b"\n").removesuffix(b"\r") + cut


def parse(data: bytes) -> Line:
    """A line without its end, whatever it is."""
    text = data.decode("utf-8", "backslashreplace")
    if data.startswith(b"{"):
        line = _of_json(text)
        if line is not None:
            return line
    if said := _SAID.fullmatch(text):
        return Line(text, request=said[1])
    # The client's first: in its text there may be what looks like a daemon's line, and before a
    # daemon's there is nothing of a peer's.
    found = _CLIENT.match(text) or _DAEMON.search(text)
    if found is None:
        return Line(text)
    named = found.groupdict()
    request, connection = _ids(named["about"] or "")
    words = named["text"]
    tie = _TIE.fullmatch(words)
    if tie is not None and tie[1] == request:
        connection = tie[2]
    pid = named.get("pid")
    return Line(
        text,
        when=_seconds(named.get("time")),
        pid=None if pid is None else int(pid),
        request=request,
        connection=connection,
        ties=tie is not None and tie[1] == request,
        begins=words.startswith(_BEGINNINGS),
    )


def _of_json(text: str) -> Line | None:
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None

    def word(name: str) -> str:
        value = members.get(name)
        return value if isinstance(value, str) else ""

    pid = members.get("pid")
    pid = pid if type(pid) is int and 0 <= pid < 1 << 32 else None
    request, connection = word("request"), word("connection")
    if not is_request_id(request):
        request = ""
    about = request or connection
    head = [word("time"), word("level"), "" if pid is None else f"[{pid}]"]
    shown = " ".join(filter(None, (*head, f"{{{about}}}" if about else "", word("text"))))
    return Line(
        shown or text,
        when=_seconds(members.get("time")),
        pid=pid,
        request=request,
        connection=connection,
        component=word("component"),
        ties=word("event") == _TIE_EVENT and bool(request and connection),
        begins=word("text").startswith(_BEGINNINGS),
    )


def _ids(about: str) -> tuple[str, str]:
    """A request's id and a connection's, of which one is there at most."""
    return (about, "") if is_request_id(about) else ("", about)


def _seconds(time: Any) -> float | None:
    """The seconds since 1970 of a time in ISO 8601; None where it is none."""
    if not isinstance(time, str):
        return None
    try:
        when = datetime.fromisoformat(time)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def standard_input() -> BinaryIO:
    """The log on standard input."""
    return sys.stdin.buffer
