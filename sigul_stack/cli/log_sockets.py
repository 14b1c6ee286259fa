"""The log's lines to the system's log: to journald in its own protocol, and to syslog.

Each line is a datagram to a socket of this machine. Nothing here ends a daemon or holds it up: a
line that the other side does not take in a moment is lost, and from then on nobody waits for it;
the next line that it takes has one before it that says how many were lost (`log-lines-lost`). The
other side may be started again at any time.

A daemon's processes are forked and share the socket, which is all right: each line is a whole
datagram. Each makes its own connection again, and counts what it has lost itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from ..logcontext import LogContext
from ..logevents import Told, Value
from .log_events import ProgramLog
from .log_format import (
    MAX_TRACEBACK,
    LineFormatter,
    context_of,
    cut,
    event_of,
    fields_of,
    traceback_of,
)

#: Where the two listen.
JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
SYSLOG_SOCKET: Final = Path("/dev/log")
#: The priorities that both know.
_PRIORITIES: Final = {
    logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2,
}  # fmt: skip
#: The facility `daemon`, as it stands in a datagram's number.
_DAEMON: Final = 3 << 3
#: The most of a line for syslog, in bytes: rsyslog cuts what has more than 8 KiB.
MAX_SYSLOG: Final = 8000
#: The most of the journal's datagram and of a field of it, in bytes.
MAX_JOURNAL: Final = 60_000
_MAX_MESSAGE: Final = 16_000
_MAX_FIELD: Final = 4000
#: How long a line may wait for room, in seconds: the kernel keeps as few as 10 datagrams, and many
#: lines may come at once. Where that was not enough, no line waits until one is taken again.
ROOM_SECONDS: Final = 0.05
#: What stands besides a field's name and value, in bytes.
_FIELD_BYTES: Final = 10


class SocketHandler(logging.Handler):
    """Sends each line as a datagram to the Unix socket `path`.

    `what` is its name in `log-to`. Raises `ConfigurationError` where nothing listens there at
    first.
    """

    def __init__(self, what: str, path: Path, name: str, formatter: LineFormatter) -> None:
        super().__init__()
        self._path = path
        self._ident = name
        self._lines = formatter
        self.setFormatter(formatter)
        self._socket: socket.socket | None = None
        self._lost = 0
        self._process = os.getpid()
        try:
            self._socket = self._connected()
        except OSError as error:
            raise ConfigurationError(
                f"[logging] log-to has {what}, and nothing takes lines at '{path}':"
                f" {error.strerror or error}",
                f"start what listens there, give a container that socket, or take {what} out",
            ) from error

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line, if it can be sent in a moment. Never raises."""
        if self._process != os.getpid():
            self._process, self._lost = os.getpid(), 0
        try:
            if self._lost and self._send(self.datagram(_of_lost(self._lost))):
                self._lost = 0
            # Behind those that are lost, so that no line stands before what tells of them.
            if self._lost or not self._send(self.datagram(record)):
                self._lost += 1
        except Exception:  # noqa: BLE001 - as logging has it: a line is never anybody's end
            self.handleError(record)

    def datagram(self, record: logging.LogRecord) -> bytes:
        """The bytes that are sent for a record."""
        raise NotImplementedError

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            connection.setblocking(False)
            connection.connect(os.fspath(self._path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _send(self, data: bytes) -> bool:
        """Send a datagram; whether it was taken."""
        # The first time the other side may have been started again since the last line.
        for attempt in range(2):
            try:
                if self._socket is None:
                    self._socket = self._connected()
                self._socket.send(data)
            except BlockingIOError:  # it is there, and has no room
                if attempt or self._lost or not self._has_room():
                    return False
            except OSError:
                self._disconnect()
            else:
                return True
        return False

    def _has_room(self) -> bool:
        """Wait a moment until there may be room; whether there is."""
        waiting = select.poll()
        waiting.register(self._socket or -1, select.POLLOUT)
        return bool(waiting.poll(ROOM_SECONDS * 1000))

    def _disconnect(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._socket = None

    def close(self) -> None:
        """Close the socket."""
        self._disconnect()
        super().close()


class SyslogHandler(SocketHandler):
    """To syslog: `<PRIORITY>NAME[PID]: LINE`, with the line as a file would have it."""

    def __init__(self, name: str, formatter: LineFormatter, path: Path | None = None) -> None:
        super().__init__("syslog", path or SYSLOG_SOCKET, name, formatter)

    def datagram(self, record: logging.LogRecord) -> bytes:
        """The bytes that are sent for a record, with no line break in them."""
        head = f"<{_DAEMON | _priority(record)}>{self._ident}[{record.process}]: ".encode()
        return head + self._lines.within(record, MAX_SYSLOG)


class JournalHandler(SocketHandler):
    """To journald: `MESSAGE` is the line as a file would have it, and each field stands besides.

    A value is told with its length, so that nothing in it can begin another field.
    """

    def __init__(self, name: str, formatter: LineFormatter, path: Path | None = None) -> None:
        super().__init__("journald", path or JOURNAL_SOCKET, name, formatter)

    def datagram(self, record: logging.LogRecord) -> bytes:
        """The bytes that are sent for a record; a field for which there is no room is left out."""
        context = context_of(record)
        fields = {
            "MESSAGE": self._lines.within(record, _MAX_MESSAGE),
            "PRIORITY": b"%d" % _priority(record),
            "SYSLOG_IDENTIFIER": self._ident.encode(),
            "SIGUL_COMPONENT": self._ident.removeprefix("sigul_").encode(),
            "SIGUL_EVENT": event_of(record).encode(),
        }
        if context is not None and context.request:
            fields["SIGUL_REQUEST"] = cut(context.request, _MAX_FIELD)
        if context is not None and context.connection:
            fields["SIGUL_CONNECTION"] = cut(context.connection, _MAX_FIELD)
        if traceback := traceback_of(record):
            fields["SIGUL_TRACEBACK"] = cut(traceback, MAX_TRACEBACK)
        for field, value in fields_of(record).items():
            fields[f"SIGUL_FIELD_{field.upper()}"] = cut(_text(value), _MAX_FIELD)
        parts: list[bytes] = []
        room = MAX_JOURNAL
        for field, data in fields.items():
            room -= len(field) + len(data) + _FIELD_BYTES
            if room < 0:
                break
            parts.append(b"%s\n%s%s\n" % (field.encode(), struct.pack("<Q", len(data)), data))
        return b"".join(parts)


def _text(value: Value) -> str:
    return "" if value is None else str(value)


def _priority(record: logging.LogRecord) -> int:
    """The priority of a record; of a level between ours, that of the one below."""
    return min((p for level, p in _PRIORITIES.items() if level <= record.levelno), default=7)


def _of_lost(count: int) -> logging.LogRecord:
    event = ProgramLog.LOG_LINES_LOST
    told = Told(event, {"count": count})
    record = logging.LogRecord(__name__, event.level, "", 0, told, None, None)
    # It is about no request, whatever this thread works for.
    record.context = LogContext("")
    return record
