"""Storage for a payload while it is worked on: memory for small ones, else a nameless file.

Neither outlives its process, however that ends. What is written is hashed on the way. A disk that
fills up does not end the request: the rest is taken and forgotten, so that the client can be told.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)


class Spool:
    """A payload being received, of `length` bytes."""

    def __init__(self, length: int, *, in_memory_limit: int, directory: Path | None) -> None:
        self._hash = hashlib.sha512()
        #: Why nothing more is stored, to tell the client; None while all is well.
        self.failure: str | None = None
        try:
            self.file: BinaryIO = (
                scratch_memory() if length <= in_memory_limit else scratch_file(directory)
            )
        except OSError as error:
            self.file = scratch_memory()
            self._fail(error)

    def write(self, piece: bytes) -> None:
        """Add a piece of the payload."""
        self._hash.update(piece)
        if self.failure is not None:
            return
        try:
            # The file is unbuffered: a write may take less than all, for one last time before the
            # disk is full.
            left = memoryview(piece)
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            self._fail(error)
            self.file.seek(0)
            self.file.truncate()

    def _fail(self, error: OSError) -> None:
        log.error("Storing the payload failed: %s", error.strerror)
        self.failure = f"the server cannot store the payload: {error.strerror}"

    def finish(self) -> bytes:
        """Make the file ready to be read from its start; return the payload's SHA-512."""
        if self.failure is None:
            self.file.seek(0)
        return self._hash.digest()


def scratch_memory() -> BinaryIO:
    """An empty file in memory, which a program can be given as its input or output."""
    return os.fdopen(os.memfd_create("sigul-payload", os.MFD_CLOEXEC), "w+b", buffering=0)


def scratch_file(directory: Path | None) -> BinaryIO:
    """An empty file without a name in `directory` (None: the system's for temporary files)."""
    return tempfile.TemporaryFile("w+b", buffering=0, dir=directory)
