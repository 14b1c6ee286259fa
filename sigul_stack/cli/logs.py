"""Setting up logging: where its lines go, and in which of the forms of `log_format`.

* The client: on standard error. Given `-v` twice, as scripts give it, it is silent as
  long as nothing is wrong: what it has to tell is kept, and told behind an error.
* A daemon: on standard error, in a file `NAME.log` of a directory, which may be moved away at any
  time (logrotate), to journald, or to syslog; to several of them, as `[logging]` and the options
  say.

Only these functions set logging up, and only when called.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from ..errors import ConfigurationError
from ..logcontext import current
from .log_format import ClientFormatter, DaemonFormatter, JSONFormatter, LineFormatter

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


def set_up_client(verbosity: int, stream: TextIO, *, json: bool = False) -> None:
    """Log to `stream` as the client does; `verbosity` is how often `-v` was given."""
    shown = logging.StreamHandler(stream)
    tracebacks = verbosity >= KEEPING
    shown.setFormatter(
        JSONFormatter("client", tracebacks=tracebacks)
        if json
        else ClientFormatter(tracebacks=tracebacks)
    )
    _install([shown, *([_Kept(shown)] if verbosity == KEEPING else [])], CLIENT_LEVELS, verbosity)


def set_up_daemon(
    name: str,
    verbosity: int,
    *,
    stream: TextIO | None,
    directory: Path | None,
    owner: Identity | None = None,
    json: bool = False,
    sockets: Collection[str] = (),
) -> None:
    """Log as a daemon does: to `stream`, to `NAME.log` in `directory`, each where given, and to
    `sockets`, of `journald` and `syslog`. In lines of text, or of JSON.

    A log file belongs to `owner`, so that every process of the daemon can write to it. Raises
    `ConfigurationError` where the file cannot be written, or nothing listens at a socket.
    """
    form = JSONFormatter(name.removeprefix("sigul_")) if json else DaemonFormatter()
    handlers: list[logging.Handler] = []
    if stream is not None:
        handlers.append(logging.StreamHandler(stream))
    if directory is not None:
        handlers.append(_file_handler(directory / f"{name}.log", owner))
    if sockets:
        handlers += _socket_handlers(name, form, sockets)
    for handler in handlers:
        handler.setFormatter(form)
    _install(handlers, DAEMON_LEVELS, verbosity)


def _socket_handlers(
    name: str, form: LineFormatter, sockets: Collection[str]
) -> list[logging.Handler]:
    from .log_sockets import JournalHandler, SyslogHandler

    makers = {"journald": JournalHandler, "syslog": SyslogHandler}
    return [makers[what](name, form) for what in dict.fromkeys(sockets)]


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
