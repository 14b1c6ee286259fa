"""Files that appear whole or not at all and outlast a power cut, and locks with a limit.

Errors are the operating system's own, `OSError`: who calls knows what the file means to people.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import SigulError

#: How often a lock that others hold is tried, in seconds.
_LOCK_RETRY_SECONDS: Final = 0.02


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> Iterator[int]:
    """A descriptor of a file or directory; `mode` is what a file that is made here gets."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Have what was written to a file, or which names were changed in a directory, on the disk."""
    with opened(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def whole_file(path: Path, *, replace: bool, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write that becomes `path`, synced, when the block ends; nothing where it raises.

    Its `name` is that of a draft beside `path` with a dot in front, which the block may give to
    another owner. Without `replace`, raises `FileExistsError` where `path` is there by then. The
    drafts of processes that were killed are removed by whoever writes `path` next.
    """
    _remove_abandoned(path)
    file = _draft(path)
    draft = Path(file.name)
    try:
        with file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                # A link, unlike a rename, never replaces what another process put there meanwhile.
                os.link(draft, path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, *, replace: bool, mode: int = 0o600) -> None:
    """Write `content` to a `whole_file`."""
    with whole_file(path, replace=replace, mode=mode) as file:
        file.write(content)


def _draft(path: Path) -> BinaryIO:
    """Make a file beside `path`, locked while this process writes it.

    Not with `tempfile`, which would load the libraries of three compressions into each client.
    """
    while True:
        draft = path.parent / f".{path.name}.{os.urandom(8).hex()}"
        file = open(draft, "xb", opener=_open_for_us)  # noqa: SIM115 - who writes it closes it; Path.open has no opener
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # somebody took it for abandoned, just before it was locked


def _open_for_us(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)


def _remove_abandoned(path: Path) -> None:
    """Remove the drafts of `path` that nobody has locked: who wrote them was killed."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError), opened(draft, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            if try_lock(descriptor):
                draft.unlink()


def try_lock(descriptor: int) -> bool:
    """Lock an open file or directory for as long as it is open, unless somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, seconds: float, error: SigulError, *, make: bool = False) -> Iterator[None]:
    """Hold the lock of a file or directory; with `make` a file that is made where missing.

    Raises `error` where others hold it for `seconds`.
    """
    deadline = time.monotonic() + seconds
    with opened(path, os.O_RDWR | os.O_CREAT if make else os.O_RDONLY) as descriptor:
        while not try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise error
            time.sleep(_LOCK_RETRY_SECONDS)
        yield
