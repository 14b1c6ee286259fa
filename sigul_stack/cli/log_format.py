"""The forms of a line of the log: of a client, of a daemon, and in JSON.

    client   LEVEL: {ID} text
    daemon   TIME LEVEL [PID] {ID} text           TIME in UTC
    JSON     {"time": …, "level": …, "component": …, "pid": …, "event": …, "request": …,
              "connection": …, "text": …, "fields": {…}, "traceback": …}

An ID is the request's where there is one, else the connection's. A line of JSON is ASCII, and has
its members in that order; `request`, `connection` and `traceback` only where there is one. What
other libraries tell is the event `library`.

Whatever a message holds, a line is a line: line breaks and control characters, which may come from
a peer, are escaped, in tracebacks too; and what JSON holds of one value has a limit.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any, Final

from ..errors import printable
from ..logcontext import LogContext, current
from ..logevents import Told, Value, bounded

#: The event of what is none of ours.
LIBRARY: Final = "library"
#: The most of one string, and of a traceback, that a line of JSON has, in characters.
MAX_TEXT: Final = 1000
MAX_TRACEBACK: Final = 8000
#: The most of one string where a line has to be shorter, in characters: the first that does.
_SHORTER: Final = (MAX_TEXT, 200, 20)


def context_of(record: logging.LogRecord) -> LogContext | None:
    """The subject of a record: what it was kept with, else what this thread works for."""
    # A record that was kept may be shown while this thread works for another request.
    kept: LogContext | None = getattr(record, "context", None)
    return kept or current()


def _about(record: logging.LogRecord) -> str:
    """`{REQUEST} `, or nothing where a record is about none."""
    request = str(context_of(record) or "")
    return f"{{{request}}} " if request else ""


def time_of(record: logging.LogRecord) -> str:
    """The time at which a record was made, in UTC: `2024-05-06T07:08:09.123Z`."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{when}.{int(record.msecs):03d}Z"


def cut(text: str, size: int) -> bytes:
    """`text` in UTF-8, at most `size` bytes, no character in part; then it ends in `...`."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= size:
        return data
    return data[: size - 3].decode("utf-8", "ignore").encode() + b"..."


class LineFormatter(logging.Formatter):
    """A format whose lines can be held below a size."""

    def within(self, record: logging.LogRecord, size: int) -> bytes:
        """One line without its end, at most `size` bytes, which are 8,000 or more."""
        return cut(self.format(record), size)


class ClientFormatter(LineFormatter):
    """`LEVEL: text`; a traceback only where `tracebacks` is true, else its message has to do."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        return printable(f"{record.levelname}: {_about(record)}{super().format(record)}")

    def formatException(self, ei: Any) -> str:
        """The traceback, or nothing."""
        return super().formatException(ei) if self._tracebacks else ""


class DaemonFormatter(LineFormatter):
    """`TIME LEVEL [PID] {REQUEST} text`, for example
    `2024-05-06T07:08:09.123Z INFO [4711] {5f3a} [BRIDGE_REQUEST] Client connected`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        return printable(
            f"{time_of(record)} {record.levelname} [{record.process}]"
            f" {_about(record)}{super().format(record)}"
        )


class JSONFormatter(LineFormatter):
    """One object a line. `component` is the program's part: `bridge`, `server`, `client`."""

    def __init__(self, component: str, *, tracebacks: bool = True) -> None:
        super().__init__()
        self._component = component
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        return self._line(record, MAX_TEXT, tracebacks=self._tracebacks)

    def within(self, record: logging.LogRecord, size: int) -> bytes:
        """As `LineFormatter.within`: what is cut are its values, so that it stays an object."""
        line = self.format(record)
        for limit in _SHORTER:
            if len(line) <= size:
                break
            line = self._line(record, limit, tracebacks=False)
        return line.encode("ascii")

    def _line(self, record: logging.LogRecord, limit: int, *, tracebacks: bool) -> str:
        context = context_of(record)
        line: dict[str, Any] = {
            "time": time_of(record),
            "level": record.levelname,
            "component": self._component,
            "pid": record.process,
            "event": event_of(record),
        }
        if context is not None and context.request:
            line["request"] = bounded(context.request, limit)
        if context is not None and context.connection:
            line["connection"] = bounded(context.connection, limit)
        line["text"] = bounded(printable(record.getMessage()), limit)
        line["fields"] = {name: _plain(value, limit) for name, value in fields_of(record).items()}
        traceback = traceback_of(record) if tracebacks else ""
        if traceback:
            line["traceback"] = bounded(traceback, MAX_TRACEBACK)
        # What is no value of a field is a mistake; the line is told all the same.
        import json

        return json.dumps(line, allow_nan=False, default=lambda value: bounded(str(value), limit))


def event_of(record: logging.LogRecord) -> str:
    """The stable name of a record's event."""
    return record.msg.event.event if isinstance(record.msg, Told) else LIBRARY


def fields_of(record: logging.LogRecord) -> dict[str, Value]:
    """A record's fields and their values."""
    return record.msg.fields if isinstance(record.msg, Told) else {"logger": record.name}


def traceback_of(record: logging.LogRecord) -> str:
    """A record's traceback in several lines; empty where it has none."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    text = logging.Formatter().formatException(record.exc_info)
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Value, limit: int) -> Value:
    """A value as JSON can have it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return bounded(value.encode("utf-8", "backslashreplace").decode(), limit)
    return value
