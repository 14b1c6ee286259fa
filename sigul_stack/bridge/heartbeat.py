"""The heartbeat: a file whose age tells whether the bridge still does its work.

It is there while both ports listen and a process serves them, and written to each time that this
process says that its loop goes round. Nothing writes it by the clock alone: where the loop of that
process or of the parent hangs, it grows old. In it is the Unix time.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from ..config.identity import Identity, rights_for
from ..errors import SigulError
from ..logevents import tell
from .log_events import BridgeLog

log = logging.getLogger(__name__)

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Heartbeat:
    """The file `path`, in a directory that `identity` (None: this user) may own."""

    def __init__(self, path: Path, identity: Identity | None) -> None:
        self._path = path
        self._identity = identity
        self._failed = False

    def beat(self) -> None:
        """Write it. That it cannot be is told once, and ends nothing."""
        try:
            with rights_for(self._identity, self._path.parent):
                descriptor = os.open(self._path, _FLAGS, 0o644)
            try:
                os.write(descriptor, b"%d\n" % time.time())
            finally:
                os.close(descriptor)
        except (OSError, SigulError) as error:
            if not self._failed:
                why = error.strerror if isinstance(error, OSError) else error
                tell(log, BridgeLog.HEARTBEAT_FAILED, path=str(self._path), why=str(why))
            self._failed = True
        else:
            self._failed = False

    def remove(self) -> None:
        """Remove it, if it is there: nothing serves, or not yet."""
        with suppress(OSError, SigulError), rights_for(self._identity, self._path.parent):
            self._path.unlink(missing_ok=True)
