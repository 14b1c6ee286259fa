"""A program's standard streams, closed, full or without a reader as its caller may have left them.

What cannot be written is lost without an exception, and `lost_output` tells of it at the end.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from pathlib import Path
from typing import Final, TextIO

from ..errors import SigulError

#: What is told of a standard output that fails in these ways, and what to do about it.
_REASONS: Final = {
    errno.EBADF: (
        "standard output is closed, and there was output for it (Bad file descriptor)",
        "open it, or direct it to /dev/null where nobody wants the output",
    ),
    errno.EPIPE: (
        "standard output did not take all of the output: Broken pipe",
        "have the program that reads it read to the end",
    ),
}

#: The first and last descriptor that are standard ones, plus one.
_FIRST_OTHER: Final = 3


class _Output(io.FileIO):
    """Standard output or error: what it cannot take is lost, and `failure` says why."""

    failure: OSError | None = None

    def write(self, data: object) -> int | None:  # type: ignore[override]
        """Write some of `data`, or lose it; how many bytes are done with."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.failure = self.failure or error
            return len(memoryview(data))  # type: ignore[arg-type]


def open_standard_streams() -> None:
    """Have the three standard streams, whatever the caller has closed."""
    occupy_standard_descriptors()
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - a descriptor, for good
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)


def _stream(number: int, old: TextIO | None) -> TextIO:
    raw = _Output(number, "w", closefd=False)
    raw.name = "<stdout>" if number == 1 else "<stderr>"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if old is None else old.encoding,
        errors="backslashreplace" if old is None else old.errors,
        line_buffering=number == 2 or raw.isatty(),
    )


def occupy_standard_descriptors() -> None:
    """Have descriptors 0, 1 and 2 taken, each failing at its use where the caller closed it.

    Else the next file or connection would get the number, and what is meant for standard output.
    """
    for descriptor in range(_FIRST_OTHER):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)


def detach_standard_descriptors() -> None:
    """Have descriptors 0, 1 and 2 lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(_FIRST_OTHER):
        os.dup2(null, descriptor)
    if null >= _FIRST_OTHER:
        os.close(null)


def close_inherited_descriptors() -> None:
    """Close all descriptors but the standard ones: for a daemon that has not opened any yet.

    Whoever waits for the end of a pipe, or for a lock, that its caller had open would wait as long
    as the daemon lives.
    """
    try:
        found = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    except OSError:
        os.closerange(_FIRST_OTHER, os.sysconf("SC_OPEN_MAX"))
        return
    for descriptor in found:
        if descriptor >= _FIRST_OTHER:
            with contextlib.suppress(OSError):  # the listing's own is closed by now
                os.close(descriptor)


def output_failed(error: OSError) -> SigulError:
    """The error for a standard output that failed with `error`."""
    problem, cure = _REASONS.get(
        error.errno or 0,
        (
            f"standard output did not take all of the output: {error.strerror or error}",
            "make room there",
        ),
    )
    return SigulError(problem, cure, errno.errorcode.get(error.errno or 0, ""))


def lost_output() -> OSError | None:
    """Write what is left of the output; why not all of it could be written, None where it was."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # another stream, in a test
            stream.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Output) else None
