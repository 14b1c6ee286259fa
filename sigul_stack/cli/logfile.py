"""A daemon's log file: opened again once it has been moved away, and never a daemon's end.

In a module of its own because only daemons need it; a client starts without.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from io import TextIOWrapper
from pathlib import Path

from ..config.identity import Identity, rights_for
from ..errors import ConfigurationError

#: No link is followed, and a FIFO in the file's place does not hold the daemon up.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LogFile(logging.FileHandler):
    """Appends to the file `path`, which logrotate may move away at any time.

    Some of a daemon's processes stay root while others become `owner`, who may own the file's
    directory: the file is opened with `rights_for` him, each time. What root opens is given to him.

    Where it cannot be opened anew, as when the daemon has given up its privileges and may not enter
    the directory, it goes on with the file that it has. Where it cannot write at all, the message
    is lost; whoever logged it is not stopped.
    """

    def __init__(self, path: Path, owner: Identity | None = None) -> None:
        """Open the file. Raises OSError, and `ConfigurationError` as `rights_for` does."""
        self._path = path.absolute()
        self._owner = owner
        super().__init__(self._path, encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, to a new file if the name means another one now. Never raises."""
        with contextlib.suppress(OSError, ConfigurationError):
            if not self._is_there():
                former, self.stream = self.stream, self._open()
                if former is not None:
                    former.close()
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def _is_there(self) -> bool:
        """Tell whether the name still means the file that is open."""
        if self.stream is None:
            return False
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self.stream.fileno()))
        except FileNotFoundError:
            return False

    def _open(self) -> TextIOWrapper:
        return open(
            self._path,
            "a",
            encoding=self.encoding,
            errors=self.errors,
            opener=lambda _path, _flags: self._descriptor(),
        )

    def _descriptor(self) -> int:
        with rights_for(self._owner, self._path.parent):
            descriptor = os.open(self._path, _FLAGS, 0o640)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "it is no regular file")
                owner = self._owner
                if owner is not None and os.geteuid() == 0 and found.st_uid != owner.uid:
                    os.fchown(descriptor, owner.uid, owner.gid)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor
