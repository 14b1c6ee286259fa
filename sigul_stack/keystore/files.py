"""Files in directories of keys: each appears whole or not at all, and one change at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from ..errors import KeystoreError

#: How often a lock that others hold is tried, in seconds.
_LOCK_POLL = 0.02


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate what the operating system says about a key store in `path`."""
    try:
        yield
    except OSError as error:
        raise KeystoreError(
            f"the key store in {path} failed: {error}", "check the disk, and who may write there"
        ) from error


def sync(path: Path) -> None:
    """Have what was written to a file, or what was done in a directory, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a new file. Raises `FileExistsError` if there is one already, and other `OSError`.

    While it is written its name has a dot in front and a random part behind.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as temporary:
        temporary.write(content)
        temporary.flush()
        os.fchmod(temporary.fileno(), mode)
        os.fsync(temporary.fileno())
        # A link, unlike a rename, never replaces what another process put there meanwhile.
        os.link(temporary.name, path)
    sync(path.parent)


@contextmanager
def locked(directory: Path, time_limit: float) -> Iterator[None]:
    """Hold the lock that every change to the keys in `directory` takes.

    Raises `KeystoreError` if others hold it for `time_limit` seconds.
    """
    with opened_directory(directory) as descriptor:
        lock(
            descriptor,
            time_limit,
            f"another request has been changing keys in {directory} for {time_limit:g} s",
            "try again later",
        )
        yield


def lock(descriptor: int, time_limit: float, problem: str, cure: str) -> None:
    """Lock an open file or directory for as long as it is open.

    Raises `KeystoreError` with that problem and cure if others hold it for `time_limit` seconds.
    """
    deadline = time.monotonic() + time_limit
    while not try_lock(descriptor):
        if time.monotonic() >= deadline:
            raise KeystoreError(problem, cure)
        time.sleep(_LOCK_POLL)


@contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """A descriptor of a directory, to lock it with."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or directory for as long as it is open, if nobody else has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
