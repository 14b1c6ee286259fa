"""A daemon's log file: opened again once it has been moved away, and never a daemon's end.

In a module of its own because only daemons need `logging.handlers`, which takes time to import.
"""

from __future__ import annotations

import contextlib
import logging
from logging.handlers import WatchedFileHandler


class LogFile(WatchedFileHandler):
    """Appends to a file, which logrotate may move away at any time.

    Where that cannot be looked at, as when the daemon has given up its privileges and may not enter
    the directory, it goes on with the file that it has. Where it cannot write at all, the message
    is lost; whoever logged it is not stopped.
    """

    def reopenIfNeeded(self) -> None:
        """Open the file anew if its name means another one now."""
        with contextlib.suppress(OSError):
            super().reopenIfNeeded()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message. Never raises."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)
