"""The source of a request's payload: a file from its position on, or bytes.

It is read while it is sent, once for each try, and has to be the same file all that time. Its
SHA-256, which a server's signing log tells, is made on the way where there may be such a log; else
by reading it once more, for the first reply that shows one.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable
from typing import BinaryIO

from ..errors import SigulError
from ..transport.chunked import ChunkedStream
from ..transport.payload import payload_pieces, send_pieces


def written_state(found: os.stat_result) -> tuple[int, int]:
    """The part of a file's state that changes with each write."""
    return (found.st_size, found.st_mtime_ns)


def _state(source: BinaryIO) -> tuple[int, int] | None:
    """The `written_state` of a plain file; None for what is none."""
    try:
        found = os.fstat(source.fileno())
    except OSError:  # it is in memory
        return None
    return written_state(found) if stat.S_ISREG(found.st_mode) else None


def _length(source: BinaryIO, start: int) -> int:
    """The bytes of a file from `start` on, where it is left. Raises `SigulError`."""
    try:
        total = source.seek(0, os.SEEK_END) - start
        source.seek(start)
    except OSError as error:
        raise SigulError(
            f"the input's length cannot be told: {error.strerror}", "give a plain file, or a pipe"
        ) from error
    return total


class Source:
    """The payload of one request, from the file's position on; `total` is its length in bytes.

    Raises `SigulError` where that cannot be told.
    """

    def __init__(self, payload: BinaryIO | bytes) -> None:
        self._file = io.BytesIO(payload) if isinstance(payload, bytes) else payload
        self._start = self._file.tell()
        self.total = _length(self._file, self._start)
        self._state = _state(self._file)
        self._digest: str | None = None

    @property
    def name(self) -> str:
        """The file's name; empty where it has none."""
        name = getattr(self._file, "name", None)
        return name if isinstance(name, str) else ""

    def send(
        self, chunked: ChunkedStream, advance: Callable[[int], None], *, with_sha256: bool
    ) -> bytes:
        """Send all of it, which may be done again; return its SHA-512.

        Raises `SigulError` where it has changed since.
        """
        digest, further = hashlib.sha512(), hashlib.sha256()
        self._file.seek(self._start)
        for piece in payload_pieces(self._file, self.total):
            # Both hashes while the processor has it at hand.
            if with_sha256:
                further.update(piece)
            send_pieces(chunked, [piece], digest)
            advance(len(piece))
        if with_sha256:
            self._digest = further.hexdigest()
        if _state(self._file) != self._state:
            raise SigulError(
                "the input file was changed while it was being sent",
                "nothing was signed: try again once nobody writes to it, or give a copy",
            )
        return digest.digest()

    def sha256(self) -> str | None:
        """The SHA-256 of what was sent, in hexadecimal; None where the file is another one now."""
        if self._digest is None:
            digest = hashlib.sha256()
            try:
                self._file.seek(self._start)
                for piece in payload_pieces(self._file, self.total):
                    digest.update(piece)
            except (OSError, SigulError):
                return None
            if _state(self._file) != self._state:
                return None
            self._digest = digest.hexdigest()
        return self._digest
