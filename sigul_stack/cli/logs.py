"""Setting up logging: the destinations, and the format of a line.

* The client: `LEVEL: text` on standard error; `LEVEL: {REQUEST} text` while it works on a request,
  with the id of that (`logcontext`). Given `-v` twice, as scripts give it, it is silent as
  long as nothing is wrong: what it has to tell is kept, and told behind an error.
* A daemon: one event a line, `TIME LEVEL [PID] {REQUEST} text`, with the time in UTC and the
  request's id where there is one, else the connection's; on standard error in the foreground, in a
  file `NAME.log` where a directory is given. The file may be moved away at any time (logrotate).

Whatever a message holds, a line is a line: line breaks and control characters, which may come from
a peer, are escaped, in tracebacks too. Only these functions set logging up, and only when called.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from ..errors import ConfigurationError, printable
from ..logcontext import current

if TYPE_CHECKING:
    from ..config.identity import Identity

#: What the client logs at `-v` given 0, 1, 2 or 3 times.
CLIENT_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG, logging.DEBUG)
#: The number of times that `-v` is given to have what is no warning kept for an error.
KEEPING: Final = 2
#: The most that is kept, in lines; the last ones are.
MAX_KEPT: Final = 1000
#: What a daemon logs at `-v` given 0, 1 or 2 times; each request leaves its marks at INFO.
DAEMON_LEVELS = (logging.INFO, logging.INFO, logging.DEBUG)


def _about(record: logging.LogRecord) -> str:
    """`{REQUEST} `, or nothing where a record is about none."""
    # A record that was kept may be shown while this thread works for another request.
    request = str(getattr(record, "context", None) or current() or "")
    return f"{{{request}}} " if request else ""


class ClientFormatter(logging.Formatter):
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


class DaemonFormatter(logging.Formatter):
    """`TIME LEVEL [PID] {REQUEST} text`, for example
    `2024-05-06T07:08:09.123Z INFO [4711] {5f3a} [BRIDGE_REQUEST] Client connected`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return printable(
            f"{when}.{int(record.msecs):03d}Z {record.levelname} [{record.process}]"
            f" {_about(record)}{super().format(record)}"
        )


class _Kept(logging.Handler):
    """Keeps what is no warning until `tell`, for `shown`, which is for the rest alone."""

    def __init__(self, shown: logging.Handler) -> None:
        super().__init__()
        self._shown = shown
        self._records: deque[logging.LogRecord] = deque(maxlen=MAX_KEPT)
        shown.setLevel(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, unless it is shown at once."""
        if record.levelno < self._shown.level:
            record.context = current()
            self._records.append(record)

    def tell(self) -> None:
        """Show all that was kept."""
        while self._records:
            self._shown.handle(self._records.popleft())


def tell_kept() -> None:
    """Have told what the client's log has kept, for something is wrong."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Kept):
            handler.tell()


def set_up_client(verbosity: int, stream: TextIO) -> None:
    """Log to `stream` as the client does; `verbosity` is how often `-v` was given."""
    shown = logging.StreamHandler(stream)
    shown.setFormatter(ClientFormatter(tracebacks=verbosity >= 2))
    _install([shown, *([_Kept(shown)] if verbosity == KEEPING else [])], CLIENT_LEVELS, verbosity)


def set_up_daemon(
    name: str,
    verbosity: int,
    *,
    stream: TextIO | None,
    directory: Path | None,
    owner: Identity | None = None,
) -> None:
    """Log as a daemon does: to `stream` and to `NAME.log` in `directory`, each where given.

    A log file belongs to `owner`, so that every process of the daemon can write to it. Raises
    `ConfigurationError` where the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if stream is not None:
        handlers.append(logging.StreamHandler(stream))
    if directory is not None:
        handlers.append(_file_handler(directory / f"{name}.log", owner))
    for handler in handlers:
        handler.setFormatter(DaemonFormatter())
    _install(handlers, DAEMON_LEVELS, verbosity)


def _file_handler(path: Path, owner: Identity | None) -> logging.Handler:
    from .logfile import LogFile

    try:
        return LogFile(path, owner)
    except OSError as error:
        user = "" if owner is None else f", which user {owner.uid} must be able to write to"
        raise ConfigurationError(
            f"the log file '{path}' cannot be written: {error.strerror or error}",
            f"make its directory{user}, or name another with --internal-log-dir=DIR",
        ) from error


def _install(handlers: list[logging.Handler], levels: tuple[int, ...], verbosity: int) -> None:
    # The libraries' own messages stay at warnings: what they tell below that may hold secrets.
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger("sigul_stack").setLevel(levels[min(verbosity, len(levels) - 1)])
    logging.captureWarnings(True)
