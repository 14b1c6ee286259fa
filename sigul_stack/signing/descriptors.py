"""Give programs the caller's files as descriptors, so that bulk data never passes through here.

A source or target is a binary file object. A program reads and writes a real
file directly; anything else (`io.BytesIO`, a pipe as target) goes through anonymous memory, and
is meant for what is small. What a target had before stays, and on any failure it is as before.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol, runtime_checkable

from ..system.programs import memory_file


@runtime_checkable
class Watched(Protocol):
    """A file that wants to know while a program writes to it, and may refuse to grow further."""

    def grown(self) -> None:
        """Look at the size; what it raises ends the program."""
        ...


def watch_of(target: IO[bytes]) -> Callable[[], None] | None:
    """A function to call while a program writes to `target`; None where it is not `Watched`."""
    return target.grown if isinstance(target, Watched) else None


def descriptor_of(file: IO[bytes]) -> int | None:
    """The descriptor behind `file`, if there is one."""
    try:
        return file.fileno()
    except (AttributeError, OSError):
        return None


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


@contextmanager
def input_descriptor(source: IO[bytes]) -> Iterator[int]:
    """A descriptor that gives what `source` has from its present position on."""
    descriptor = descriptor_of(source)
    if descriptor is None:
        with memory_file(source.read()) as descriptor:
            yield descriptor
        return
    if source.seekable():
        # The file object may have read ahead.
        os.lseek(descriptor, source.tell(), os.SEEK_SET)
    yield descriptor


@contextmanager
def output_descriptor(target: IO[bytes]) -> Iterator[int]:
    """A descriptor to write `target` through, from its present position on.

    If the block fails, nothing of what was written there is left.
    """
    descriptor = descriptor_of(target)
    target.flush()
    if descriptor is not None and _is_regular(descriptor):
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            yield descriptor
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
        finally:
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            target.seek(end)
        return
    with memory_file() as descriptor:
        yield descriptor
        os.lseek(descriptor, 0, os.SEEK_SET)
        with open(descriptor, "rb", closefd=False) as copy:
            shutil.copyfileobj(copy, target)


def bytes_left(descriptor: int) -> int:
    """Number of bytes that a file's descriptor still gives; 0 for a pipe, which does not say."""
    if not _is_regular(descriptor):
        return 0
    return max(0, os.fstat(descriptor).st_size - os.lseek(descriptor, 0, os.SEEK_CUR))
