"""Reading a small file whole: a configuration, a password, as whatever it turns out to be.

A FIFO may be one (`-c <(command)`): it is waited for, up to a limit, for nobody may ever write to
it. A device or a terminal is none: it never ends, or waits for somebody to type.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from pathlib import Path
from typing import Final

#: Seconds that whoever writes to a FIFO may take.
FIFO_SECONDS: Final = 10.0
_PIECE_BYTES: Final = 64 * 1024


def read_small(path: Path, most: int) -> bytes:
    """The content of the file `path`; of one with more than `most` bytes, `most` + 1 of them.

    Raises OSError, whose `strerror` says what it is where it is no file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a socket, or a device that is not there") from None
        raise
    try:
        found = os.fstat(descriptor)
        if stat.S_ISBLK(found.st_mode) or (
            stat.S_ISCHR(found.st_mode) and found.st_rdev != Path(os.devnull).stat().st_rdev
        ):
            what = "a terminal" if os.isatty(descriptor) else "a device"
            raise OSError(errno.EINVAL, f"it is {what}, not a file")
        waited = _Fifo(descriptor) if stat.S_ISFIFO(found.st_mode) else None
        content = bytearray()
        while len(content) <= most:
            if waited is not None:
                waited.wait()
            piece = os.read(descriptor, min(_PIECE_BYTES, most + 1 - len(content)))
            if not piece:
                break
            content += piece
        return bytes(content)
    finally:
        os.close(descriptor)


class _Fifo:
    """A FIFO or pipe that is read, with a limit for all of it."""

    def __init__(self, descriptor: int) -> None:
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._end = time.monotonic() + FIFO_SECONDS

    def wait(self) -> None:
        """Wait until there is something to read, or an end. Raises OSError."""
        if not self._poll.poll(max(0.0, self._end - time.monotonic()) * 1000):
            raise OSError(
                errno.ETIMEDOUT,
                f"it is a FIFO, and nobody wrote to it, or closed it, for {FIFO_SECONDS:g} s",
            )
