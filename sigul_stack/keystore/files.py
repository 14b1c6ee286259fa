"""Files that appear whole or not at all, and last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from ..errors import KeystoreError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate what the operating system says about a key store in `path`."""
    try:
        yield
    except OSError as error:
        raise KeystoreError(
            f"the key store in {path} failed: {error}; check the disk, and who may write there"
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
