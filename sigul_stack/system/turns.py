"""Turns at something of which a machine can do only one at a time, between processes and threads.

A `Turns` is made before processes are forked. Whoever wants a turn waits in the line of the name
that it works for, and the first of each line for the turn itself: many who wait for one name keep
another one waiting no longer than one of them would. Locks are POSIX record locks on a file in
memory that all inherit, so that they go with their process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import SigulError

#: How often a lock that others hold is tried, in seconds.
_RETRY_SECONDS: Final = 0.02
#: Offset of the turn's own lock; lines have those behind it.
_TURN: Final = 0
_LINES: Final = 1 << 30


class Turns:
    """One turn, and lines of those who want it."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("sigul-turns", os.MFD_CLOEXEC)
        # Record locks are a process's, and do not tell its threads apart.
        self._threads = threading.Lock()

    def __del__(self) -> None:
        os.close(self._descriptor)

    @contextmanager
    def turn(self, line: int, seconds: float, error: SigulError) -> Iterator[None]:
        """Have the turn while the block lasts; `line` is a number for the name that it is for.

        Raises `error` where it does not come in `seconds`. A process has one turn at a time.
        """
        deadline = time.monotonic() + seconds
        if not self._threads.acquire(timeout=seconds):
            raise error
        try:
            with (
                self._locked(1 + line % _LINES, deadline, error),
                self._locked(_TURN, deadline, error),
            ):
                yield
        finally:
            self._threads.release()

    @contextmanager
    def _locked(self, offset: int, deadline: float, error: SigulError) -> Iterator[None]:
        while not self._try_lock(offset):
            if time.monotonic() >= deadline:
                raise error
            time.sleep(_RETRY_SECONDS)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset)

    def _try_lock(self, offset: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except (BlockingIOError, PermissionError):
            return False
        return True
